"""Reconciles a batch that was not accepted: a state machine over its pieces, without I/O.

Strategy: a batch is an ordered list of pieces, at first one. `next` returns the next request, made from
the first piece; each answer removes pieces or splits the first. So the list is all the work left after an
answer, and the cursor keeps it: another process needs nothing else to continue.

Assumptions: a receiver of 1.0 commits a request as a whole or not at all. It accepts the samples of a
series in time order only, and an exact duplicate only of the newest. Pieces of one series are in time
order and are settled in that order, so no good sample is overtaken by a newer one. Only samples of a
refused request are passed over. The text of a refusal decides nothing.

| state | the request | accepted | refused |
|---|---|---|---|
| CLEAR: nothing was committed | the piece | done | halves, down to one sample, which is passed over |
| MAYBE: it may have been committed as a whole | the piece | done | split by instance; then a TRIAL of each |
| SINGLES: a series whose older samples were refused | its oldest sample | the rest is CLEAR | passed over |
| TRIAL: was this instance committed? | a sample of a witness | see below | see below |
| AGE: is it refused for its age? | samples of a witness | see below | see below |
| TOO_OLD: it seems to be | the piece | done | passed over |

TRIAL: a series is sent sample by sample, oldest first. If a sample other than its newest is accepted, the
piece was not committed, and is CLEAR. A committed request looks like this: all samples are refused but the
newest. A second series, of another metric, has to confirm it. Then everything counts as delivered, and the
newest sample of each series is sent once more. A series whose newest sample is refused too is passed over,
because each of its samples was tried; it proves nothing.

AGE: samples over an hour old (`old_ms`) may be refused by the thousand, in every series. One series finds
the bound, sample by sample: after some refusals a sample is accepted. Two more series, of other instances
and metrics if possible, confirm it, each with its oldest sample and then with all others up to the bound.
An acceptance up to the bound ends the inquiry. A series that is refused as a whole may be bad for another
reason, and finds no bound; the next one is sent sample by sample too. After three such series, everything
up to their ends may be too old. Samples that seem too old are sent once more; if no series found the
bound, they are halved down to one series, and an acceptance ends the inquiry.

A receiver of 2.0 may write a part of a request. It reports how many samples it wrote, so nothing is left
to find out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from rondo_tools.prom.proto.remote_write_v1_pb2 import Sample, TimeSeries, WriteRequest
from rondo_tools.push.encoding.body import Body
from rondo_tools.push.piece import Piece, Refusal, Result, State
from rondo_tools.push.split import (
    after,
    by_instance,
    count,
    halves,
    instance_of,
    name_of,
    newest,
    only,
    up_to,
    without,
)

EVERY_SERIES = "series of all kinds"


class Reconciliation:
    """Settles a batch. `pieces` are left to settle; `sent` and `refusals` are the result of the rest.

    Samples older than `old_ms` may be refused for their age. Other batches have shown that everything up to
    `too_old_ms` is.
    """

    def __init__(self, pieces: Iterable[Piece], *, old_ms: int = 0, too_old_ms: int = 0) -> None:
        self.pieces = list(pieces)
        self.sent = 0
        self.refusals: list[Refusal] = []
        self.is_too_old = False  # samples were passed over for their age
        self.is_step = False  # the last answer refused a sample, and the next request is a single one too
        self.too_old_ms = too_old_ms
        self._old_ms = old_ms
        # The last refused series was refused with its oldest sample: the next series begins with it.
        self._begins_with_oldest = False
        self._streak = 0  # samples of one series refused one after the other
        self._other_half: Piece | None = None  # of the piece that was split last

    def next(self) -> Body | None:
        """The next request; None if everything is settled."""
        if not self.pieces:
            return None
        first = self.pieces[0]
        question = first.question()
        return first.body if question is None else first.body.select(only(*question))

    def in_flight(self) -> tuple[Piece, ...]:
        """The pieces that are left if the process dies during the next request."""
        return (*(piece.if_lost() for piece in self.pieces[:1]), *self.pieces[1:])

    def lost(self) -> None:
        """The request was sent, and its answer was lost."""
        self.pieces[:1] = [piece.if_lost() for piece in self.pieces[:1]]

    def accepted(self, samples: int, written: int | None = None) -> None:
        """The request of `samples` was accepted; a receiver of 2.0 reports how many were `written`."""
        self.is_step = False
        first = self.pieces[0]
        question = first.question()
        if question is None:
            if written is None or written >= samples:
                self.sent += samples
            else:
                self._written(first.request, written, "", Result.PASSED_OVER)
            self._put([])
            if first.state is State.TOO_OLD and first.singly:
                self._is_not_too_old()
            if self.pieces and self.pieces[0] is self._other_half and count(self.pieces[0].request) > 1:
                self._halve(self.pieces[0], State.CLEAR)  # the refused sample is in this half
        elif first.state is State.SINGLES:
            self._put(self._delivered(first, *question, written))
            self._begins_with_oldest, self._streak = self._streak > 0, 0
        elif first.state is State.TRIAL:
            self._accepted_in_trial(first, *question, written)
        else:
            self._accepted_for_age(first, *question, written)

    def refused(self, words: str, written: int | None = None) -> None:
        """The request was refused; a receiver of 2.0 may have written a part of it."""
        first = self.pieces[0]
        question = first.question()
        if question is not None:
            series, samples = question
            if written:
                self.accepted(len(samples), written)
            elif first.state is State.SINGLES:
                self._pass_over(first, only(series, samples), words)
                self._put(first.part(without(first.request, series, samples)))
                self._streak += 1
                self._next_goes_singly(series)
            elif first.state is State.TRIAL:
                self._refused_in_trial(first, series, words)
            else:
                self._refused_for_age(first, series, len(samples))
            following = self.pieces[0].question() if self.pieces and not written else None
            self.is_step = following is not None and len(following[1]) == 1
            return
        self.is_step = False
        whole = count(first.request)
        if written:
            self._written(first.request, written, words, _result(first))
            self._put([])
        elif first.state is State.TOO_OLD and first.singly and len(first.request.timeseries) > 1:
            earlier, later = (first.part(half) for half in halves(first.request))
            self._put([*(replace(piece, bound_ms=0) for piece in earlier), *later])
        elif whole == 1 or first.state is State.TOO_OLD or first.newest_ms <= self.too_old_ms:
            self._pass_over(first, first.request, words)
            self._put([])
            if first.state is State.TOO_OLD:
                self.too_old_ms = max(self.too_old_ms, first.bound_ms)
            if whole > 1:
                self.is_too_old = True
            else:
                self._begins_with_oldest = True
                self._streak += 1
                self._next_goes_singly(first.request.timeseries[0])
        elif first.state is State.MAYBE:
            self._refused_maybe(first)
        else:
            self._refused_clear(first)

    def too_large(self, words: str) -> None:
        """The request was refused for its size, not for its samples."""
        first = self.pieces[0]
        question = first.question()
        if question is not None and len(question[1]) > 1:
            self._put([replace(first, singly=True)])
        elif question is not None or count(first.request) == 1:
            self.refused(words)
        else:
            self._put([piece for half in halves(first.request) for piece in first.part(half)])

    # --- whole pieces ----------------------------------------------------------------------------

    def _refused_clear(self, first: Piece) -> None:
        if first.is_fresh:
            known = up_to(first.request, self.too_old_ms)
            if known.timeseries:
                rest = after(first.request, self.too_old_ms)
                self._put([*first.part(known, state=State.TOO_OLD), *first.part(rest)])
                return
            old = up_to(first.request, self._old_ms - 1)
            if len(old.timeseries) > 1:
                rest = after(first.request, self._old_ms - 1)
                self._put(
                    [
                        *first.part(old, state=State.AGE, is_fresh=False),
                        *first.part(rest, is_fresh=False),
                    ]
                )
                return
        if len(first.request.timeseries) == 1 and self._begins_with_oldest:
            self._put([first.becomes(State.SINGLES, unclear=first.unclear)])
            return
        self._halve(first, State.CLEAR)

    def _refused_maybe(self, first: Piece) -> None:
        if first.is_fresh and len(first.request.timeseries) > 1 and first.newest_ms < self._old_ms:
            self._put([replace(first, state=State.AGE, is_fresh=False)])
        elif len(by_instance(first.request)) > 1:
            self._halve(first, State.MAYBE)
        elif first.in_trial():
            self._put([first.becomes(State.TRIAL, unclear=True)])
        else:
            self._halve(first, State.CLEAR)

    def _halve(self, first: Piece, state: State) -> None:
        parts = [piece for half in halves(first.request) for piece in first.part(half)]
        self._put([piece.becomes(state, unclear=piece.unclear) for piece in parts])
        self._other_half = self.pieces[1] if state is State.CLEAR else None

    def _next_goes_singly(self, series: TimeSeries) -> None:
        """Send the next piece sample by sample if it is of that series: its oldest may be refused too."""
        if self.pieces and self.pieces[0].state is State.CLEAR:
            mine = self.pieces[0].request.timeseries
            if len(mine) == 1 and mine[0].labels == series.labels:
                self.pieces[0] = self.pieces[0].becomes(State.SINGLES, unclear=self.pieces[0].unclear)
                return
        self._streak = 0

    # --- was it committed? -----------------------------------------------------------------------

    def _accepted_in_trial(
        self, first: Piece, series: TimeSeries, asked: list[Sample], written: int | None
    ) -> None:
        if asked[-1].timestamp != series.samples[-1].timestamp:
            self._put(self._delivered(first, series, asked, written))  # so it was not committed
        elif first.witness + 1 < len(first.in_trial()):
            self._put([replace(first, witness=first.witness + 1, asked=0)])
        else:
            self._was_committed(first)

    def _refused_in_trial(self, first: Piece, series: TimeSeries, words: str) -> None:
        if first.asked + 1 < len(series.samples):
            self._put([replace(first, asked=first.asked + 1)])
            return
        self._pass_over(first, only(series, series.samples), words)
        rest = first.part(without(first.request, series), asked=0)
        self._put(rest)
        if rest and len(rest[0].in_trial()) <= first.witness:
            if first.witness:
                self._was_committed(rest[0])
            else:
                self._put([rest[0].becomes(State.CLEAR, unclear=True)])

    def _was_committed(self, first: Piece) -> None:
        last = newest(first.request)
        self.sent += count(first.request) - count(last)
        self._put([piece.becomes(State.CLEAR, unclear=True) for piece in first.part(last)])

    # --- is it too old? --------------------------------------------------------------------------

    def _accepted_for_age(
        self, first: Piece, series: TimeSeries, asked: list[Sample], written: int | None
    ) -> None:
        whole = next(one for one in first.request.timeseries if one.labels == series.labels)
        if first.unclear and len(asked) == 1 and asked[0].timestamp == whole.samples[-1].timestamp:
            self._put([first.becomes(State.MAYBE, unclear=True)])  # a committed request looks like this
            return
        rest = self._delivered(first, series, asked, written)
        self._put(rest)
        if rest and first.bound_ms == 0 and first.asked > 0:
            bound_ms = series.samples[first.asked - 1].timestamp
            self._is_bound(replace(rest[0], state=State.AGE, bound_ms=bound_ms))

    def _refused_for_age(self, first: Piece, series: TimeSeries, asked: int) -> None:
        if first.asked + asked < len(series.samples):
            self._put([replace(first, asked=first.asked + asked)])
        else:
            self._is_bound(first)

    def _is_bound(self, first: Piece) -> None:
        """Another witness was refused up to the bound, or as a whole if no bound is known."""
        found = first.of_age()
        if len(found) < 2:
            state = State.MAYBE if first.unclear else State.CLEAR
            self._put([first.becomes(state, unclear=first.unclear)])
        elif first.witness + 1 < len(found):
            self._put([replace(first, witness=first.witness + 1, asked=0, singly=False)])
        else:
            is_known = len({instance_of(series) for series in found}) > 1
            bound_ms = first.bound_ms or min(series.samples[-1].timestamp for series in found)
            old, rest = up_to(first.request, bound_ms), after(first.request, bound_ms)
            settled = first.becomes(State.CLEAR, unclear=first.unclear)
            has_bound = first.bound_ms > 0
            changes = {"bound_ms": bound_ms if is_known else 0, "singly": not has_bound}
            too_old = settled.part(old, state=State.TOO_OLD, **changes)
            self._put([*too_old, *settled.part(rest, is_fresh=not has_bound)])

    def _is_not_too_old(self) -> None:
        """One series was accepted, so others may have been refused for another reason than their age."""
        for at, piece in enumerate(self.pieces):
            if piece.state is not State.TOO_OLD:
                break
            self.pieces[at] = piece.becomes(State.CLEAR, unclear=piece.unclear)

    # --- results ---------------------------------------------------------------------------------

    def _put(self, pieces: list[Piece]) -> None:
        """Replace the first piece."""
        self.pieces[:1] = pieces

    def _delivered(
        self, first: Piece, series: TimeSeries, asked: list[Sample], written: int | None
    ) -> list[Piece]:
        """Count samples that were accepted for the first time; returns the rest of their piece."""
        self._written(only(series, asked), len(asked) if written is None else written, "", Result.PASSED_OVER)
        unclear = first.unclear and first.state is State.SINGLES
        return [
            piece.becomes(State.CLEAR, unclear=unclear)
            for piece in first.part(without(first.request, series, asked))
        ]

    def _written(self, request: WriteRequest, written: int, words: str, result: Result) -> None:
        """Count a finished request, of which the receiver wrote `written` samples."""
        samples = count(request)
        self.sent += min(written, samples)
        if written < samples:
            words = words or f"it was accepted, but {written} of {samples} samples were written"
            self._note(request, samples - written, words, result)

    def _pass_over(self, first: Piece, request: WriteRequest, words: str) -> None:
        self._note(request, count(request), words, _result(first))

    def _note(self, request: WriteRequest, samples: int, words: str, result: Result) -> None:
        is_one = len(request.timeseries) == 1
        self.refusals.append(
            Refusal(
                name_of(request.timeseries[0]) if is_one else EVERY_SERIES,
                min(series.samples[0].timestamp for series in request.timeseries),
                max(series.samples[-1].timestamp for series in request.timeseries),
                samples,
                words,
                result,
            )
        )


def _result(piece: Piece) -> Result:
    return Result.UNCLEAR if piece.unclear else Result.REJECTED
