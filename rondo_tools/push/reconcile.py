"""What to send when a batch was not accepted: the plan, without any sending.

Strategy: a plan is a generator. It yields a request to send, is given the answer, and counts what
came of it. The facts it stands on: a receiver commits a request whole or not at all; of a series
it takes samples in time order only, and an exact duplicate only of the newest.

A CLEAR refusal (nothing of the batch was ever committed) is cut finer until what is refused stands
alone: by instance, then by series, then sample by sample, oldest first. Pieces of one series are
never sent out of order, so no good sample is overtaken by a newer one.

After an UNCLEAR outcome the refusal may only say that the batch is there already. Each instance
shows by itself which of the two it is: if any of its oldest samples is accepted, while there are
newer ones of that series, nothing of it was committed. If none is, one series goes out sample by
sample, as the witness: all refused but the newest, and the newest taken, is what a committed batch
looks like, for all series of the instance. Anything else is not, and nothing was lost by trying:
every sample of the witness was tried in its turn, and no other series has moved. (A series of
which every sample but the newest is bad in its own right would mislead. Receivers refuse for age,
which is alike for all series, or for order, or a series altogether.)

Old samples (`old_ms`) may be refused for their age, thousands of them, which would cost a request
each. The receiver's bound is one for all series, so one series finds it, sample by sample; two more
confirm it with a sample at each end; then all that is not newer is passed over at once.

A receiver of 2.0 may write all that it takes of a request and refuse the rest: then it says how
many samples it wrote, and there is nothing left to find out.

After a thousand refusals (a cursor put back from a backup makes as many) one series of an instance
tells up to when all was delivered: of the others that begin with a refusal, what is not newer is
passed over unasked. What is of one moment is not cut any more then.

A batch that was already sent in pieces (`split`) may have landed in part. Then nothing is inferred
from one series to another: it is cut as after a clear refusal. That is right whatever was
committed, and costs the most requests; after a thousand refusals what is refused is passed over.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from rondo_tools.push.http.transport import Answer, Outcome
from rondo_tools.push.proto.remote_write_v1_pb2 import Sample, TimeSeries, WriteRequest
from rondo_tools.push.split import (
    by_instance,
    count,
    finer,
    instance_of,
    is_of_one_time,
    joined,
    metric_of,
    name_of,
    only,
    select,
    smaller,
    witnesses,
)

MAX_REFUSALS = 1000  # of one batch, before one series speaks for its instance
EVERY_SERIES = "series of all kinds"

Plan = Generator[WriteRequest, Answer, None]
"""Yields requests; wants an answer to each: ACCEPTED, REFUSED or TOO_LARGE."""


@dataclass
class Refusal:
    """A series of which samples stay refused: how many, from when to when, the server's first words."""

    words: str
    t_ms: int
    through_ms: int = 0
    samples: int = 0


