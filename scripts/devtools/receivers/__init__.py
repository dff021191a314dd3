"""Remote-write receivers: real ones, and our own."""
