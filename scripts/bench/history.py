"""A week in a store: its size on the disk, and the cost of reading one VM of many.

    scripts/bench.py history [--vms 1000 10000]

The week is simulated, with a roll-up every five minutes. The size is that of one VM with a tick a second. For
reading, many VMs have a tick every five minutes, and every ten seconds in the last six hours: the coarse
tiers then have the same rows as with a tick a second.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np

from bench.measure import command_cpu_s, disk_bytes, least, program
from bench.report import Report, run_part
from devtools.filled_store import Life, fill
from rondo_tools.catalog import SERIES
from rondo_tools.store.opened import OpenStore
from rondo_tools.stream import Header

WINDOW_S = 300
DAYS, HOURS = 7, 6
ROUNDS = 5
BAR_MB, BAR_READ_S = 1.5, 0.1


def main(report: Report, arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench.py history", description="Measure a week in a store.")
    parser.add_argument(
        "--vms", type=int, nargs="+", default=[1000, 10_000], help="VMs (default: 1000 10000)"
    )
    counts = parser.parse_args(arguments).vms
    with tempfile.TemporaryDirectory(prefix="rondo-bench-") as name, no_waits():
        Week(Path(name), 1).live(tick_s=lambda _: 1)
        report.row(f"one VM for a week, a tick a second, {len(SERIES)} series: on the disk",
                   disk_bytes(Path(name)) / 1e6, "MB", at_most=BAR_MB)  # fmt: skip
    for vms in counts:
        with tempfile.TemporaryDirectory(prefix="rondo-bench-") as name:
            with no_waits():
                Week(Path(name), vms).live(tick_s=lambda left_s: 10 if left_s <= HOURS * 3600 else WINDOW_S)
            for tier, what in ((2, f"{DAYS} days at 5 min"), (1, f"{HOURS} h at 10 s")):
                read_s = read_cpu_s(Path(name), vms // 2, tier) - start_up_s(tier)
                report.row(f"one VM of {vms:,}, a series of {what}, start-up apart", read_s, "s of CPU",
                           at_most=BAR_READ_S)  # fmt: skip


def read_cpu_s(store: Path, number: int, tier: int) -> float:
    """CPU time of the command that prints one series of one VM."""
    selector = f'vmm_rss_bytes{{instance="vm-{number}"}}'
    read = program("rondo-query", store, "read", selector, "--tier", str(tier), "--format", "csv")
    return least(ROUNDS, lambda: command_cpu_s(read))


def start_up_s(tier: int) -> float:
    """The same for a store with one tick."""
    with tempfile.TemporaryDirectory(prefix="rondo-bench-") as name:
        one_tick(Path(name))
        return read_cpu_s(Path(name), 0, tier)


def one_tick(store: Path) -> None:
    now_ms = time.time_ns() // 1_000_000
    header = Header("vm-0", now_ms - 1000, (), 1000, SERIES)
    fill(store, [Life(header, np.array([now_ms]), np.ones((1, len(SERIES))))])


class Week:
    """VMs in a store at `path`, all up to now, by a simulated clock."""

    def __init__(self, path: Path, vms: int) -> None:
        self._path, self._vms = path, vms
        self._begin_ms = (time.time_ns() // 1_000_000 - DAYS * 86_400_000) // 300_000 * 300_000
        self._now_ms = self._begin_ms
        self._values = [row.tobytes() for row in np.random.default_rng(1).random((WINDOW_S, len(SERIES)))]

    def live(self, tick_s: Callable[[int], int]) -> None:
        """Write the week; `tick_s` returns the seconds between ticks for the seconds left."""
        with OpenStore(
            self._path,
            now_ms=lambda: self._now_ms,
            clock=lambda: self._now_ms / 1000,
        ) as store:
            keeper = store.keeper
            sessions = [
                keeper.begin(Header(f"vm-{number}", self._begin_ms, (), 1000, SERIES), owner=store)
                for number in range(self._vms)
            ]
            for first in range(0, DAYS * 86_400, WINDOW_S):
                step = tick_s(DAYS * 86_400 - first)
                for second in range(first + step, first + WINDOW_S + 1, step):
                    t_ms, values = self._begin_ms + second * 1000, self._values[second % WINDOW_S]
                    for session in sessions:
                        keeper.append(session, t_ms, values)
                    keeper.flush()
                self._now_ms += WINDOW_S * 1000
                keeper.end_journal()
                store.keep_house()


@contextmanager
def no_waits() -> Iterator[None]:
    """Do not sync: the store is only read afterwards."""
    with mock.patch.object(os, "fsync"), mock.patch.object(os, "fdatasync"):
        yield


if __name__ == "__main__":
    sys.exit(run_part(main))
