"""A piece of a batch: samples that are not settled yet, and what is known about them.

Strategy: immutable values, which the cursor keeps. `reconcile` changes them by the answers.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

from rondo_tools.prom.proto.remote_write_v1_pb2 import Sample, TimeSeries, WriteRequest
from rondo_tools.push.encoding.body import Body
from rondo_tools.push.split import metric_of, up_to, witnesses


class State(enum.Enum):
    """What is known about a piece; the cursor's file has these values."""

    CLEAR = "clear"
    MAYBE = "maybe"
    SINGLES = "singles"
    TRIAL = "trial"
    AGE = "age"
    TOO_OLD = "too old"


class Result(enum.Enum):
    """How samples that the receiver does not have are counted."""

    REJECTED = "rejected"
    UNCLEAR = "unclear"
    PASSED_OVER = "passed_over"  # the receiver accepted the request, but did not write them


@dataclass(frozen=True)
class Refusal:
    """Samples that were refused: their series, their first and last time, the server's text."""

    series: str
    from_ms: int
    through_ms: int
    samples: int
    words: str
    result: Result


@dataclass(frozen=True)
class Piece:
    """Samples that are not settled yet, and what is known about them.

    `unclear`: a refused sample may still have arrived, and counts as unclear. `is_fresh`: its age was not
    tested yet. The other fields are the progress of a TRIAL or AGE: the number of the witness, how many of
    its samples were refused (`asked`), the time up to which everything is refused (0: not known), and
    whether samples go `singly` because the answer to several was lost. With TOO_OLD, `bound_ms` is set
    if it holds for other pieces too, and series go `singly` if no acceptance confirmed the bound.
    """

    body: Body
    state: State = State.CLEAR
    unclear: bool = False
    is_fresh: bool = False
    witness: int = 0
    asked: int = 0
    bound_ms: int = 0
    singly: bool = False

    @cached_property
    def request(self) -> WriteRequest:
        """Its samples, as a request of 1.0. Raises ValueError for an invalid body."""
        return self.body.request()

    @property
    def newest_ms(self) -> int:
        return max(series.samples[-1].timestamp for series in self.request.timeseries)

    def part(self, request: WriteRequest, **changes: Any) -> list[Piece]:
        """A piece with some of its samples; an empty list without samples."""
        if not request.timeseries:
            return []
        return [replace(self, body=self.body.select(request), **changes)]

    def becomes(self, state: State, *, unclear: bool) -> Piece:
        return replace(
            self,
            state=state,
            unclear=unclear,
            is_fresh=False,
            witness=0,
            asked=0,
            bound_ms=0,
            singly=False,
        )

    def if_lost(self) -> Piece:
        """The piece after it was sent and its answer was lost."""
        if self.state is State.CLEAR:
            return replace(self, state=State.MAYBE, unclear=True)
        if self.state is State.TOO_OLD:
            return replace(self, unclear=True)
        # A single sample that arrived is accepted again, so a lost answer changes nothing.
        question = self.question()
        return replace(self, singly=True) if question is not None and len(question[1]) > 1 else self

    def check(self) -> None:
        """Raise ValueError for an impossible piece."""
        request = self.body.request()  # not cached: there may be many pieces
        for series in request.timeseries:
            times = [sample.timestamp for sample in series.samples]
            if not times or any(a >= b for a, b in pairwise(times)):
                raise ValueError("a piece in flight has a series whose samples do not ascend")
        if not request.timeseries:
            raise ValueError("a piece in flight has no samples")
        replace(self).question()

    def question(self) -> tuple[TimeSeries, list[Sample]] | None:
        """The samples of one series to send next; None to send the whole piece.

        Raises ValueError if there are none.
        """
        if self.state in (State.CLEAR, State.MAYBE, State.TOO_OLD):
            return None
        series = self._witness()
        if series is None or self.asked >= len(series.samples):
            raise ValueError(f"a piece in flight cannot be {self.state.value!r}")
        is_rest = self.state is State.AGE and self.bound_ms > 0 and self.asked == 1 and not self.singly
        return series, list(series.samples[self.asked :] if is_rest else series.samples[self.asked :][:1])

    def _witness(self) -> TimeSeries | None:
        if self.state is State.SINGLES:
            return self.request.timeseries[0] if len(self.request.timeseries) == 1 else None
        found = self.in_trial() if self.state is State.TRIAL else self.of_age()
        return found[self.witness] if self.witness < len(found) else None

    def in_trial(self) -> list[TimeSeries]:
        """The witnesses of a trial: the longest series, and the longest one of another metric."""
        long = [series for series in self.request.timeseries if len(series.samples) > 1]
        first = max(long, key=lambda series: len(series.samples), default=None)
        if first is None:
            return []
        others = [series for series in long if metric_of(series) != metric_of(first)]
        return [first, *sorted(others, key=lambda series: -len(series.samples))[:1]]

    def of_age(self) -> list[TimeSeries]:
        """The witnesses of age, with samples up to the bound if it is known."""
        return witnesses(up_to(self.request, self.bound_ms) if self.bound_ms else self.request)