@dataclass
class Settlement:
    """The plans for one batch, and what came of it, in samples.

    `unclear` means that some of it may have been committed before: what stays refused is then
    counted as unclear, else as rejected. It may become true while a plan is carried out.
    """

    unclear: bool
    old_ms: int = 0  # what is older may be refused for that
    too_old_ms: int = 0  # up to here everything was
    sent: int = 0
    rejected: int = 0
    not_known: int = 0
    refusals: dict[str, Refusal] = field(default_factory=dict)
    _refused: int = 0  # requests
    _split: bool = False
    _bounds_ms: dict[str, int] = field(default_factory=dict)  # of instances: all up to it is refused
    _stuck: dict[str, set[str]] = field(default_factory=dict)  # and their metrics refused altogether

    def plan(self, request: WriteRequest, answer: Answer, *, split: bool) -> Plan:
        """Settle a batch to which `answer` was given as a whole."""
        self._split = split
        if answer.written:
            yield from self._cut_finer(request, answer)
            return
        if self.unclear and not split and answer.outcome is Outcome.REFUSED:
            for piece in by_instance(request):
                yield from self._was_it_committed(piece)
            return
        old = select(request, lambda sample: sample.timestamp < self.old_ms)
        if not old.timeseries or self.unclear or split or answer.outcome is not Outcome.REFUSED:
            yield from self._cut_finer(request, answer)
            return
        yield from self._deliver_old(old)
        yield from self._deliver(select(request, lambda sample: sample.timestamp >= self.old_ms))

    def _deliver(self, request: WriteRequest) -> Plan:
        """Deliver all of a request that is accepted, in an order that is right in any case."""
        if not request.timeseries:
            return
        answer = yield request
        if answer.outcome is Outcome.ACCEPTED:
            self.sent += count(request)
        else:
            yield from self._cut_finer(request, answer)

    def _cut_finer(self, request: WriteRequest, answer: Answer) -> Plan:
        if answer.written:
            self._taken_in_part(request, answer.written, answer.text)
            return
        if answer.outcome is Outcome.TOO_LARGE:
            parts, is_too_much = smaller(request), False
        else:
            self._refused += 1
            parts, is_too_much = finer(request), self._refused > MAX_REFUSALS
        if count(request) == 1 or (is_too_much and (self._split or is_of_one_time(request))):
            for series in request.timeseries:
                self._refuse(series, series.samples, answer.text)
        elif is_too_much or (len(parts) == 1 and answer.outcome is not Outcome.TOO_LARGE):
            for series in request.timeseries:
                yield from self._deliver_in_turn(series, asks_others=is_too_much)
        else:
            for part in parts:
                yield from self._deliver(part)

    def _deliver_in_turn(self, series: TimeSeries, *, asks_others: bool) -> Plan:
        """Deliver a series sample by sample, and all that follows the first one that is accepted.

        `asks_others`: once its oldest is refused, so is what was of the others of its instance.
        """
        known_ms = self._bounds_ms.get(instance_of(series), 0) if asks_others else 0
        bound_ms, is_accepted, left = 0, False, list(series.samples)
        while left and not is_accepted:
            sample = left.pop(0)
            answer = yield only(series, [sample])
            is_accepted = answer.outcome is Outcome.ACCEPTED or bool(answer.written)
            if is_accepted:
                self.sent += 1
                continue
            self._refused += 1
            bound_ms = max(sample.timestamp, known_ms)
            self._refuse(series, [sample, *(one for one in left if one.timestamp <= bound_ms)], answer.text)
            left = [one for one in left if one.timestamp > bound_ms]
        if bound_ms > known_ms:
            self._learn(series, bound_ms, to_its_end=not is_accepted)
        yield from self._deliver(only(series, left))

    def _learn(self, series: TimeSeries, bound_ms: int, *, to_its_end: bool) -> None:
        """One series was refused up to there: so are, it seems, all of its instance.

        One that was refused to its end may be bad in itself. Three metrics would be too many.
        """
        instance = instance_of(series)
        if to_its_end:
            stuck = self._stuck.setdefault(instance, set())
            stuck.add(metric_of(series))
            if instance in self._bounds_ms or len(stuck) < 3:
                return
        self._bounds_ms[instance] = bound_ms

    def _deliver_old(self, request: WriteRequest) -> Plan:
        """Deliver samples that may be too old, without asking for each."""
        witness, *others = witnesses(request)
        settled: set[tuple[str, int]] = set()
        boundary_ms = 0
        words = ""
        for sample in witness.samples:
            answer = yield only(witness, [sample])
            settled.add((name_of(witness), sample.timestamp))
            if answer.outcome is Outcome.ACCEPTED:
                self.sent += 1
                break
            self._refuse(witness, [sample], answer.text)
            boundary_ms, words = sample.timestamp, answer.text
        confirmed = 0
        for series in others:
            mine = [sample for sample in series.samples if sample.timestamp <= boundary_ms]
            for sample in {one.timestamp: one for one in (*mine[:1], *mine[-1:])}.values():
                answer = yield only(series, [sample])
                settled.add((name_of(series), sample.timestamp))
                if answer.outcome is Outcome.ACCEPTED:
                    self.sent += 1
                    boundary_ms = 0  # it was not for age
                    break
                self._refuse(series, [sample], answer.text)
                confirmed += 1
        left = joined(
            only(series, [one for one in series.samples if (name_of(series), one.timestamp) not in settled])
            for series in request.timeseries
        )
        if confirmed and boundary_ms:
            self.too_old_ms = boundary_ms
            for series in select(left, lambda sample: sample.timestamp <= boundary_ms).timeseries:
                self._refuse(series, series.samples, words, EVERY_SERIES)
            left = select(left, lambda sample: sample.timestamp > boundary_ms)
        yield from self._deliver(left)

    def _was_it_committed(self, request: WriteRequest) -> Plan:
        """Settle one instance's part after an unclear outcome: was it committed, or is it bad?"""
        oldest_ms = min(series.samples[0].timestamp for series in request.timeseries)
        oldest = select(request, lambda sample: sample.timestamp == oldest_ms)
        answer = yield oldest
        if answer.outcome is Outcome.ACCEPTED:
            self.sent += count(oldest)
            yield from self._deliver(select(request, lambda sample: sample.timestamp != oldest_ms))
            return
        stuck: dict[str, TimeSeries] = {}  # series whose oldest sample was refused alone
        words: dict[str, str] = {}
        untouched = {name_of(series): series for series in request.timeseries}
        for name, series in list(untouched.items()):
            del untouched[name]
            answer = yield only(series, series.samples[:1])
            if answer.outcome is not Outcome.ACCEPTED:
                stuck[name], words[name] = series, answer.text
                continue
            self.sent += 1
            # A series without a newer sample takes its duplicate, and tells nothing.
            if len(series.samples) > 1:
                self._refuse_oldest(stuck, words)
                rest = [only(series, series.samples[1:]) for series in (*stuck.values(), series)]
                yield from self._deliver(joined([*rest, *(only(s, s.samples) for s in untouched.values())]))
                return
        yield from self._ask_witness(stuck, words)

    def _ask_witness(self, stuck: dict[str, TimeSeries], words: dict[str, str]) -> Plan:
        """Each series' oldest sample was refused: is that because it is there already?"""
        while stuck:
            witness = stuck.pop(max(stuck, key=lambda name: len(stuck[name].samples)))
            refused = [(witness.samples[0], words[name_of(witness)])]
            taken = 0  # which of its samples was accepted: 0 for none, else 2 for the second ...
            for place, sample in enumerate(witness.samples[1:], start=2):
                answer = yield only(witness, [sample])
                if answer.outcome is Outcome.ACCEPTED:
                    taken = place
                    break
                refused.append((sample, answer.text))
            if taken and taken == len(witness.samples):
                # What a committed batch looks like. The others' newest samples are there too, or
                # are accepted now.
                self.sent += len(witness.samples) + sum(len(s.samples) - 1 for s in stuck.values())
                yield from self._deliver(joined([only(s, s.samples[-1:]) for s in stuck.values()]))
                return
            for sample, text in refused:
                self._refuse(witness, [sample], text)
            if taken:
                self.sent += 1
                self._refuse_oldest(stuck, words)
                rest = [only(series, series.samples[1:]) for series in stuck.values()]
                yield from self._deliver(joined([only(witness, witness.samples[taken:]), *rest]))
                return
            # Not even its newest: this one tells nothing. The next has not moved yet.

    def _refuse_oldest(self, stuck: dict[str, TimeSeries], words: dict[str, str]) -> None:
        for name, series in stuck.items():
            self._refuse(series, series.samples[:1], words[name])

    def _taken_in_part(self, request: WriteRequest, written: int, words: str) -> None:
        """Pass over what a receiver of 2.0 did not write of a request of which it wrote the rest."""
        left = max(0, count(request) - written)
        self.sent += count(request) - left
        if not left:
            return
        times = [sample.timestamp for series in request.timeseries for sample in series.samples]
        refusal = self.refusals.setdefault(EVERY_SERIES, Refusal(words, min(times)))
        refusal.t_ms = min(refusal.t_ms, *times)
        refusal.through_ms = max(refusal.through_ms, *times)
        refusal.samples += left
        if self.unclear:
            self.not_known += left
        else:
            self.rejected += left

    def _refuse(
        self, series: TimeSeries, samples: Sequence[Sample], words: str, name: str | None = None
    ) -> None:
        """Pass over samples of a series; its name, or another, is said."""
        if not samples:
            return
        first_ms = samples[0].timestamp
        refusal = self.refusals.setdefault(name or name_of(series), Refusal(words, first_ms))
        refusal.t_ms = min(refusal.t_ms, first_ms)
        refusal.through_ms = max(refusal.through_ms, samples[-1].timestamp)
        refusal.samples += len(samples)
        if self.unclear:
            self.not_known += len(samples)
        else:
            self.rejected += len(samples)
