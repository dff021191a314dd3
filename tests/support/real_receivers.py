"""Real receivers: those of the machine's own suite of Debian, and in the long tier those of newer ones.

Newer suites move, so no version is named here: what a receiver is expected to do goes by `version`.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from devtools.programs import NEWER_SUITES, package_version
from devtools.receivers.prometheus import Prometheus
from devtools.receivers.victoria import VictoriaMetrics

ONCE = "-dedup.minScrapeInterval=1ms"
"""Without it VictoriaMetrics keeps a sample that is sent twice twice."""

Real = Prometheus | VictoriaMetrics


def of_all_suites(*names: str) -> list[object]:
    """Parameters of a test: programs' names, and then these of each newer suite."""
    newer = [f"{name}-{suite}" for suite in NEWER_SUITES for name in names]
    return [*names, *(pytest.param(name, marks=pytest.mark.long) for name in newer)]


PROMETHEUS = of_all_suites("prometheus")
VICTORIA = of_all_suites("victoria-metrics")
RECEIVERS = of_all_suites("prometheus", "victoria-metrics")


def real(name: str, program: Path) -> Real:
    """The receiver of that name, which keeps each sample once."""
    return Prometheus(program) if name.startswith("prometheus") else VictoriaMetrics(program, ONCE)


def restart(receiver: Real) -> None:
    """Kill it and start it again; VictoriaMetrics, which acknowledges before it writes, may end in order."""
    receiver.stop(signal.SIGKILL if isinstance(receiver, Prometheus) else signal.SIGTERM)
    receiver.start()


def kept(receiver: Real, value: float) -> float:
    """What it makes of a value: VictoriaMetrics keeps some 15 digits of it."""
    return value if isinstance(receiver, Prometheus) else float(f"{value:.15g}")


def version(name: str) -> tuple[int, int]:
    """Of a program that is fetched: (3, 5)."""
    found = re.match(r"(\d+)\.(\d+)", package_version(name))
    assert found is not None
    return int(found[1]), int(found[2])
