"""rondo-attach's own metrics, sent as an instance of its own.

Strategy: a source like those of a VM, for a session `rondo-attach` that begins with each watcher and gets its
tick after those of the VMs. The modules keep their own counts; this source collects them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from operator import sub
from typing import TYPE_CHECKING

from rondo_tools.attach.counters.base import ExitCounters
from rondo_tools.attach.discover import Uevents
from rondo_tools.attach.process import parse_resident_pages
from rondo_tools.attach.sinks import StoreSink
from rondo_tools.attach.sources.base import Moment
from rondo_tools.catalog import COUNTER, GAUGE, Series

if TYPE_CHECKING:
    from rondo_tools.attach.sources.adapters import Adapters
    from rondo_tools.attach.sources.readings import Reading, Report

INSTANCE = "rondo-attach"

_PAGE = os.sysconf("SC_PAGE_SIZE")

LOST_TICKS = ("backlog", "given_up", "refused")
ADAPTER_STATES = ("answering", "silent", "failing")


def _counter(name: str, unit: str, text: str, *labels: tuple[str, str]) -> Series:
    return Series(name, labels, COUNTER, unit, text)


_COUNTERS = (
    *(
        _counter("attach_lives_total", "lives", "Lives of VMs that were watched, by event.", ("event", event))
        for event in ("begin", "end")
    ),
    _counter(
        "attach_overruns_total", "overruns", "Times that events of KVM were lost, and VMs were scanned again."
    ),
    *(
        _counter(
            "attach_lost_ticks_total", "ticks", "Ticks that no store has, by reason.", ("reason", reason)
        )
        for reason in LOST_TICKS
    ),
    _counter("attach_cpu_seconds_total", "seconds", "CPU time of rondo-attach."),
)
_LOST_EXITS = _counter("attach_lost_exits_total", "exits", "Exits that found no room in the map of threads.")
_GAUGES = (
    Series("attach_vms", (), GAUGE, "vms", "VMs watched."),
    Series(
        "attach_waiting_sessions", (), GAUGE, "sessions", "Sessions that are over and not acknowledged yet."
    ),
    Series("attach_tick_lag_ns", (), GAUGE, "ns", "How late the last VM's tick was."),
    Series("attach_rss_bytes", (), GAUGE, "bytes", "Resident set size of rondo-attach."),
)
_ADAPTERS = tuple(
    Series(
        "attach_adapters",
        (("state", state),),
        GAUGE,
        "adapters",
        "Running adapters, one for each VM and kind, by state since the tick before.",
    )
    for state in ADAPTER_STATES
)
SERIES = (*_COUNTERS, _LOST_EXITS, *_GAUGES, *_ADAPTERS)


@dataclass
class Tally:
    """Counts of the watcher and of its lives."""

    begun: int = 0
    ended: int = 0
    watched: int = 0
    lag_s: float = 0.0  # of the last tick


class SelfMetrics:
    """A source. Lost exits are a series only with counters, adapters only with adapters."""

    def __init__(
        self,
        tally: Tally,
        uevents: Uevents,
        sink: StoreSink,
        counters: ExitCounters | None,
        adapters: Adapters | None = None,
    ) -> None:
        self._tally, self._uevents, self._sink = tally, uevents, sink
        self._counters, self._adapters = counters, adapters
        self.series = (
            *_COUNTERS,
            *((_LOST_EXITS,) if counters is not None else ()),
            *_GAUGES,
            *(_ADAPTERS if adapters is not None else ()),
        )
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._readings: dict[Report, Reading | None] = {}  # at the tick before
        counts = self._count()
        # CPU time counts from the start of the process; the map may have lost exits before that.
        self._base: Sequence[float] = (*(0.0 for _ in _COUNTERS), *counts[len(_COUNTERS) :])

    def values(self, _moment: Moment) -> Sequence[float]:
        adapters = () if self._adapters is None else self._look(self._adapters.reports())
        return (
            *map(sub, self._count(), self._base),
            self._tally.watched,
            self._sink.waiting,
            self._tally.lag_s * 1e9,
            parse_resident_pages(os.pread(self._statm, 128, 0)) * _PAGE,
            *adapters,
        )

    def begin_anew(self) -> None:
        self._base = self._count()

    def close(self) -> None:
        os.close(self._statm)

    def _count(self) -> tuple[float, ...]:
        return (
            self._tally.begun,
            self._tally.ended,
            self._uevents.overruns,
            *(self._sink.lost_ticks[reason] for reason in LOST_TICKS),
            time.process_time(),
            *(() if self._counters is None else (self._counters.lost(),)),
        )

    def _look(self, reports: Sequence[Report]) -> tuple[int, int, int]:
        """The number of adapters in each of ADAPTER_STATES."""
        before = self._readings
        self._readings = {report: report.reading for report in reports}
        failing = sum(report.refused is not None for report in reports)
        answering = sum(
            report.refused is None and reading is not None and reading is not before.get(report)
            for report, reading in self._readings.items()
        )
        return answering, len(reports) - answering - failing, failing
