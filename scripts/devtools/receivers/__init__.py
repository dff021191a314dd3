"""Remote-write receivers: real ones, and those of our own."""
