"""Samples as Prometheus sees them: runs of rows, each column with the labels of one series.

Strategy: columns, not samples. A block is a run of rows of one session; an encoder turns a column
of it into the samples of one series without looking at each.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rondo_tools.catalog import Series

STALE_NAN = 0x7FF0000000000002
"""The bits of the value that says "this series ends here" (Prometheus' value.StaleNaN)."""

INSTANCE = "instance"

Labels = tuple[tuple[str, str], ...]
"""Label names and values of one series as they are sent: ``__name__`` included, sorted by name."""


class SeriesSet:
    """The series of a session as they are sent: `labels[i]` are those of `series[i]`.

    There is one for each session, equal only to itself; so what is worked out of its labels is
    worked out once. Sessions that differ in nothing but the instance share a `pattern`: the labels of
    any of them, in which `instance` takes the place of that one's.
    """

    def __init__(
        self, series: tuple[Series, ...], pattern: tuple[Labels, ...], instance: str | None = None
    ) -> None:
        """Without an instance, `pattern` is the labels as they are."""
        self.series = series
        self.pattern = pattern
        self.instance = instance

    @cached_property
    def labels(self) -> tuple[Labels, ...]:
        if self.instance is None:
            return self.pattern
        mine = (INSTANCE, self.instance)
        return tuple(
            tuple(mine if label[0] == INSTANCE else label for label in labels) for labels in self.pattern
        )

    @property
    def label_bytes(self) -> int:
        """What the labels of all series take in a request of 1.0, about."""
        mine = 0 if self.instance is None else len(self.instance)
        return _bytes_of(self.pattern) + mine * len(self.pattern)


@lru_cache(maxsize=1 << 12)
def _bytes_of(pattern: tuple[Labels, ...]) -> int:
    return sum(len(name) + len(value) + 8 for labels in pattern for name, value in labels)


class Block(NamedTuple):
    """Rows of one session: the values of series i of `series_set` are `values[:, i]`.

    `t_ms` is int64 (n,), ascending strictly; `values` float64 (n, len(series_set.series)); NaN is "no
    value". `start_ms` is when the session's counters were 0; 0 if that is not known.
    """

    series_set: SeriesSet
    t_ms: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    start_ms: int = 0
