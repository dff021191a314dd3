"""The benches: each module is a part of scripts/bench.py."""
