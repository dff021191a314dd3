#!/usr/bin/env python3
"""Measure rondo-push's encoder: samples a CPU-second, and bytes a sample on the wire.

    scripts/bench_push.py [--sessions 100] [--rounds 5]

The samples are those of VMs with the 16 series of the catalogue: counters that climb, gauges that
tremble, some without a value. Only encoding and compressing is timed; best of the rounds, for the
machine may be busy with other things.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from rondo_tools.catalog import COUNTER, SERIES
from rondo_tools.push.batch import Block
from rondo_tools.push.encode import decode, encode
from rondo_tools.push.labels import sent_labels
from rondo_tools.stream import Header

MAX_SAMPLES = 10_000  # rondo-push's own default for one request


def blocks(sessions: int, rows: int) -> list[Block]:
    """What `rows` seconds of so many VMs look like."""
    random = np.random.default_rng(1)
    made = []
    for number in range(sessions):
        header = Header(f"vm-{number}", 1_732_300_000_000, (("zone", "a"),), 1000, SERIES)
        values = np.empty((rows, len(SERIES)))
        for at, series in enumerate(SERIES):
            if series.kind == COUNTER:
                values[:, at] = np.cumsum(random.integers(0, 5000, rows))
            else:
                values[:, at] = random.normal(5000, 300, rows).round(3)
        values[random.random(rows) < 0.2, 5] = np.nan
        t_ms = header.start_ms + 1000 * np.arange(1, rows + 1)
        made.append(Block(SERIES, sent_labels(header, "rondo-vmm", {}), t_ms, values))
    return made


def requests(all_blocks: list[Block]) -> list[list[Block]]:
    """As many blocks in each as fit in one request."""
    each = max(1, MAX_SAMPLES // all_blocks[0].values.size)
    return [all_blocks[at : at + each] for at in range(0, len(all_blocks), each)]


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure rondo-push's encoder.")
    parser.add_argument("--sessions", type=int, default=100, help="VMs (default: 100)")
    parser.add_argument("--rounds", type=int, default=5, help="best of so many (default: 5)")
    arguments = parser.parse_args()
    print("push: encode and compress, one CPU")
    print(f"{'rows a VM':>10} {'samples':>10} {'M samples/CPU-s':>16} {'bytes a sample':>15} {'requests':>9}")
    for rows in (10, 60, 600):
        batches = requests(blocks(arguments.sessions, rows))
        samples = sum(block.values.size for batch in batches for block in batch)
        best = float("inf")
        for _ in range(arguments.rounds):
            before = time.process_time()
            bodies = [encode(batch) for batch in batches]
            best = min(best, time.process_time() - before)
        arrived = sum(len(series.samples) for body in bodies for series in decode(body).timeseries)
        if arrived != samples:
            print(f"{arrived} samples of {samples} arrived", file=sys.stderr)
            return 1
        size = sum(map(len, bodies)) / samples
        print(f"{rows:>10} {samples:>10} {samples / best / 1e6:>16.2f} {size:>15.2f} {len(bodies):>9}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
