"""The expected values of a fleet, computed tick by tick from the stored sessions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from rondo_tools.catalog import Series
from rondo_tools.view.measures import COUNTERS, GAUGES, MEASURES
from rondo_tools.view.state import running_or_silent


@dataclass
class Life:
    """A session as it was stored: ticks of (t_ms, values by series)."""

    instance: str
    start_ms: int
    interval_ms: int
    ticks: list[tuple[int, dict[Series, float]]] = field(default_factory=list)
    end: str | None = None
    end_ms: int = 0

    def state(self, now_ms: int) -> str:
        last_ms = self.ticks[-1][0] if self.ticks else self.start_ms
        return self.end or running_or_silent(self.interval_ms, now_ms - last_ms)


class Step(NamedTuple):
    """From one tick to the next: increases of the COUNTERS, values of the GAUGES."""

    t_ms: int
    took_ms: int
    grew: list[float]
    gauges: list[float]


def steps(life: Life) -> list[Step]:
    found = []
    before_ms, before = life.start_ms, None
    for t_ms, values in life.ticks:
        if before is None:
            known = t_ms - life.start_ms <= 1.5 * life.interval_ms
            before, before_ms = (dict.fromkeys(values, 0.0), life.start_ms) if known else (values, t_ms)
        grew = [
            sum(_increase(before.get(one, math.nan), values[one]) for one in _of(values, number))
            for number in range(len(COUNTERS))
        ]
        gauges = [
            next((values[one] for one in _of(values, len(COUNTERS) + number)), math.nan)
            for number in range(len(GAUGES))
        ]
        found.append(Step(t_ms, t_ms - before_ms, grew, gauges))
        before_ms, before = t_ms, values
    return found


def sums(life: Life, first_ms: int, now_ms: int) -> list[float]:
    """What the counters grew by in ticks with first_ms < t_ms <= now_ms, then the means of the gauges."""
    some = [step for step in steps(life) if first_ms < step.t_ms <= now_ms]
    grew = [sum(step.grew[number] for step in some) for number in range(len(COUNTERS))]
    means = []
    for number in range(len(GAUGES)):
        there = [
            (step.gauges[number], max(step.took_ms, 1))
            for step in some
            if not math.isnan(step.gauges[number])
        ]
        weight = sum(ms for _, ms in there)
        means.append(sum(value * ms for value, ms in there) / weight if weight else math.nan)
    return grew + means


def now(life: Life, now_ms: int) -> list[float]:
    """The rates over the last second of ticks, and the gauges of the last."""
    some = steps(life)
    if not some or life.state(now_ms) == "silent":
        return [math.nan] * len(MEASURES)
    latest = [step for step in some if step.t_ms > some[-1].t_ms - 1000]
    ms = sum(step.took_ms for step in latest)
    rates = [
        sum(step.grew[number] for step in latest) * 1000 / ms if ms else math.nan
        for number in range(len(COUNTERS))
    ]
    return rates + some[-1].gauges


def _of(values: dict[Series, float], measure: int) -> list[Series]:
    for name in MEASURES[measure].names:
        found = [one for one in values if one.name == name]
        if found:
            return found
    return []


def _increase(before: float, value: float) -> float:
    if math.isnan(before) or math.isnan(value):
        return 0.0
    return value if value < before else value - before
