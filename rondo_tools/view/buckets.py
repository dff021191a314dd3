"""Sums of many rows over a sliding range of time, in buckets: the increase in each, and its duration.

Strategy: each row has a ring of buckets. A bucket has the number of its time slot, so an old one is
recognized, and nothing has to be cleared as time passes. All rows are processed at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rondo_tools.view.measures import COUNTERS, GAUGES

BUCKETS = 60
_NEVER = -1 << 62

Numbers = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


class Sums(NamedTuple):
    """Sums of rows over the range: the increase of counters and the mean of gauges (NaN without a value);
    and for each bucket the increase of one counter per second, NaN without a tick. `newest` is the number
    of the last bucket, counted since 1970."""

    increase: Values  # (rows, COUNTERS)
    mean: Values  # (rows, GAUGES)
    spark: Values  # (rows, BUCKETS), the oldest first
    newest: int


class Buckets:
    """`bucket_ms` is the length of each of BUCKETS."""

    def __init__(self, bucket_ms: int) -> None:
        self.bucket_ms = bucket_ms
        self._holds = np.full((0, BUCKETS), _NEVER)  # the number of the time slot
        self._ms = np.zeros((0, BUCKETS), np.int64)
        self._increase = np.zeros((0, BUCKETS, len(COUNTERS)))
        self._gauge = np.zeros((0, BUCKETS, len(GAUGES)))
        self._gauge_ms = np.zeros((0, BUCKETS, len(GAUGES)))

    def bucket(self, t_ms: Numbers | int) -> Numbers:
        """The number of a tick's bucket; a tick counts for the time before it."""
        return np.asarray((np.asarray(t_ms, np.int64) - 1) // self.bucket_ms)

    def grow(self, rows: int) -> None:
        """Grow to `rows` rows."""
        more = rows - len(self._holds)
        self._holds = np.concatenate((self._holds, np.full((more, BUCKETS), _NEVER)))
        self._ms = _grown(self._ms, more)
        self._increase = _grown(self._increase, more)
        self._gauge = _grown(self._gauge, more)
        self._gauge_ms = _grown(self._gauge_ms, more)

    def clear(self, row: int) -> None:
        """Clear a row before its reuse."""
        self._holds[row] = _NEVER

    def add(self, rows: Numbers, t_ms: Numbers, took_ms: Numbers, increase: Values, gauge: Values) -> None:
        """Add ticks: `rows`, `t_ms` and `took_ms` (n,), `increase` (n, COUNTERS), `gauge` (n, GAUGES) with
        NaN for no value."""
        bucket = self.bucket(t_ms)
        slot = bucket % BUCKETS
        place = rows * BUCKETS + slot
        holds = self._holds.reshape(-1)
        before = holds[place]
        np.maximum.at(holds, place, bucket)
        fresh = place[holds[place] > before]
        for column in (self._ms, self._increase, self._gauge, self._gauge_ms):
            column.reshape(len(holds), -1)[fresh] = 0
        there = holds[place] == bucket  # a later tick may have taken its place
        place, took_ms = place[there], took_ms[there]
        np.add.at(self._ms.reshape(-1), place, took_ms)
        np.add.at(self._increase.reshape(len(holds), -1), place, increase[there])
        gauge = gauge[there]
        weight = np.where(np.isnan(gauge), 0.0, np.maximum(took_ms, 1)[:, np.newaxis])
        np.add.at(self._gauge.reshape(len(holds), -1), place, np.nan_to_num(gauge) * weight)
        np.add.at(self._gauge_ms.reshape(len(holds), -1), place, weight)

    def sums(self, rows: Numbers, now_ms: int, spark_of: int) -> Sums:
        """The sums of the BUCKETS up to `now_ms`; `spark_of` is the number of a counter."""
        newest = int(self.bucket(now_ms))
        wanted = np.arange(newest - BUCKETS + 1, newest + 1)
        slot = wanted % BUCKETS
        there = self._holds[rows[:, np.newaxis], slot] == wanted
        ms = np.where(there, self._ms[rows[:, np.newaxis], slot], 0)
        # A contraction of all measures at once: `there` selects the buckets.
        mask = np.zeros((rows.size, BUCKETS))
        mask[:, slot] = there
        gauge_ms = np.einsum("rb,rbg->rg", mask, self._gauge_ms[rows])
        spark = self._increase[rows[:, np.newaxis], slot, spark_of]
        with np.errstate(all="ignore"):
            return Sums(
                np.einsum("rb,rbc->rc", mask, self._increase[rows]),
                np.einsum("rb,rbg->rg", mask, self._gauge[rows]) / np.where(gauge_ms > 0, gauge_ms, np.nan),
                np.where(ms > 0, spark * 1000 / ms, np.nan),
                newest,
            )


def _grown(column: npt.NDArray[Any], more: int) -> npt.NDArray[Any]:
    return np.concatenate((column, np.zeros((more, *column.shape[1:]), column.dtype)))
