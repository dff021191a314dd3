"""The roll-up: one pure function from tier-0 rows to the rows of a coarser tier.

The writer calls it when a window has closed, after a crash as much as before one, and the reader
calls it for windows not yet written; so all of them agree to the last bit. Every coarse row comes
from tier-0 rows, never from another average.

Strategy: lay the rows out as a cube (window, slot in the window, series), NaN where there is no
tick, and reduce along time. Sums are running sums (`add.accumulate`), whose order numpy cannot
change: the result does not depend on how many windows are rolled up together.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rondo_tools.catalog import COUNTER, Series

LAST, AVG, MIN, MAX = "last", "avg", "min", "max"

Floats = npt.NDArray[np.float64]


class Column(NamedTuple):
    """What a column of a row holds: `aggregate` of the header's series number `series`."""

    series: int
    aggregate: str


@lru_cache(maxsize=64)
def columns(series: tuple[Series, ...], tier: int) -> tuple[Column, ...]:
    """What a row of a tier holds: in tier 0 the values; above, a counter's last, a gauge's avg, min, max."""
    if tier == 0:
        return tuple(Column(number, LAST) for number in range(len(series)))
    return tuple(
        Column(number, aggregate)
        for number, one in enumerate(series)
        for aggregate in ((LAST,) if one.kind == COUNTER else (AVG, MIN, MAX))
    )


class RollUp:
    """Rolls up rows of one list of series; holds only which column goes where."""

    def __init__(self, series: tuple[Series, ...], interval_ms: int) -> None:
        """`interval_ms` is that of tier 0."""
        self._interval_ms = interval_ms
        layout = columns(series, 1)
        self.width = len(layout)
        self._counters = [number for number, one in enumerate(series) if one.kind == COUNTER]
        self._gauges = [number for number, one in enumerate(series) if one.kind != COUNTER]
        self._columns_of = {
            aggregate: [at for at, column in enumerate(layout) if column.aggregate == aggregate]
            for aggregate in (LAST, AVG, MIN, MAX)
        }

    def __call__(
        self, t_ms: npt.NDArray[np.int64], values: Floats, window_ms: int
    ) -> tuple[npt.NDArray[np.int64], Floats]:
        """Roll up rows in time order, at most one a tier-0 slot, into windows of `window_ms`.

        Returns, for each window with a row in it, the time of its last row, (w,), and the coarse
        row, (w, columns). NaN is skipped; where all is NaN, so is the result.
        """
        if not t_ms.size:
            return t_ms, np.empty((0, self.width))
        windows = t_ms // window_ms
        begins = np.flatnonzero(np.concatenate(([True], windows[1:] != windows[:-1])))
        ends = np.append(begins[1:], t_ms.size)
        shape = (begins.size, window_ms // self._interval_ms, values.shape[1])
        if values.size == math.prod(shape):
            cube = values.reshape(shape)
        else:
            cube = np.full(shape, np.nan)
            at = t_ms % window_ms // self._interval_ms
            cube[np.repeat(np.arange(begins.size), ends - begins), at] = values
        missing = np.isnan(cube)
        counters, gauges = cube[:, :, self._counters], cube[:, :, self._gauges]
        rows = np.empty((begins.size, self.width))
        with np.errstate(all="ignore"):  # infinities and overflow are values like others
            if missing.any():
                rows[:, self._columns_of[LAST]] = _last(counters, missing[:, :, self._counters])
                # The minimum of a number and a signalling NaN, such as Prometheus' stale marker, is NaN.
                gauges[missing[:, :, self._gauges]] = np.nan
                rows[:, self._columns_of[AVG]] = _average(gauges, missing[:, :, self._gauges])
            else:
                rows[:, self._columns_of[LAST]] = counters[:, -1]
                rows[:, self._columns_of[AVG]] = np.add.accumulate(gauges, axis=1)[:, -1] / shape[1]
            rows[:, self._columns_of[MIN]] = np.fmin.reduce(gauges, axis=1)
            rows[:, self._columns_of[MAX]] = np.fmax.reduce(gauges, axis=1)
            rows += 0.0  # one zero: which of -0.0 and 0.0 a minimum picks is numpy's secret
        rows[np.isnan(rows)] = np.nan  # one NaN: so is its payload
        return t_ms[ends - 1], rows


@lru_cache(maxsize=64)
def roll_up_of(series: tuple[Series, ...], interval_ms: int) -> RollUp:
    """A RollUp, shared between sessions that have the same series: mostly all of them."""
    return RollUp(series, interval_ms)


def _last(cube: Floats, missing: npt.NDArray[np.bool_]) -> Floats:
    """The last value of each window and series that is there; NaN where none is."""
    at = cube.shape[1] - 1 - np.argmin(missing[:, ::-1], axis=1)
    return np.take_along_axis(cube, at[:, np.newaxis], axis=1)[:, 0]


def _average(cube: Floats, missing: npt.NDArray[np.bool_]) -> Floats:
    sums = np.add.accumulate(np.where(missing, 0.0, cube), axis=1)[:, -1]
    return np.asarray(sums / (cube.shape[1] - missing.sum(axis=1)))
