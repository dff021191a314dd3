"""Samples in Prometheus' form: runs of rows, each column with the labels of one series.

Strategy: columns, not samples. A block is a run of rows of one session; an encoder turns a whole column
into the samples of one series.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rondo_tools.catalog import Series

STALE_NAN = 0x7FF0000000000002
"""The bits of the stale marker, which ends a series (Prometheus' value.StaleNaN)."""

INSTANCE = "instance"

Labels = tuple[tuple[str, str], ...]
"""The sent label names and values of one series, including ``__name__``, sorted by name."""


class SeriesSet:
    """The sent series of a session: `labels[i]` are the labels of `series[i]`.

    Each session has one, equal only to itself, so results that depend on its labels can be cached.
    Sessions that differ only in the instance share a `pattern`: the labels of one of them, in which
    `instance` replaces the instance.
    """

    def __init__(
        self, series: tuple[Series, ...], pattern: tuple[Labels, ...], instance: str | None = None
    ) -> None:
        """Without an instance, `pattern` has the labels unchanged."""
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
        """About the size of the labels of all series in a request of 1.0."""
        mine = 0 if self.instance is None else len(self.instance)
        return _bytes_of(self.pattern) + mine * len(self.pattern)


@lru_cache(maxsize=1 << 12)
def _bytes_of(pattern: tuple[Labels, ...]) -> int:
    return sum(len(name) + len(value) + 8 for labels in pattern for name, value in labels)


class Block(NamedTuple):
    """Rows of one session: the values of series i of `series_set` are `values[:, i]`.

    `t_ms` is int64 (n,), strictly ascending; `values` is float64 (n, len(series_set.series)); NaN is "no
    value". At `start_ms` the session's counters were 0; it is 0 if the start is not known.
    """

    series_set: SeriesSet
    t_ms: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    start_ms: int = 0
