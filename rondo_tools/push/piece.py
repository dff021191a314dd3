"""A piece of a batch: samples that are still to be settled, and what is known of them.

Strategy: values, which the cursor keeps. What an answer makes of them is in `reconcile`.
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
    """What is known of a piece; the values stand in the cursor."""

    CLEAR = "clear"
    MAYBE = "maybe"
    SINGLES = "singles"
    TRIAL = "trial"
    AGE = "age"
    TOO_OLD = "too old"


class Result(enum.Enum):
    """What samples that the receiver does not have are counted as."""

    REJECTED = "rejected"
    UNCLEAR = "unclear"
    PASSED_OVER = "passed_over"  # of a request that was accepted, the receiver did not write them


@dataclass(frozen=True)
class Refusal:
    """Samples that were passed over: of which series, from when to when, the server's words."""

    series: str
    from_ms: int
    through_ms: int
    samples: int
    words: str
    result: Result


@dataclass(frozen=True)
class Piece:
    """Samples that are still to be settled, and what is known of them.

    `unclear`: what stays refused may be there all the same, and is counted so. `is_fresh`: nobody
    has asked yet whether it is too old. The others are how far a TRIAL or AGE has come: which
    witness, how many of its samples were refused, up to when all is refused (0: not known), and
    whether they go `singly` because an answer to several was lost. With TOO_OLD, `bound_ms` is set
    if that holds for other pieces, too, and its series go `singly` where no acceptance told the bound.
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
        """Its samples, as 1.0 has them. Raises ValueError for a body that is none."""
        return self.body.request()

    @property
    def newest_ms(self) -> int:
        return max(series.samples[-1].timestamp for series in self.request.timeseries)

    def part(self, request: WriteRequest, **changes: Any) -> list[Piece]:
        """A piece for some of its samples; none without any."""
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
        """What is known of it when it was sent and the answer is not known."""
        if self.state is State.CLEAR:
            return replace(self, state=State.MAYBE, unclear=True)
        if self.state is State.TOO_OLD:
            return replace(self, unclear=True)
        # A single sample that landed is accepted again, so nothing changes where one was asked for.
        question = self.question()
        return replace(self, singly=True) if question is not None and len(question[1]) > 1 else self

    def check(self) -> None:
        """Raise ValueError for a piece that cannot be."""
        request = self.body.request()  # not kept: there may be many
        for series in request.timeseries:
            times = [sample.timestamp for sample in series.samples]
            if not times or any(a >= b for a, b in pairwise(times)):
                raise ValueError("a piece in flight has a series whose samples do not ascend")
        if not request.timeseries:
            raise ValueError("a piece in flight has no samples")
        replace(self).question()

    def question(self) -> tuple[TimeSeries, list[Sample]] | None:
        """The samples of one series that go out; None if the whole piece does.

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
        """The witnesses of age, with samples up to the bound, where that is known."""
        return witnesses(up_to(self.request, self.bound_ms) if self.bound_ms else self.request)
