"""The cost of a refresh of rondo-query top, for a store of many VMs with a tick a second each.

scripts/bench.py top [--vms 1000] [--seconds 20]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.measure import command_cpu_s, least, process_cpu_s, program, resident_bytes
from bench.report import Report, run_part
from devtools.terminal_host import TerminalHost
from rondo_tools.catalog import CPU, SERIES
from rondo_tools.store.opened import OpenStore
from rondo_tools.store.reader import Store
from rondo_tools.stream import Header
from rondo_tools.view.fleet import Fleet

PAST_S = 120
A_TURN = 20  # ticks written at once, like rondo-store with ticks spread over the second
ROUNDS = 3
TOP_BAR_S, LOOK_BAR_S = 0.15, 0.1


class Host:
    """A store with `vms` VMs, `past_s` seconds of each; `tick` adds one to each."""

    def __init__(self, store: OpenStore, vms: int, past_s: int = PAST_S) -> None:
        series = SERIES + CPU
        start_ms = time.time_ns() // 1_000_000 - past_s * 1000
        self.headers = [Header(f"vm-{number:05}", start_ms, (), 1000, series) for number in range(vms)]
        self._keeper = store.keeper
        self._sessions = [self._keeper.begin(header, owner=self) for header in self.headers]
        self._random = np.random.default_rng(1)
        self._values = np.zeros((vms, len(series)))
        for second in range(1, past_s):
            self.tick(start_ms + second * 1000)

    def grown(self) -> list[bytes]:
        """The values of each VM's next tick."""
        self._values += self._random.random(self._values.shape) * 100
        return [row.tobytes() for row in self._values]

    def tick(self, t_ms: int) -> None:
        rows = self.grown()
        for at in range(0, len(rows), A_TURN):
            for session, row in zip(self._sessions[at : at + A_TURN], rows[at : at + A_TURN], strict=True):
                self._keeper.append(session, t_ms, row)
            self._keeper.flush()


def main(report: Report, arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench.py top", description="Measure rondo-query top.")
    parser.add_argument("--vms", type=int, default=1000, help="(default: 1000)")
    parser.add_argument("--seconds", type=int, default=20, help="for each figure (default: 20)")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="rondo-bench-") as name:
        path = Path(name) / "store"
        with OpenStore(path) as store:
            host = Host(store, given.vms)
            of = f"{given.vms:,} VMs"
            fleet = Fleet(Store(path))
            first_s = cpu_s(lambda: fleet.look(time.time_ns() // 1_000_000))
            looks_s = []
            for _ in range(given.seconds):
                host.tick(time.time_ns() // 1_000_000)
                looks_s.append(cpu_s(lambda: fleet.look(time.time_ns() // 1_000_000)))
                time.sleep(0.01)  # two ticks of a VM must have different times
            report.row(f"the first look at {of}", first_s, "s of CPU")
            report.row(
                f"a look at {of}, a tick of each since the one before",
                sum(looks_s) / len(looks_s),
                "s of CPU",
                at_most=LOOK_BAR_S,
            )
            on_a_terminal(report, path, host, given.seconds, of)
            once = program("rondo-query", path, "-q", "top", "--once", "-n", "10")
            report.row(
                f"top --once of {of}, start-up included",
                least(ROUNDS, lambda: command_cpu_s(once)),
                "s of CPU",
            )


def on_a_terminal(report: Report, path: Path, host: Host, seconds: int, of: str) -> None:
    command = program("rondo-query", path, "top")
    with TerminalHost(command, 200, 50, {"OPENBLAS_NUM_THREADS": "1"}) as shown:
        shown.until(lambda text: "q quit" in text)
        pid = shown.process.pid
        host.tick(time.time_ns() // 1_000_000)
        before_s, shown.written[:] = process_cpu_s(pid), b""
        begin_s = time.monotonic()
        for second in range(1, seconds + 1):
            while (left_s := begin_s + second - time.monotonic()) > 0:
                shown.take(left_s)
            host.tick(time.time_ns() // 1_000_000)
        took_s = time.monotonic() - begin_s
        used_s, memory = process_cpu_s(pid) - before_s, resident_bytes(pid)
    report.row(
        f"top of {of} on a terminal of 200 x 50: a second", used_s / took_s, "s of CPU", at_most=TOP_BAR_S
    )
    report.row("the same: written to the terminal in a second", len(shown.written) / took_s / 1000, "kB")
    report.row("the same: memory", memory / 1e6, "MB")


def cpu_s(work: Callable[[], object]) -> float:
    before_s = time.process_time()
    work()
    return time.process_time() - before_s


if __name__ == "__main__":
    sys.exit(run_part(main))
