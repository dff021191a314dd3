"""A batch: what one request carries, between drain, encoder and cursor.

Strategy: columns, not samples. A block is a run of rows of one session; the encoder turns a column
of it into the samples of one series without looking at each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rondo_tools.catalog import Series

MAX_BYTES = 4 << 20
"""Of a request, before compression, about. Receivers take 32 MiB."""

SAMPLE_BYTES = 20
"""What a sample takes in a request of 1.0, about."""

Labels = tuple[tuple[str, str], ...]
"""Label names and values of one series as they are sent: ``__name__`` included, sorted by name."""


class Mark(NamedTuple):
    """A session's place: rows up to `delivered_ms` are dealt with; `ended`, so is its end."""

    delivered_ms: int = 0
    ended: bool = False


@dataclass(frozen=True, eq=False)
class SeriesSet:
    """The series of a session as they are sent: `labels[i]` are those of `series[i]`.

    There is one for each session, equal only to itself; so what is worked out of its labels is
    worked out once, and found again without a look at them.
    """

    series: tuple[Series, ...]
    labels: tuple[Labels, ...]

    @cached_property
    def label_bytes(self) -> int:
        """What the labels of all series take in a request of 1.0, about."""
        return sum(len(name) + len(value) + 8 for labels in self.labels for name, value in labels)


class Block(NamedTuple):
    """Rows of one session: the values of series i of `series_set` are `values[:, i]`.

    `t_ms` is int64 (n,), ascending strictly; `values` float64 (n, len(series_set.series)); NaN is "no
    value". `start_ms` is when the session's counters were 0; 0 if that is not known.
    """

    series_set: SeriesSet
    t_ms: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    start_ms: int = 0


class Batch(NamedTuple):
    """Blocks for one request; of one instance, each block is later than the one before it.

    `marks` is what the cursor says of the sessions concerned once the request is accepted.
    `passed_over` counts samples that are not in the blocks because their instance has gone past
    their time. A batch may have no blocks: then only its marks matter.
    """

    blocks: tuple[Block, ...]
    marks: Mapping[str, Mark]
    passed_over: int

    @property
    def samples(self) -> int:
        return sum(block.values.size for block in self.blocks)
