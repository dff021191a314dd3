"""The cost of a push of an undelivered hour: its memory and its time.

    scripts/bench.py backlog [--sessions 300] [--hours 1]

The receiver accepts everything, so only the sender is measured. Its peak is the kernel's for that process
(VmHWM, proc(5)).
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.report import Report, run_part
from devtools.filled_store import Life, fill
from devtools.receivers.sink import Sink
from rondo_tools.catalog import COUNTER, SERIES
from rondo_tools.stream import Header

BAR_MIB = 150
HOUR_S = 3600

# rondo-push, which prints its peak of memory at the end.
PUSH = """
import re, sys
from rondo_tools.push.cli import main
status = main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
sys.exit(status)
"""


def lives(sessions: int, seconds: int, end_ms: int) -> Iterator[Life]:
    """VMs at the same time, with growing counters and fluctuating gauges."""
    random = np.random.default_rng(1)
    begin_ms = end_ms - (seconds - 1) * 1000
    values = random.normal(5000, 300, (seconds, len(SERIES))).round(3)
    values[random.random(seconds) < 0.2, 5] = np.nan
    counters = [at for at, series in enumerate(SERIES) if series.kind == COUNTER]
    values[:, counters] = np.cumsum(random.integers(0, 5000, (seconds, len(counters))), axis=0)
    for number in range(sessions):
        header = Header(f"vm-{number}", begin_ms - 500, (("zone", "a"),), 1000, SERIES)
        yield Life(header, begin_ms + 1000 * np.arange(seconds), values)


def main(report: Report, arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench.py backlog", description="Measure a push of a long backlog.")
    parser.add_argument("--sessions", type=int, default=300, help="VMs (default: 300)")
    parser.add_argument("--hours", type=float, default=1, help="undelivered hours (default: 1)")
    own = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="rondo-bench-") as name, Sink() as sink:
        folder, now_ms = Path(name), time.time_ns() // 1_000_000
        seconds = round(own.hours * HOUR_S)
        fill(folder, lives(own.sessions, seconds, now_ms // 1000 * 1000 - 10_000))
        samples = own.sessions * seconds * len(SERIES)
        before = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-c", PUSH, folder, "--remote-write", sink.write_url, "--backfill", "-v"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = process.communicate()
        wall = time.monotonic() - before
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)  # of this push: there was no other child
        summary = re.search(rb"(\d+) samples? sent, 0 rejected, 0 unclear", err)
        if process.returncode or summary is None or int(summary[1]) != samples:
            raise RuntimeError(f"not all of {samples} samples were delivered: {err.decode()}")
    of = f"a push of {own.hours:g} h of {own.sessions} VMs, {samples:,} samples"
    report.row(of, wall, "s")
    report.row(f"{of}: of it CPU", usage.ru_utime + usage.ru_stime, "s")
    report.row(f"{of}: requests", sink.requests)
    report.row(f"{of}: memory at its peak", int(out) / 1024, "MiB", at_most=BAR_MIB)


if __name__ == "__main__":
    sys.exit(run_part(main))
