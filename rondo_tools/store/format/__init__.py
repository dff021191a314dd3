"""Store format 2: names, frames, schemas, tiers, roll-up, `state.json`, the cursor."""
