"""Combines series: one for each group of them; and selects the highest of many.

Strategy: a group has, in each step, the sum (average, maximum, …) of the values of its series; a series
without a value adds nothing. Series of different names are never combined. Values are added in pieces as
they are read, so that memory holds the groups and not their series; only a quantile needs all values. Sums
are computed in the order of the series.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from rondo_tools.catalog import GAUGE
from rondo_tools.query.curve import Curve, Times, Values

SESSION = "session"  # in --by: the life of a series, as if it were a label
_PENDING = 1 << 16  # values to collect before they are added


class Grouping(NamedTuple):
    """Combines series with equal labels `by` by `how`: sum, avg, max, min, count or quantile.

    `quantile` is from 0 to 1.
    """

    how: str
    by: tuple[str, ...] = ()
    quantile: float = 0.5

    def curves(self, curves: Iterable[Curve]) -> Iterator[Curve]:
        """A curve for each group of `curves`, which are in steps of one length, by first appearance."""
        groups: dict[object, tuple[Curve, _Group]] = {}
        for curve in curves:
            labels = curve.labels
            some = tuple((name, labels[name]) for name in self.by if name in labels)
            start_ms = curve.start_ms if SESSION in self.by else None
            key = curve.series.name, some, start_ms
            if key not in groups:
                unit, kind = ("", GAUGE) if self.how == "count" else (curve.series.unit, curve.series.kind)
                series = curve.series._replace(labels=tuple(sorted(some)), unit=unit, kind=kind)
                groups[key] = curve._replace(session=None, start_ms=start_ms, series=series), _Group(self)
            groups[key][1].add(curve.t_ms, curve.values)
        for curve, group in groups.values():
            t_ms, values = group.result()
            if t_ms.size:
                yield curve._replace(t_ms=t_ms, values=values)


class _Group:
    """The values of a group so far, in parts; the first part may be a sum of earlier ones."""

    def __init__(self, grouping: Grouping) -> None:
        self._grouping = grouping
        self._parts: list[tuple[Times, Values, Values]] = []  # times, values, the number of values in each
        self._pending = 0

    def add(self, t_ms: Times, values: Values) -> None:
        there = ~np.isnan(values)
        t_ms, values = t_ms[there], values[there].copy()
        self._parts.append((t_ms, values, np.ones(t_ms.size)))
        self._pending += t_ms.size
        if self._pending > max(_PENDING, self._parts[0][0].size) and self._grouping.how != "quantile":
            self._parts, self._pending = [self._added_up()], 0

    def result(self) -> tuple[Times, Values]:
        if self._grouping.how == "quantile":
            return _quantiles(*self._whole()[:2], self._grouping.quantile)
        t_ms, values, counts = self._added_up()
        how = self._grouping.how
        return t_ms, counts if how == "count" else values / counts if how == "avg" else values

    def _whole(self) -> tuple[Times, Values, Values]:
        times, values, counts = zip(*self._parts, strict=True)
        return np.concatenate(times), np.concatenate(values), np.concatenate(counts)

    def _added_up(self) -> tuple[Times, Values, Values]:
        t_ms, values, counts = self._whole()
        steps, which = np.unique(t_ms, return_inverse=True)
        which = which.reshape(-1)
        counts = _added(which, counts)
        if self._grouping.how in ("min", "max"):
            order = np.argsort(which, kind="stable")
            begins = np.flatnonzero(np.diff(which[order], prepend=-1))
            least_or_greatest = np.minimum if self._grouping.how == "min" else np.maximum
            return steps, least_or_greatest.reduceat(values[order], begins), counts
        return steps, _added(which, values), counts


def _added(which: Times, values: Values) -> Values:
    """The sums of the values of each group, computed in order."""
    return np.asarray(np.bincount(which, weights=values), np.float64)


def _quantiles(t_ms: Times, values: Values, quantile: float) -> tuple[Times, Values]:
    """The quantile of the values at each time, as in PromQL: linear between the two nearest ranks."""
    order = np.lexsort((values, t_ms))
    t_ms, values = t_ms[order], values[order]
    begins = np.flatnonzero(np.append(True, t_ms[1:] != t_ms[:-1])[: t_ms.size])
    counts = np.diff(begins, append=t_ms.size)
    rank = quantile * (counts - 1)
    lower = np.floor(rank).astype(np.int64)
    upper = np.minimum(lower + 1, counts - 1)
    weight = rank - lower
    with np.errstate(all="ignore"):  # infinities
        between = values[begins + lower] * (1 - weight) + values[begins + upper] * weight
    return t_ms[begins], np.where(weight == 0, values[begins + lower], between)


class Highest(NamedTuple):
    """The highest of some curves, the highest first, their `places` among all, and how many were left out."""

    curves: list[Curve]
    places: list[int]
    left_out: int


def highest(curves: Iterable[Curve], count: int) -> Highest:
    """The `count` (at least one) curves with the highest averages; of equal ones the earlier.

    Curves without a value, and those without an average (+Inf and -Inf), come last.
    """
    best: list[tuple[float, int, Curve]] = []
    number = 0
    for number, curve in enumerate(curves, 1):
        values = curve.values[~np.isnan(curve.values)]
        with np.errstate(all="ignore"):
            average = float(values.mean()) if values.size else -np.inf
        rank = -np.inf if np.isnan(average) else average, -number
        if len(best) == count and rank < best[0][:2]:
            continue
        # A copy, because a view would keep all series of its session in memory.
        entry = (*rank, curve._replace(t_ms=curve.t_ms.copy(), values=curve.values.copy()))
        if len(best) < count:
            heapq.heappush(best, entry)
        else:
            heapq.heapreplace(best, entry)
    ordered = sorted(best, key=lambda entry: entry[:2], reverse=True)
    return Highest([curve for *_, curve in ordered], [-at for _, at, _ in ordered], number - len(best))
