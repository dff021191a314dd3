"""Reconciling, against a receiver with Prometheus' rules."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from devtools.receivers.receiver import HOUR_MS, Key, Receiver, Samples
from rondo_tools.catalog import Series
from rondo_tools.prom.proto.remote_write_v1_pb2 import WriteRequest
from rondo_tools.prom.samples import Block, SeriesSet
from rondo_tools.push.encoding.body import Body
from rondo_tools.push.encoding.v1 import compress, decode, encode
from rondo_tools.push.piece import Piece, Refusal, Result, State
from rondo_tools.push.reconcile import Reconciliation
from tests.support.push.receivers import T0, header, labels_of
from tests.support.rounds import IN_ROUNDS

SERIES = tuple(Series(name, (), "gauge", "", "") for name in "abcd")
LATER = T0 + 2 * HOUR_MS


def request(
    instances: int = 2, rows: int = 4, start_ms: int = T0, series: tuple[Series, ...] = SERIES
) -> WriteRequest:
    blocks = []
    for at in range(instances):
        head = header(f"vm-{at}", series=series)
        t_ms = np.arange(rows) * 1000 + start_ms
        values = np.arange(rows * len(series), dtype=np.float64).reshape(rows, len(series)) + 1000 * at
        blocks.append(Block(SeriesSet(series, labels_of(head)), t_ms, values))
    return decode(encode(blocks))


def key(labels: Key) -> str:
    return f"{dict(labels)['instance']}{dict(labels)['__name__']}"


def count(batch: WriteRequest) -> int:
    return sum(len(series.samples) for series in batch.timeseries)


def ids(batch: WriteRequest) -> Iterator[tuple[Key, int]]:
    for series in batch.timeseries:
        labels = tuple((label.name, label.value) for label in series.labels)
        for sample in series.samples:
            yield labels, sample.timestamp


class Settled:
    """A batch that is reconciled to the end, and the result."""

    def __init__(
        self,
        receiver: Receiver,
        batch: WriteRequest,
        *,
        landed: bool = False,
        state: State = State.CLEAR,
        limit: int = 10**9,
        old_ms: int = 0,
        faults: Iterable[str] = (),
    ) -> None:
        """`landed`: an earlier attempt at the whole batch arrived, and its answer was lost.

        `faults` has a word for each request: lost (before it arrives), unanswered (after), killed (before
        it is sent), killed after (it arrived). After a kill, work continues from the cursor.
        """
        self.receiver = receiver
        self.sent = 0
        self.refusals: list[Refusal] = []
        self.tried: set[tuple[Key, int]] = set()  # samples that were in a refused request
        self.requests = 0
        if landed:
            receiver.take(compress(batch))
            state = State.MAYBE
        first = Piece(Body(compress(batch)), state, unclear=state is State.MAYBE, is_fresh=True)
        work = Reconciliation([first], old_ms=old_ms)
        words = iter(faults)
        while (body := work.next()) is not None:
            in_flight = work.in_flight()
            word = next(words, "ok")
            if word == "killed":
                work = self.again(in_flight, work, old_ms)
                continue
            self.requests += 1
            if word == "lost":
                work.lost()
                continue
            piece = decode(body.data)
            if count(piece) > limit:
                refusal: str | None = "too large"
                answer: Callable[[str], None] = work.too_large
            else:
                refusal, answer = receiver.take(body.data), work.refused
            if refusal is not None:
                self.tried.update(ids(piece))
            if word == "unanswered":
                work.lost()
            elif word == "killed after":
                work = self.again(in_flight, work, old_ms)
            elif refusal is None:
                work.accepted(count(piece))
            else:
                answer(refusal)
            self.collect(work)
        self.too_old_ms = work.too_old_ms
        assert self.requests < 10 * (count(batch) + 10)

    def collect(self, work: Reconciliation) -> None:
        self.sent += work.sent
        self.refusals += work.refusals
        work.sent = 0
        work.refusals.clear()

    def again(self, pieces: tuple[Piece, ...], work: Reconciliation, old_ms: int) -> Reconciliation:
        for piece in pieces:
            replace(piece).check()
        return Reconciliation([replace(piece) for piece in pieces], old_ms=old_ms)

    def counted(self, result: Result) -> int:
        return sum(refusal.samples for refusal in self.refusals if refusal.result is result)

    @property
    def counts(self) -> tuple[int, int, int]:
        return self.sent, self.counted(Result.REJECTED), self.counted(Result.UNCLEAR)


def wanted(batch: WriteRequest) -> Samples:
    receiver = Receiver()
    assert receiver.take(compress(batch)) is None
    return receiver.samples


def refusing(*keys: str) -> Receiver:
    """Refuses these series, written as vm-0a."""
    return Receiver(lambda labels, t_ms: "no" if key(labels) in keys else None)


def held(receiver: Receiver) -> dict[str, list[int]]:
    return {key(labels): sorted(samples) for labels, samples in receiver.samples.items()}


# --- the cost, in requests -----------------------------------------------------------------------


def test_one_bad_sample_costs_a_search() -> None:
    receiver = Receiver(lambda labels, t_ms: "no b" if key(labels) == "vm-1b" and t_ms == T0 + 2000 else None)
    batch = request(instances=15, rows=10)
    done = Settled(receiver, batch)
    good = wanted(batch)
    (poisoned,) = (labels for labels in good if key(labels) == "vm-1b")
    del good[poisoned][T0 + 2000]
    assert receiver.samples == good
    assert done.counts == (599, 1, 0)
    (refusal,) = done.refusals
    assert refusal.series == 'b{instance="vm-1",job="rondo-vmm",zone="a"}'
    assert (refusal.words, refusal.from_ms, refusal.samples) == ("no b", T0 + 2000, 1)
    assert done.requests <= 20


@pytest.mark.parametrize("bad", [f"vm-{i}{name}" for i in (0, 7, 14) for name in "ad"])
def test_one_bad_series_of_sixty_costs_a_search(bad: str) -> None:
    batch = request(instances=15, rows=10)
    done = Settled(refusing(bad), batch)
    assert done.counts == (590, 10, 0)
    assert done.requests <= 24
    assert len(held(done.receiver)) == 59


def test_one_bad_series_of_sixty_and_one_row_costs_twelve() -> None:
    done = Settled(refusing("vm-7b"), request(instances=15, rows=1))
    assert (done.counts, done.requests <= 12) == ((59, 1, 0), True)


@pytest.mark.parametrize("rows", [2, 10])
def test_a_committed_batch_is_recognised_and_counted_as_sent(rows: int) -> None:
    receiver, batch = Receiver(), request(instances=6, rows=rows)
    done = Settled(receiver, batch, landed=True)
    assert receiver.samples == wanted(batch)
    assert done.counts == (6 * rows * 4, 0, 0)
    # The batch and its halves by instance; two witnesses of each instance, and its newest samples.
    assert done.requests == 2 * 6 - 1 + 6 * (2 * rows + 1)


def test_a_committed_batch_of_one_row_is_accepted_again() -> None:
    receiver, batch = Receiver(), request(instances=6, rows=1)
    done = Settled(receiver, batch, landed=True)
    assert (done.counts, done.requests) == ((24, 0, 0), 1)


@pytest.mark.heavy
def test_one_metric_refused_of_many_instances() -> None:
    """The number of refusals does not matter: every good sample arrives."""
    receiver = Receiver(lambda labels, t_ms: "no a" if dict(labels)["__name__"] == "a" else None)
    done = Settled(receiver, request(instances=625, rows=1))
    assert done.counts == (625 * 3, 625, 0)
    assert done.requests <= 6 * 625


def test_a_delivered_sample_costs_a_request() -> None:
    """A cursor was restored: twelve rows of each series were delivered, three are new."""
    receiver = Receiver()
    assert receiver.take(compress(request(instances=10, rows=12))) is None
    batch = request(instances=10, rows=15)
    # The values of both are the same, row by row.
    done = Settled(receiver, batch)
    assert receiver.samples == wanted(batch)
    assert done.counts == (10 * 4 * 4, 10 * 4 * 11, 0)  # the newest of each series is accepted again
    assert done.requests < 1.5 * 10 * 4 * 12


# --- was it committed? ---------------------------------------------------------------------------


def test_poison_in_a_batch_that_did_not_land_is_not_taken_for_delivery() -> None:
    done = Settled(refusing("vm-0a"), request(), state=State.MAYBE)
    assert set(held(done.receiver)) == {"vm-0b", "vm-0c", "vm-0d", "vm-1a", "vm-1b", "vm-1c", "vm-1d"}
    assert done.counts == (28, 0, 4)


def test_one_series_that_looks_delivered_proves_nothing_for_its_instance() -> None:
    """All samples of one series but the newest are refused; another metric shows that nothing arrived."""
    receiver = Receiver(lambda labels, t_ms: "no" if key(labels) == "vm-0a" and t_ms < T0 + 3000 else None)
    batch = request()
    done = Settled(receiver, batch, state=State.MAYBE)
    assert {name: len(times) for name, times in held(receiver).items()} == {
        key(labels): 1 if key(labels) == "vm-0a" else 4 for labels in wanted(batch)
    }
    assert sum(done.counts) == 32


def test_one_committed_instance_proves_nothing_for_another() -> None:
    """A cursor was restored, and then an answer was lost: vm-0 was committed, vm-1 was not."""
    batch = request()
    receiver = Receiver()
    assert receiver.take(compress(WriteRequest(timeseries=batch.timeseries[:4]))) is None
    done = Settled(receiver, batch, state=State.MAYBE)
    assert receiver.samples == wanted(batch)
    assert done.counts == (32, 0, 0)


# --- size ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 3, 4, 7, 16])
def test_a_too_large_request_is_sent_in_parts(limit: int) -> None:
    receiver, batch = Receiver(), request()
    done = Settled(receiver, batch, limit=limit)
    assert receiver.samples == wanted(batch)
    assert done.sent == 32


def test_a_sample_that_is_too_large_alone_is_rejected() -> None:
    assert Settled(Receiver(), request(), limit=0).counts == (0, 32, 0)


# --- age -----------------------------------------------------------------------------------------


def test_samples_too_old_in_all_series_cost_only_themselves() -> None:
    receiver = Receiver()
    receiver.everything[(("other", "writer"),)] = {T0 + HOUR_MS + 1500: 0}
    assert Settled(receiver, request()).counts == (16, 16, 0)


@pytest.mark.parametrize("state", [State.CLEAR, State.MAYBE])
@pytest.mark.parametrize("boundary", [0, 1, 7, 19, 20])
def test_samples_refused_for_their_age_do_not_cost_a_request_each(boundary: int, state: State) -> None:
    """One series finds the boundary, which holds for all, exactly."""
    too_old_ms = T0 + 1000 * boundary
    receiver = Receiver(lambda labels, t_ms: "too old" if t_ms < too_old_ms else None)
    batch = request(instances=5, rows=20)
    done = Settled(receiver, batch, old_ms=LATER, state=state)
    good = {
        labels: {t_ms: value for t_ms, value in samples.items() if t_ms >= too_old_ms}
        for labels, samples in wanted(batch).items()
    }
    assert receiver.samples == {labels: samples for labels, samples in good.items() if samples}
    assert sum(done.counts) == 400
    if state is State.CLEAR or boundary < 19:
        assert done.counts[0] == 20 * (20 - boundary)
        # A witness, and twice two requests that confirm it, or three witnesses without a bound, and each of
        # 20 series; the batch, the too old samples once more, and the rest.
        assert done.requests <= (boundary + 1 + 4 if boundary < 20 else 3 * 20 + 2 * 20) + 3
        assert done.too_old_ms == (too_old_ms - 1000 if boundary else 0)


def test_a_committed_batch_that_is_old_is_recognised() -> None:
    receiver, batch = Receiver(), request(instances=5, rows=10)
    done = Settled(receiver, batch, old_ms=LATER, landed=True)
    assert receiver.samples == wanted(batch)
    assert (done.counts, done.too_old_ms) == ((200, 0, 0), 0)


@pytest.mark.parametrize("state", [State.CLEAR, State.MAYBE])
@pytest.mark.parametrize("bad", ["a series", "a metric", "an instance"])
def test_samples_refused_for_good_are_not_taken_for_old_ones(bad: str, state: State) -> None:
    def refuses(labels: Key, t_ms: int) -> str | None:
        is_bad = {
            "a series": key(labels) == "vm-0a",
            "a metric": dict(labels)["__name__"] == "a",
            "an instance": dict(labels)["instance"] == "vm-0",
        }
        return "no" if is_bad[bad] else None

    receiver, batch = Receiver(refuses), request(instances=3, rows=10)
    done = Settled(receiver, batch, old_ms=LATER, state=state)
    assert receiver.samples == {
        labels: samples for labels, samples in wanted(batch).items() if not refuses(labels, 0)
    }
    assert (sum(done.counts), done.too_old_ms) == (120, 0)


@pytest.mark.parametrize(
    ("bad", "boundary"), [(bad, at) for bad in ("a", "ab") for at in (0, 1, 2, 9)] + [("abc", 0)]
)
@pytest.mark.parametrize("instances", [1, 3])
def test_a_bad_series_finds_no_bound(instances: int, boundary: int, bad: str) -> None:
    """It is refused as a whole; the others only up to the hour, and all newer samples arrive."""
    too_old_ms = T0 + 1000 * boundary
    receiver = Receiver(lambda labels, t_ms: "no" if t_ms < too_old_ms or is_bad(labels) else None)

    def is_bad(labels: Key) -> bool:
        return dict(labels)["__name__"] in bad

    batch = request(instances, rows=10)
    done = Settled(receiver, batch, old_ms=LATER)
    assert receiver.samples == {
        labels: {t_ms: value for t_ms, value in samples.items() if t_ms >= too_old_ms}
        for labels, samples in wanted(batch).items()
        if not is_bad(labels)
    }
    assert sum(done.counts) == count(batch)


# --- 2.0 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.CLEAR, State.MAYBE])
def test_a_partly_written_request_is_settled(state: State) -> None:
    work = Reconciliation([Piece(Body(compress(request())), state, unclear=state is State.MAYBE)])
    work.refused("a label is too long", written=30)
    (refusal,) = work.refusals
    assert (work.next(), work.sent, refusal.samples) == (None, 30, 2)
    assert (refusal.words, refusal.result is Result.UNCLEAR) == (
        "a label is too long",
        state is State.MAYBE,
    )


@pytest.mark.parametrize(("written", "passed_over"), [(None, 0), (32, 0), (31, 1), (0, 32), (320, 0)])
def test_an_accepted_request_that_was_partly_written(written: int | None, passed_over: int) -> None:
    work = Reconciliation([Piece(Body(compress(request())))])
    work.accepted(32, written)
    assert (work.next(), work.sent) == (None, 32 - passed_over)
    assert sum(one.samples for one in work.refusals if one.result is Result.PASSED_OVER) == passed_over


# --- any history ---------------------------------------------------------------------------------


FAULTS = st.sampled_from(["ok"] * 6 + ["lost", "unanswered", "killed", "killed after"])


@IN_ROUNDS
@pytest.mark.heavy
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_no_good_sample_is_ever_lost(round_: int, data: st.DataObject) -> None:
    """Any samples committed before, any refusals, and any fault of each request.

    Refused for good: whole series, single samples, and everything older than some time (the hour's bound).
    All other samples arrive, exactly; the counts add up; only samples of refused requests were given up.
    """
    instances, rows = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    batch = request(instances, rows)
    names = [f"vm-{i}{name}" for i in range(instances) for name in "abcd"]
    bad_series = data.draw(st.sets(st.sampled_from(names), max_size=2))
    bad_samples = data.draw(st.sets(st.tuples(st.sampled_from(names), st.integers(0, rows - 1)), max_size=2))
    too_old_ms = T0 + 1000 * data.draw(st.integers(0, rows)) if data.draw(st.booleans()) else 0
    limit = data.draw(st.sampled_from([10**9, 10**9, 6]))

    def refuses(labels: Key, t_ms: int) -> str | None:
        bad = (
            key(labels) in bad_series
            or (key(labels), (t_ms - T0) // 1000) in bad_samples
            or t_ms < too_old_ms
        )
        return "no" if bad else None

    receiver = Receiver(refuses)
    everything = wanted(batch)
    good = {
        labels: {t_ms: value for t_ms, value in samples.items() if refuses(labels, t_ms) is None}
        for labels, samples in everything.items()
    }
    assume(len({name[:-1] for name, _ in bad_samples}) == len(bad_samples))
    done = Settled(
        receiver,
        batch,
        landed=data.draw(st.booleans()),
        limit=limit,
        old_ms=data.draw(st.sampled_from([0, LATER, T0 + 2000])),
        faults=data.draw(st.lists(FAULTS, max_size=60)),
    )
    assert {labels: samples for labels, samples in receiver.samples.items() if samples} == {
        labels: samples for labels, samples in good.items() if samples
    }
    assert sum(done.counts) == count(batch)
    assert {one for one in ids(batch) if one[1] not in receiver.samples.get(one[0], {})} <= done.tried


@pytest.mark.heavy
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_delivered_samples_do_not_hide_new_ones(data: st.DataObject) -> None:
    """Each series of the batch was delivered up to its own row, and some are refused for good."""
    instances, rows = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 6))
    batch = request(instances, rows)
    names = [f"vm-{i}{name}" for i in range(instances) for name in "abcd"]
    there = data.draw(st.fixed_dictionaries({name: st.integers(0, rows) for name in names}))
    bad = data.draw(st.sets(st.sampled_from(names), max_size=2))
    receiver = refusing(*bad)
    for name in set(names) - bad:
        one = WriteRequest()
        (series,) = (
            one for one in batch.timeseries if key(tuple((x.name, x.value) for x in one.labels)) == name
        )
        one.timeseries.add(labels=series.labels, samples=series.samples[: there[name]])
        assert receiver.take(compress(one)) is None
    done = Settled(receiver, batch, limit=data.draw(st.sampled_from([10**9, 5])))
    assert {name: len(times) for name, times in held(receiver).items() if times} == {
        name: rows for name in names if name not in bad
    }
    assert sum(done.counts) == count(batch)


def test_pieces_of_a_series_go_in_time_order() -> None:
    receiver = Receiver(lambda labels, t_ms: "no" if t_ms == T0 + 1000 else None)
    Settled(receiver, request(1, 6))
    alone = [r for r in receiver.requests if len(r.timeseries) == 1 and len(r.timeseries[0].samples) == 1]
    for _, group in itertools.groupby(alone, key=lambda r: r.timeseries[0].labels[0].value):
        times = [r.timeseries[0].samples[0].timestamp for r in group]
        assert times == sorted(times)


def test_one_request_at_a_time_is_enough() -> None:
    """The process is killed after each request, continues from there, and gets to the end."""
    batch = request(instances=15, rows=10)
    receiver = refusing("vm-7b")
    done = Settled(receiver, batch, faults=["ok", "killed"] * 1000)
    assert done.counts == (590, 0, 10) or done.counts == (590, 10, 0)
    assert done.requests < 60


def test_the_state_machine_loads_nothing_that_does_io() -> None:
    code = "import sys, rondo_tools.push.reconcile; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"requests", "urllib3", "ssl", "fcntl"} & set(loaded.split())
