#!/usr/bin/env python3
"""Measure a push that has a week to make up for: its memory, its time, and that it comes to an end.

    scripts/bench_backlog.py [--sessions 1000] [--days 7]

All VMs have lived so long, and nothing was ever delivered. One of them is made as rondo-store makes
it; the others' slabs are links to its slabs, so that they cost no room, and no time to make. The
receiver is one that takes everything: what is measured is the sender. Its peak is the one that the
kernel has noted for that process alone (VmHWM, proc(5)).
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from filled_store import Life, fill  # noqa: E402
from sink import Sink  # noqa: E402

from rondo_tools.catalog import COUNTER, SERIES  # noqa: E402
from rondo_tools.stream import Header  # noqa: E402

BAR_MIB = 150
HOUR_S = 3600

# rondo-push, which says at its end how much memory it had at most.
PUSH = """
import re, sys
from rondo_tools.push.cli import main
status = main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
sys.exit(status)
"""


def lives(sessions: int, seconds: int, end_ms: int) -> Iterator[Life]:
    """VMs that live side by side: counters that climb, gauges that tremble."""
    random = np.random.default_rng(1)
    begin_ms = end_ms - (seconds - 1) * 1000
    values = random.normal(5000, 300, (seconds, len(SERIES))).round(3)
    values[random.random(seconds) < 0.2, 5] = np.nan
    counters = [at for at, series in enumerate(SERIES) if series.kind == COUNTER]
    values[:, counters] = np.cumsum(random.integers(0, 5000, (seconds, len(counters))), axis=0)
    for number in range(sessions):
        header = Header(f"vm-{number}", begin_ms - 500, (("zone", "a"),), 1000, SERIES)
        yield Life(header, begin_ms + 1000 * np.arange(seconds), values)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure a push of a long backlog.")
    parser.add_argument("--sessions", type=int, default=1000, help="VMs (default: 1000)")
    parser.add_argument("--hours", type=float, default=1, help="that nothing was delivered (default: 1)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rondo-bench-") as name, Sink() as sink:
        folder, now_ms = Path(name), time.time_ns() // 1_000_000
        seconds = round(arguments.hours * HOUR_S)
        fill(folder, lives(arguments.sessions, seconds, now_ms // 1000 * 1000 - 10_000))
        samples = arguments.sessions * seconds * len(SERIES)
        before = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-c", PUSH, folder, "--remote-write", sink.write_url, "--backfill", "-v"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        out, err = process.communicate()
        wall = time.monotonic() - before
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        said = re.search(rb"(\d+) samples? sent, 0 rejected, 0 unclear", err)
        if process.returncode or said is None or int(said[1]) != samples:
            print(f"not all of {samples} samples were delivered: {err.decode()}", file=sys.stderr)
            return 1
    peak = int(out) / 1024
    cpu = usage.ru_utime + usage.ru_stime
    print(f"{arguments.hours:g} hours of {arguments.sessions} VMs, {samples:,} samples, in one push")
    print(f"  {sink.requests:,} requests; {wall:.0f} s, of which {cpu:.0f} s of CPU")
    is_held = peak < BAR_MIB
    print(f"  memory at its peak: {peak:.0f} MiB (bar: {BAR_MIB} MiB, {'held' if is_held else 'MISSED'})")
    return 0 if is_held else 1


if __name__ == "__main__":
    sys.exit(main())
