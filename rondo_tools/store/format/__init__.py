"""Store format 2, without I/O: names, frames, schemas, tiers, roll-up, `state.json`, the cursor."""
