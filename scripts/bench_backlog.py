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
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from sink import Sink  # noqa: E402

from rondo_tools.catalog import COUNTER, SERIES  # noqa: E402
from rondo_tools.push.drain import Drain  # noqa: E402
from rondo_tools.push.labels import sent_labels  # noqa: E402
from rondo_tools.store.block import Block  # noqa: E402
from rondo_tools.store.reader import Store  # noqa: E402
from rondo_tools.store.writer import StoreWriter  # noqa: E402
from rondo_tools.stream import Header  # noqa: E402

BAR_MIB = 150
DAY_S = 86_400
PIECE = 10_000  # ticks stored at once

# rondo-push, which says at its end how much memory it had at most.
PUSH = """
import re, sys
from rondo_tools.push.cli import main
status = main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
sys.exit(status)
"""


def first_session(folder: Path, seconds: int, end_ms: int) -> None:
    """A VM of so many seconds, the last of them at `end_ms`: counters that climb, gauges that tremble."""
    random = np.random.default_rng(1)
    begin_ms = end_ms - (seconds - 1) * 1000
    counters = [at for at, series in enumerate(SERIES) if series.kind == COUNTER]
    reached = np.zeros(len(counters))
    with StoreWriter(folder) as store:
        session = store.open(Header("vm-0", begin_ms - 500, (("zone", "a"),), 1000, SERIES))
        for first in range(0, seconds, PIECE):
            count = min(PIECE, seconds - first)
            values = random.normal(5000, 300, (count, len(SERIES))).round(3)
            values[random.random(count) < 0.2, 5] = np.nan
            climbed = reached + np.cumsum(random.integers(0, 5000, (count, len(counters))), axis=0)
            values[:, counters], reached = climbed, climbed[-1]
            session.ring.extend(Block(begin_ms + 1000 * np.arange(first, first + count), values))
        session.close()


def link_others(folder: Path, sessions: int) -> None:
    """The other VMs: the first one's life, under names of their own."""
    (first,) = Store(folder).sessions()
    description = json.loads((first.path / "session.json").read_bytes())
    for number in range(1, sessions):
        path = folder / "instances" / f"vm-{number}" / first.path.name
        path.mkdir(parents=True)
        for slab in first.path.glob("*.slab"):
            os.link(slab, path / slab.name)
        description["header"]["instance"] = f"vm-{number}"
        (path / "session.json").write_text(json.dumps(description))


def owed(folder: Path, now_ms: int) -> int:
    """How many samples the one session of a store has to deliver."""
    drain = Drain(Store(folder), lambda header: sent_labels(header, "rondo-vmm", {}))
    return sum(batch.samples for batch in drain.batches({}, now_ms))


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure a push of a long backlog.")
    parser.add_argument("--sessions", type=int, default=1000, help="VMs (default: 1000)")
    parser.add_argument("--days", type=float, default=7, help="that they have lived (default: 7)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rondo-bench-") as name, Sink() as sink:
        folder, now_ms = Path(name), time.time_ns() // 1_000_000
        first_session(folder, round(arguments.days * DAY_S), now_ms // 1000 * 1000 - 10_000)
        samples = owed(folder, now_ms) * arguments.sessions
        link_others(folder, arguments.sessions)
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
    print(f"{arguments.days:g} days of {arguments.sessions} VMs, {samples:,} samples, in one push")
    print(f"  {sink.requests:,} requests; {wall:.0f} s, of which {cpu:.0f} s of CPU")
    is_held = peak < BAR_MIB
    print(f"  memory at its peak: {peak:.0f} MiB (bar: {BAR_MIB} MiB, {'held' if is_held else 'MISSED'})")
    return 0 if is_held else 1


if __name__ == "__main__":
    sys.exit(main())
