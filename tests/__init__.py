"""The tests: a folder for each package of rondo_tools, and for what stands beside it (docs/testing.md)."""
