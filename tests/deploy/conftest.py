"""A Prometheus that a real host with several VMs has filled, once for all tests of this folder."""

from __future__ import annotations

import math
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from fleet import PATIENCE_S, Host
from grafana import Range
from prometheus import Prometheus
from victoria import victoria

from rondo_tools.store.reader import Store

ROOT = Path(__file__).resolve().parent.parent.parent
RULES = ROOT / "deploy" / "rules" / "rondo.yml"


class Life(NamedTuple):
    """A session in the store: its first and last tick, and when it is known to be over, in Unix seconds.

    A VM that was killed, so that it could not say its end, is over when the next of its name is there.
    """

    instance: str
    first_s: float
    last_s: float
    uptime_s: float
    over_s: float = math.inf


class Filled(NamedTuple):
    """`shown` ends when one VM was still running; `lives` is what the store says of that time.

    `url` is that of the Prometheus; a VictoriaMetrics at `victoria_url` was filled from the same store.
    """

    url: str
    victoria_url: str
    shown: Range
    lives: list[Life]


def lives_of(store: Path) -> list[Life]:
    found: list[Life] = []
    for session in Store(store).sessions():  # by instance, oldest first
        names = [series.name for series in session.header.series]
        if "vmm_uptime_seconds" in names:
            rows = session.rows()
            if not len(rows.t_ms):
                continue
            uptime_s = float(rows.values[-1, names.index("vmm_uptime_seconds")])
            first_s, last_s = (int(rows.t_ms[at]) / 1000 for at in (0, -1))
            if found and found[-1].instance == session.instance:
                found[-1] = found[-1]._replace(over_s=min(found[-1].over_s, first_s))
            over_s = math.inf if session.end is None else last_s
            found.append(Life(session.instance, first_s, last_s, uptime_s, over_s))
    return found


@pytest.fixture(scope="session")
def filled(program: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    """Filled by two pushes, as if two hosts had VMs of the same names, told apart by `host` only.

    A third push is of the roll-ups, as the job "rollups".
    """
    folder = tmp_path_factory.mktemp("host")
    # Nobody waits for fifteen seconds here.
    rules = folder / "rules.yml"
    rules.write_text(RULES.read_text().replace("interval: 15s", "interval: 1s"))
    config = f"global: {{evaluation_interval: 1s}}\nrule_files: ['{rules}']\n"
    began_s = time.time()
    victoria_folder = tmp_path_factory.mktemp("victoria")
    with (
        Prometheus(program("prometheus"), config=config) as prometheus,
        # It shows nothing of the last half minute, unless it is told to.
        victoria(program("victoria-metrics"), victoria_folder, "-search.latencyOffset=0s") as victoria_url,
        Host(folder, prometheus.write_url) as host,
    ):
        long = host.start("vm-1", seconds=12)
        killed = host.start("vm-5", seconds=300)
        host.wait(host.start("vm-2", seconds=3))
        again = host.start("vm-2", seconds=4)  # the name's second session
        until(lambda: "vm-5" in {life.instance for life in lives_of(host.store)})
        killed.kill()
        killed_s = time.time()
        host.start("vm-4", seconds=300)  # still there at the end
        host.wait(host.start("vm-5", seconds=2))
        host.wait(host.start("vm-3", seconds=1))
        host.wait(again)
        host.wait(long)
        # The last second of the VM that was killed counts as whole five seconds later.
        until(lambda: time.time() > killed_s + 7)
        ended_s = time.time()
        for flags in (
            ["--cursor", "b", "--external-label", "host=b"],
            ["--cursor", "rollups", "--tier", "1", "--job", "rollups"],
        ):
            push(host.store, prometheus.write_url, *flags)
        shown_s = arrived_s(prometheus, "vm-4", ended_s)
        push(host.store, f"{victoria_url}/api/v1/write", "--cursor", "victoria")
        with urllib.request.urlopen(f"{victoria_url}/internal/force_flush", timeout=PATIENCE_S):
            pass  # what it has taken is now shown, too
        yield Filled(prometheus.url, victoria_url, Range(began_s - 10, shown_s), lives_of(host.store))


def push(store: Path, url: str, *flags: str) -> None:
    """Push all that there is."""
    command = [sys.executable, ROOT / "bin" / "rondo-push", store, "--remote-write", url, *flags]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=PATIENCE_S)


def until(is_so: Callable[[], object]) -> None:
    """Wait for something that will be so."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def arrived_s(prometheus: Prometheus, instance: str, after_s: float) -> float:
    """Wait until samples of a VM have come that are later than a time; how far they reach."""
    selector = f'timestamp(vmm_uptime_seconds{{instance="{instance}",job="rondo-vmm",host=""}})'

    def times_s() -> list[float]:
        return [float(series["value"][1]) for series in prometheus.query(selector)]

    until(lambda: any(time_s > after_s for time_s in times_s()))
    return max(times_s())
