#!/usr/bin/env python3
"""Measure lives of five seconds, the VMs that rondo is for: what the store, a list and a delivery cost.

scripts/bench_lives.py [--lives N]       20,000 by default, twenty begin each second; bars in brackets
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sink import Sink

from rondo_tools import stream
from rondo_tools.catalog import SERIES
from rondo_tools.stream import End, Header, Tick

ROOT = Path(__file__).resolve().parent.parent
TICKS = 5
A_SECOND = 20  # lives that begin


def messages(lives: int, end_ms: int) -> Iterator[bytes]:
    """The streams of all lives, one after another."""
    random = np.random.default_rng(1)
    for number in range(lives):
        start_ms = end_ms - TICKS * 1000 - (lives - number) * 1000 // A_SECOND
        yield stream.encode(Header(f"job-{number:06d}", start_ms, (("zone", "a"),), 1000, SERIES))
        for tick in range(1, TICKS + 1):
            yield stream.encode(Tick(start_ms + 1000 * tick, random.random(len(SERIES)).tobytes()))
        yield stream.encode(End("poweroff", start_ms + 1000 * TICKS))


def cpu_s(command: str, *arguments: str | Path, stdin: Path | None = None) -> float:
    """CPU time, user and system, of one of rondo's commands."""
    with (stdin or Path(os.devnull)).open("rb") as standard_input:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, ROOT / "bin" / command, *arguments],
            stdin=standard_input, stdout=subprocess.DEVNULL, check=True,
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def disk_bytes(folder: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure lives of five seconds.")
    parser.add_argument("--lives", type=int, default=20_000, help="how many (default: 20000)")
    count = parser.parse_args().lives
    with tempfile.TemporaryDirectory(prefix="rondo-bench-") as name, Sink() as sink:
        store, data = Path(name) / "store", Path(name) / "stream"
        with data.open("wb") as file:
            file.writelines(messages(count, time.time_ns() // 1_000_000))
        start_s = cpu_s("rondo-store", Path(name) / "empty", "-q")
        stored_s = cpu_s("rondo-store", store, "-q", stdin=data) - start_s
        journals = disk_bytes(store / "tier_0")
        print(f"{count:,} lives of {TICKS} ticks of {len(SERIES)} series, CPU time; bars in brackets")
        each_us = stored_s / count * 1e6
        print(f"  stored from a file, rolled up and described: {each_us:.0f} us a life (120)")
        print(
            f"  on the disk: {disk_bytes(store) / count:,.0f} bytes a life at first (3,000), "
            f"{(disk_bytes(store) - journals - disk_bytes(store / 'tier_1')) / count:,.0f} "
            "when journals and the 10 s tier are gone (1,500)"
        )
        again_s = cpu_s("rondo-store", store, "-q") - start_s
        print(f"  the store's start with all of them remembered: {again_s:.2f} s more than empty (1)")
        help_s = cpu_s("rondo-query", "--help")
        list_s, since_s = (cpu_s("rondo-query", store, "list", *more) for more in ((), ("--since", "1h")))
        print(f"  rondo-query list: {list_s - help_s:.2f} s, list --since 1h: {since_s - help_s:.2f} s")
        push = ("rondo-push", store, "--remote-write", sink.write_url, "--no-health", "-q")
        first_s = cpu_s(*push, "--backfill")
        idle_s = cpu_s(*push)
        print(f"  first delivery: {first_s - idle_s:.2f} s in {sink.requests} requests (3 for 20,000)")
        print(f"  a push with nothing new, start-up included: {idle_s:.2f} s (0.25)")
        size = (store / "cursor_prometheus.json").stat().st_size
        print(f"  the cursor: {size} bytes (4,096)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
