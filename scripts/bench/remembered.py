"""The cost of a start, a list and an idle push, for a store with many ended sessions, and for one with
undelivered hours.

    scripts/bench.py remembered [--lives 100000]    one begins each second
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.history import no_waits, one_tick
from bench.lives import messages
from bench.measure import command_cpu_s, least, program
from bench.report import Report, run_part
from devtools.receivers.sink import Sink
from rondo_tools.catalog import SERIES
from rondo_tools.store.format.cursor import Position, Progress, pack_progress
from rondo_tools.store.opened import OpenStore
from rondo_tools.stream import Header

ROUNDS = 3
HOURS, VMS = 6, 100
WINDOW_S = 300


def main(report: Report, arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench.py remembered", description="Measure stores that remember.")
    parser.add_argument("--lives", type=int, default=100_000, help="ended sessions (default: 100000)")
    count = parser.parse_args(arguments).lives
    with tempfile.TemporaryDirectory(prefix="rondo-bench-") as name:
        folder = Path(name)
        start_s = cpu_s(program("rondo-store", folder / "empty", "-q"))
        ended(report, folder, count, start_s)
        journals = undelivered(folder / "undelivered")
        began_s = command_cpu_s(program("rondo-store", folder / "undelivered", "-q")) - start_s
        what = f"rondo-store's start with {HOURS} h of {VMS} VMs undelivered"
        report.row(f"{what}: the journals", journals / 1e6, "MB")
        report.row(f"{what}, start-up apart", began_s, "s of CPU", at_most=1)


def cpu_s(command: list[str]) -> float:
    return least(ROUNDS, lambda: command_cpu_s(command))


def ended(report: Report, folder: Path, count: int, start_s: float) -> None:
    one_tick(folder / "small")
    store, data = folder / "store", folder / "stream"
    with data.open("wb") as file:
        file.writelines(messages(count, time.time_ns() // 1_000_000, a_second=1))
    command_cpu_s(program("rondo-store", store, "-q"), data)
    of = f"{count:,} ended sessions"
    again_s = cpu_s(program("rondo-store", store, "-q"))
    report.row(
        f"rondo-store's start with {of}, start-up apart", max(0.0, again_s - start_s), "s of CPU", at_most=1
    )
    for flags, bar in (((), 1.0), (("--since", "1h"), 0.3)):
        listed_s, start_up_s = (
            cpu_s(program("rondo-query", one, "list", *flags)) for one in (store, folder / "small")
        )
        words = " ".join(("rondo-query list", *flags))
        report.row(f"{words} of {of}, start-up apart", listed_s - start_up_s, "s of CPU", at_most=bar)
    with Sink() as sink:
        push = program("rondo-push", store, "--remote-write", sink.write_url, "--no-health", "-q")
        command_cpu_s(push)
        idle_s = cpu_s(push)
    what = f"a push with nothing new, as cron starts it, with {of}, start-up included"
    report.row(what, idle_s, "s of CPU", at_most=0.25)


def undelivered(path: Path) -> int:
    """Make a store whose cursor is at its start; returns the bytes of its journals."""
    now_ms = begin_ms = (time.time_ns() // 1_000_000 - HOURS * 3_600_000) // 300_000 * 300_000
    values = np.random.default_rng(1).random((WINDOW_S, len(SERIES)))

    def clock_ms() -> int:
        return now_ms

    with no_waits(), OpenStore(path, now_ms=clock_ms, clock=lambda: now_ms / 1000) as store:
        keeper, layout = store.keeper, store.keeper.folder.layout
        sessions = [
            keeper.begin(Header(f"vm-{number}", begin_ms, (), 1000, SERIES), owner=store)
            for number in range(VMS)
        ]
        cursor = Progress(store=keeper.folder.store_id.hex(), begin=Position(1, bytes(8), 40))
        layout.cursor("prometheus").write_bytes(pack_progress(cursor, None))
        for first in range(1, HOURS * 3600, WINDOW_S):
            t_ms = begin_ms + 1000 * np.arange(first, first + WINDOW_S)
            for session in sessions:
                keeper.extend(session, t_ms, values)
                keeper.gathered += values.nbytes
                keeper.bound_turn()
            now_ms += WINDOW_S * 1000
            store.keep_house()  # not of the last five minutes, which are left to the start
            keeper.end_journal()
    return sum(file.stat().st_size for file in (path / "tier_0").iterdir())


if __name__ == "__main__":
    sys.exit(run_part(main))
