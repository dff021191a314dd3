"""The lives of a host's VMs in its store, and in Prometheus."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from devtools.fleet import PATIENCE_S
from devtools.grafana.dashboards import Range
from devtools.receivers.prometheus import Prometheus
from rondo_tools.store.reader import Store

ROOT = Path(__file__).resolve().parents[3]
RULES = ROOT / "deploy" / "rules" / "rondo.yml"


class Life(NamedTuple):
    """A session in the store: its first and last tick, and the time at which its end is known, in Unix
    seconds.

    The end of a killed VM, which sent none, is known when the next VM of that name begins.
    """

    instance: str
    first_s: float
    last_s: float
    uptime_s: float
    over_s: float = math.inf


class Filled(NamedTuple):
    """`shown` ends while one VM still runs; `lives` are those in the store at that time.

    `url` is the Prometheus'; the VictoriaMetrics at `victoria_url` was filled from the same store.
    """

    url: str
    victoria_url: str
    shown: Range
    lives: list[Life]
    store: Path


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


def push(store: Path, url: str, *flags: str) -> None:
    """Push everything once."""
    command: list[str | Path] = [sys.executable, ROOT / "bin" / "rondo-push", store]
    command += ["--remote-write", url, *flags]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=PATIENCE_S)


def until(is_so: Callable[[], object]) -> None:
    """Wait until `is_so` returns something true."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def arrived_s(prometheus: Prometheus, instance: str, after_s: float) -> float:
    """Wait for samples of a VM after a time; returns the time of the last one."""
    selector = f'timestamp(vmm_uptime_seconds{{instance="{instance}",job="rondo-vmm",host=""}})'

    def times_s() -> list[float]:
        return [float(series["value"][1]) for series in prometheus.query(selector)]

    until(lambda: any(time_s > after_s for time_s in times_s()))
    return max(times_s())
