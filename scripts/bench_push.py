#!/usr/bin/env python3
"""Measure rondo-push's encoder: samples a CPU-second, and bytes a sample on the wire.

    scripts/bench_push.py [--sessions 100] [--rounds 5]

The samples are those of VMs with the 16 series of the catalogue: counters that climb, gauges that
tremble, some without a value. Only encoding and compressing is timed; best of the rounds, for the
machine may be busy with other things. The plain way is protobuf's `add`, in the same run; both are
decoded and compared.
"""

from __future__ import annotations

import argparse
import math
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from rondo_tools.catalog import COUNTER, SERIES
from rondo_tools.push.batch import Block
from rondo_tools.push.encode import STALE_NAN, compress, decode, encode
from rondo_tools.push.labels import sent_labels
from rondo_tools.push.proto.remote_write_v1_pb2 import WriteRequest
from rondo_tools.stream import Header

STALE = struct.unpack("<d", struct.pack("<Q", STALE_NAN))[0]
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


def plain(batch: list[Block]) -> bytes:
    """The same request the plain way: protobuf's own `add`, sample by sample."""
    request = WriteRequest()
    for block in batch:
        for labels, column in zip(block.labels, block.values.T.tolist(), strict=True):
            series = request.timeseries.add()
            for name, value in labels:
                series.labels.add(name=name, value=value)
            for t_ms, value in zip(block.t_ms.tolist(), column, strict=True):
                series.samples.add(value=STALE if math.isnan(value) else value, timestamp=t_ms)
    return compress(request)


def cpu_s(work: Callable[[], object], rounds: int) -> float:
    """CPU time of the quickest of so many rounds."""
    best = float("inf")
    for _ in range(rounds):
        before = time.process_time()
        work()
        best = min(best, time.process_time() - before)
    return best


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure rondo-push's encoder.")
    parser.add_argument("--sessions", type=int, default=100, help="VMs (default: 100)")
    parser.add_argument("--rounds", type=int, default=5, help="best of so many (default: 5)")
    arguments = parser.parse_args()
    print("push: encode and compress, one CPU")
    names = ("rows a VM", "samples", "M samples/CPU-s", "x the plain way", "bytes a sample", "requests")
    print(" ".join(f"{name:>15}" for name in names))
    for rows in (10, 60, 600):
        batches = requests(blocks(arguments.sessions, rows))
        samples = sum(block.values.size for batch in batches for block in batch)
        bodies = [encode(batch) for batch in batches]
        best = cpu_s(lambda batches=batches: [encode(batch) for batch in batches], arguments.rounds)
        some = batches[:10]
        share = sum(block.values.size for batch in some for block in batch) / samples
        slow = cpu_s(lambda some=some: [plain(batch) for batch in some], 2) / share
        if any(
            decode(plain(batch)).SerializeToString() != decode(body).SerializeToString()
            for batch, body in zip(some, bodies, strict=False)
        ):
            print("the two ways differ", file=sys.stderr)
            return 1
        size = sum(map(len, bodies)) / samples
        speed, times = f"{samples / best / 1e6:.2f}", f"{slow / best:.1f}"
        figures = (rows, samples, speed, times, f"{size:.2f}", len(bodies))
        print(" ".join(f"{figure:>15}" for figure in figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
