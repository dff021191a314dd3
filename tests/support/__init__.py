"""What tests share: hosts, receivers and stores of theirs, oracles, and programs that they run."""
