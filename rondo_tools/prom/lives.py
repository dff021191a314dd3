"""Merges the lives of an instance into one line of time for Prometheus: no duplicates, none out of order.

Strategy: arrays with one entry per row. A restart continues its instance's series, so rows are ordered and
passed over per instance, not per session.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Places = npt.NDArray[np.intp]


def in_order(
    instance: Places, start_ms: Ints, t_ms: Ints, is_marker: npt.NDArray[np.bool_], past_ms: Ints
) -> Places:
    """The indices of the rows to send, by instance, then time. `start_ms` is the start of each row's life.

    Rows not later than `past_ms` are left out. Of an instance's rows with equal times only one is kept: a
    tick of the earliest life, else a marker. A tick can have a marker's time if a lost session continues.
    """
    order = np.lexsort((start_ms, is_marker, t_ms, instance))
    order = order[t_ms[order] > past_ms[order]]
    is_again = np.zeros(order.size, np.bool_)
    is_again[1:] = (np.diff(instance[order]) == 0) & (np.diff(t_ms[order]) == 0)
    return order[~is_again]


def marker_ms(last_ms: int) -> int:
    """The time of the stale markers of a life whose last tick is at `last_ms`."""
    return last_ms + 1


def is_marked(start_ms: int, last_ms: int, starts_ms: Iterable[int]) -> bool:
    """Whether a life's end gets a marker: not if another of its instance's lives, which began at
    `starts_ms`, has begun by then."""
    return not any(start_ms < other <= marker_ms(last_ms) for other in starts_ms)
