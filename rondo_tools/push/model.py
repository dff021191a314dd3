"""What drain, encoder, cursor and transport hand to one another: batches, and what came of a request.

Strategy: columns, not samples. A block is a run of rows of one session; the encoder turns a column
of it into the samples of one series without looking at each.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rondo_tools.catalog import Series

MAX_BYTES = 4 << 20
"""Of a request, before compression, about. Receivers take 32 MiB."""

SAMPLE_BYTES = 20
"""What a sample takes in a request of 1.0, about."""

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


class Batch(NamedTuple):
    """Rows [begin, end) of a slice; `blocks` are what is sent of them.

    Of one instance, each block is later than the one before it. `passed_over` counts samples that are
    wanted and too old. A batch may have no blocks: then only its rows count.
    """

    begin: int
    end: int
    blocks: tuple[Block, ...]
    passed_over: int

    @property
    def samples(self) -> int:
        return sum(block.values.size for block in self.blocks)


class Outcome(enum.Enum):
    """What came of an attempt."""

    ACCEPTED = enum.auto()
    RETRY = enum.auto()  # the same again may succeed
    REFUSED = enum.auto()  # something in this body will never be accepted
    TOO_LARGE = enum.auto()
    DENIED = enum.auto()  # no body will be accepted before somebody changes something


@dataclass(frozen=True)
class Answer:
    """The outcome; `text` is one line for people, the server's words in it made harmless.

    With RETRY: `unclear` if the request may have been accepted all the same; `retry_after_s` if
    the server asked for a pause. `written` is how many samples a receiver of 2.0 says that it wrote;
    None if it does not say. `status` is HTTP's; 0 where there was no answer.
    """

    outcome: Outcome
    text: str = ""
    unclear: bool = False
    retry_after_s: float | None = None
    status: int = 0
    written: int | None = None
