"""Steps: periods of equal length, to which values at any times are rolled up, so that they can be combined.

Strategy: ticks of VMs have different milliseconds, and rows of sessions may come from different tiers. So
time is divided into steps of one length, at multiples of it (UTC), and a series is rolled up to them like
the store rolls up a coarse tier: a step has a counter's last value in it, and the average, the least or the
greatest value of a gauge. NaN is no value; a step without a value is left out.

Pure. Times are in ms, ascending; the returned times are the beginnings of steps.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


def common_step_ms(tier_ms: int, intervals_ms: Iterable[int]) -> int:
    """The shortest step in which every session has a row: it has one every `tier_ms`, or in tier 0, where
    that is 0, at its own interval.

    With steps of a second, a VM that ticks every 10 s would be in every tenth, and a sum would jump.
    """
    longest_ms = max(intervals_ms, default=1)
    return -(-longest_ms // tier_ms) * tier_ms if tier_ms else longest_ms


def lasts(t_ms: Times, values: Values, step_ms: int) -> tuple[Times, Values]:
    """The last value in each step, and its time."""
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
            if aggregate == "avg":  # summed in time order, as in the store
                values = np.bincount(np.repeat(np.arange(begins.size), counts), weights=values) / counts
            elif aggregate == "last":
                values = values[begins + counts - 1]
            else:
                values = (np.minimum if aggregate == "min" else np.maximum).reduceat(values, begins)
    return step[begins] * step_ms, values


def _there(t_ms: Times, values: Values) -> tuple[Times, Values]:
    there = ~np.isnan(values)
    return t_ms[there], values[there]
