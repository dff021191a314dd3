"""Lives of five seconds, the VMs that rondo is for: the cost of the store and of a first delivery.

scripts/bench.py lives [--lives N]       20,000 by default, twenty begin each second
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.measure import command_cpu_s, disk_bytes, program
from bench.report import Report, run_part
from devtools.receivers.sink import Sink
from rondo_tools import stream
from rondo_tools.catalog import SERIES
from rondo_tools.stream import End, Header, Tick

TICKS = 5
A_SECOND = 20  # lives that begin each second


def messages(lives: int, end_ms: int, a_second: int = A_SECOND) -> Iterator[bytes]:
    """The streams of all lives in sequence; `a_second` begin each second."""
    random = np.random.default_rng(1)
    for number in range(lives):
        start_ms = end_ms - TICKS * 1000 - (lives - number) * 1000 // a_second
        yield stream.encode(Header(f"job-{number:06d}", start_ms, (("zone", "a"),), 1000, SERIES))
        for tick in range(1, TICKS + 1):
            yield stream.encode(Tick(start_ms + 1000 * tick, random.random(len(SERIES)).tobytes()))
        yield stream.encode(End("poweroff", start_ms + 1000 * TICKS))


def main(report: Report, arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench.py lives", description="Measure lives of five seconds.")
    parser.add_argument("--lives", type=int, default=20_000, help="their number (default: 20000)")
    count = parser.parse_args(arguments).lives
    with tempfile.TemporaryDirectory(prefix="rondo-bench-") as name, Sink() as sink:
        store, data = Path(name) / "store", Path(name) / "stream"
        with data.open("wb") as file:
            file.writelines(messages(count, time.time_ns() // 1_000_000))
        start_s = command_cpu_s(program("rondo-store", Path(name) / "empty", "-q"))
        stored_s = command_cpu_s(program("rondo-store", store, "-q"), data) - start_s
        of = f"a life of {TICKS} ticks, from a file"
        report.row(f"{of}, rolled up and described", stored_s / count * 1000, "ms of CPU", at_most=0.12)
        at_first, journals = disk_bytes(store), disk_bytes(store / "tier_0")
        later = at_first - journals - disk_bytes(store / "tier_1")
        report.row(f"{of}: on the disk at first", at_first / count / 1000, "kB", at_most=3)
        report.row(
            f"{of}: on the disk after six hours, without journals and tier 1", later / count / 1000, "kB",
            at_most=1.5,
        )  # fmt: skip
        files = sum(file.is_file() for file in store.rglob("*"))
        report.row(f"files of a store with {count:,} lives", files)
        push = ("rondo-push", store, "--remote-write", sink.write_url, "--no-health", "-q")
        first_s = command_cpu_s(program(*push, "--backfill"))
        first_s -= command_cpu_s(program(*push))
        report.row(
            f"first delivery of {count:,} ended sessions, start-up apart", first_s, "s of CPU", at_most=3
        )
        size = (store / "cursor_prometheus.json").stat().st_size
        report.row("the cursor, with nothing in flight", size, "bytes", at_most=4096)


if __name__ == "__main__":
    sys.exit(run_part(main))
