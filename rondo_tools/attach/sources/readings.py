"""An adapter's report of a VM, and the source that turns it into a tick's values. No I/O.

Strategy: the adapter's thread replaces the whole reading, the loop takes the newest at each tick: no lock, no
waiting. Without a new reading a counter repeats its last value, and a mean is NaN.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from rondo_tools.attach.sources.base import Moment
from rondo_tools.catalog import NET, SERIES, Series

T = TypeVar("T")

MAX_DEVICES = 1000  # of one VM over its life; more are not counted
MOST = 1 << 63  # a counter from here on is invalid

_BLOCK = {str(one): one for one in SERIES if one.name.startswith("blk_")}
_READS, _WRITES, _FLUSHES = (_BLOCK[f'blk_requests_total{{op="{op}"}}'] for op in ("read", "write", "flush"))
_READ_BYTES, _WRITE_BYTES = (
    _BLOCK[f'blk_bytes_total{{direction="{direction}"}}'] for direction in ("read", "write")
)
DURATION = _BLOCK["blk_request_duration_ns"]
EXIT_DURATION = next(one for one in SERIES if one.name == "vcpu_exit_duration_ns")
REQUESTS = (_READS, _WRITES, _FLUSHES)
BLOCK = (*REQUESTS, _READ_BYTES, _WRITE_BYTES)
BLOCK_BYTES = (_READ_BYTES, _WRITE_BYTES)
NETWORK = NET
"""Bytes received and transmitted, then packets, as the guest sees them."""


class Spent(NamedTuple):
    """The number of requests so far, and their time together."""

    number: float
    time_ns: float


class Reading(NamedTuple):
    """Counters of a VM, and the sums for its means."""

    counters: Mapping[Series, float]
    means: Mapping[Series, Spent] = MappingProxyType({})


class Report:
    """The adapter's knowledge of one VM."""

    def __init__(self) -> None:
        self.reading: Reading | None = None  # replaced, never modified
        self.labels: Mapping[str, str] = MappingProxyType({})  # replaced, never modified
        self.awaits_labels = False  # more labels may come
        self.end_reason = ""
        self.refused: tuple[str, str] | None = None  # why there is no reading, and what is needed
        self.is_last = asyncio.Event()  # the VM is dead: the next reading is the last
        self.is_done = False  # the last reading has come
        self._kept: Any = None

    async def dies_within(self, seconds: float) -> bool:
        """Wait for `seconds`, or until the VM is dead; returns whether it is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.is_last.wait()
        return self.is_last.is_set()

    def kept(self, make: Callable[[], T]) -> T:
        """An object that outlasts a connection, created once. For the adapter's thread."""
        if self._kept is None:
            self._kept = make()
        kept: T = self._kept
        return kept


class Totals:
    """Sums of counters over devices that come and go. If a device's counters fall, it was reset."""

    def __init__(self, width: int) -> None:
        self.sums = [0] * width
        self.last: dict[str, Sequence[int]] = {}  # the last counters of each device

    def add(self, devices: Mapping[str, Sequence[int]], *, from_now: bool = False) -> None:
        """Add the devices' counters; `from_now` if a new device may be older than the VM."""
        zeros = (0,) * len(self.sums)
        for name, now in devices.items():
            before = self.last.get(name, now if from_now else zeros)
            if name not in self.last and len(self.last) >= MAX_DEVICES:
                continue
            if any(new < old for new, old in zip(now, before, strict=True)):
                before = zeros
            self.sums = [total + new - old for total, new, old in zip(self.sums, now, before, strict=True)]
            self.last[name] = now


def count_of(value: object) -> int:
    """A counter from untrusted JSON; 0 if it is invalid."""
    return value if type(value) is int and 0 <= value < MOST else 0


class AdapterSource:
    """A late source: `begins_at_0` if its counters begin at the first reading."""

    def __init__(self, name: str, brings: str, report: Report, *, begins_at_0: bool) -> None:
        self.name, self.brings = name, brings
        self.report = report
        self.series: tuple[Series, ...] = ()
        self._begins_at_0 = begins_at_0
        self._base: dict[Series, float] = {}
        self._before: Reading | None = None  # at the previous tick
        self._now: Reading | None = None

    @property
    def labels(self) -> Mapping[str, str]:
        return self.report.labels

    @property
    def awaits_labels(self) -> bool:
        return self.report.awaits_labels

    @property
    def end_reason(self) -> str:
        return self.report.end_reason

    @property
    def is_done(self) -> bool:
        return self.report.is_done

    def take(self) -> bool:
        self._before, self._now = self._now, self.report.reading
        if self._now is None or self._now is self._before:
            return False
        counters = self._now.counters
        series = (*counters, *self._now.means)
        if series == self.series:
            return False
        for one in counters:
            self._base.setdefault(one, counters[one] if self._begins_at_0 else 0)
        self.series = series
        return True

    def values(self, _moment: Moment) -> Sequence[float]:
        if self._now is None:
            return ()
        values = [float(value - self._base[one]) for one, value in self._now.counters.items()]
        before = self._before.means if self._before is not None else {}
        values += [_mean(spent, before.get(one)) for one, spent in self._now.means.items()]
        return values

    def begin_anew(self) -> None:
        if self._now is not None:
            self._base = dict(self._now.counters)


def _mean(now: Spent, before: Spent | None) -> float:
    """The mean since the previous tick."""
    if before is None or now.number <= before.number:
        return math.nan
    return max(now.time_ns - before.time_ns, 0) / (now.number - before.number)
