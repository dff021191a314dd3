"""Steps: stretches of time of one length, for which values of any times are made comparable.

Strategy: ticks of VMs fall on different milliseconds, and rows of sessions may come from different tiers.
So time is cut into steps of one length, from multiples of it on (UTC), and a series is rolled up to them as
the store rolls up a coarse tier: a step holds the last value in it of a counter, and the average, the least
or the greatest of a gauge. NaN is no value; a step without a value is left out.

Pure. Times are in ms, ascending; what is returned is the beginning of each step.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


def common_step_ms(tier_ms: int, intervals_ms: Iterable[int]) -> int:
    """The shortest step in which every session has a row: each `tier_ms`, or in tier 0, where that is 0,
    each interval of its own.

    A VM that ticks each 10 s would be in one of ten steps of a second, and a sum would jump.
    """
    longest_ms = max(intervals_ms, default=1)
    return -(-longest_ms // tier_ms) * tier_ms if tier_ms else longest_ms


def lasts(t_ms: Times, values: Values, step_ms: int) -> tuple[Times, Values]:
    """The last value in each step, and its own time."""
    t_ms, values = _there(t_ms, values)
    step = t_ms // step_ms
    is_last = np.append(step[1:] != step[:-1], True)[: t_ms.size]
    return t_ms[is_last], values[is_last]


def rolled_up(t_ms: Times, values: Values, step_ms: int, aggregate: str) -> tuple[Times, Values]:
    """The `aggregate` (last, avg, min or max) of the values in each step."""
    t_ms, values = _there(t_ms, values)
    step = t_ms // step_ms
    begins = np.flatnonzero(np.append(True, step[1:] != step[:-1])[: t_ms.size])
    if begins.size < t_ms.size:
        counts = np.diff(begins, append=t_ms.size)
        with np.errstate(all="ignore"):  # infinities
            if aggregate == "avg":  # the sum is made in time order, as the store makes it
                values = np.bincount(np.repeat(np.arange(begins.size), counts), weights=values) / counts
            elif aggregate == "last":
                values = values[begins + counts - 1]
            else:
                values = (np.minimum if aggregate == "min" else np.maximum).reduceat(values, begins)
    return step[begins] * step_ms, values


def _there(t_ms: Times, values: Values) -> tuple[Times, Values]:
    there = ~np.isnan(values)
    return t_ms[there], values[there]
