"""The lives of an instance as one line of time, as Prometheus wants it: no sample twice, none too late.

Strategy: arrays, one entry a row. A restart continues its instance's series, so order and what is passed
over belong to the instance, not to the session.
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
    """The places of the rows to send: by instance, then time. `start_ms` is that of each row's life.

    Left out is what is not later than `past_ms`, and of rows of an instance with equal times all but the
    first: the one of the earliest life, and a marker only where there is no other. A life that was given
    up and goes on after all may have a tick there.
    """
    order = np.lexsort((start_ms, is_marker, t_ms, instance))
    order = order[t_ms[order] > past_ms[order]]
    is_again = np.zeros(order.size, np.bool_)
    is_again[1:] = (np.diff(instance[order]) == 0) & (np.diff(t_ms[order]) == 0)
    return order[~is_again]


def marker_ms(last_ms: int) -> int:
    """When a life that had its last tick at `last_ms` ends, for Prometheus."""
    return last_ms + 1


def is_marked(start_ms: int, last_ms: int, starts_ms: Iterable[int]) -> bool:
    """Whether a life's end gets a marker, where its instance's lives began at `starts_ms`: not where the
    next one has begun by then."""
    return not any(start_ms < other <= marker_ms(last_ms) for other in starts_ms)
