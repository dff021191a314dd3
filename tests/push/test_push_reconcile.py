"""Settling, carried out against a receiver with Prometheus' rules."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from receivers import HOUR_MS, T0, Key, Receiver, Samples, header, labels_of

from rondo_tools.catalog import Series
from rondo_tools.push.encoding.v1 import compress, decode, encode
from rondo_tools.push.http.transport import Answer, Outcome
from rondo_tools.push.model import Block, SeriesSet
from rondo_tools.push.proto.remote_write_v1_pb2 import WriteRequest
from rondo_tools.push.reconcile import Settlement

SERIES = tuple(Series(name, (), "gauge", "", "") for name in "abcd")


def request(instances: int = 2, rows: int = 4, start_ms: int = T0) -> WriteRequest:
    blocks = []
    for at in range(instances):
        head = header(f"vm-{at}", series=SERIES)
        t_ms = np.arange(rows) * 1000 + start_ms
        values = np.arange(rows * len(SERIES), dtype=np.float64).reshape(rows, len(SERIES)) + 1000 * at
        blocks.append(Block(SeriesSet(SERIES, labels_of(head)), t_ms, values))
    return decode(encode(blocks))


def key(labels: Key) -> str:
    return f"{dict(labels)['instance']}{dict(labels)['__name__']}"


def carry_out(
    receiver: Receiver,
    batch: WriteRequest,
    *,
    unclear: bool = False,
    split: bool = False,
    limit: int = 10**9,
    stop_after: int = 10**9,
    old_ms: int = 0,
) -> Settlement:
    """Send the batch as a whole, then settle it; `stop_after` so many pieces the process dies."""

    def send(piece: WriteRequest) -> Answer:
        if sum(len(series.samples) for series in piece.timeseries) > limit:
            return Answer(Outcome.TOO_LARGE, "too large")
        words = receiver.take(compress(piece))
        return Answer(Outcome.ACCEPTED) if words is None else Answer(Outcome.REFUSED, words)

    settlement = Settlement(unclear, old_ms)
    answer = send(batch)
    if answer.outcome is Outcome.ACCEPTED:
        settlement.sent = sum(len(series.samples) for series in batch.timeseries)
        return settlement
    plan = settlement.plan(batch, answer, split=split)
    piece = next(plan, None)
    for _ in range(stop_after):
        if piece is None:
            break
        try:
            piece = plan.send(send(piece))
        except StopIteration:
            break
    return settlement


def wanted(batch: WriteRequest) -> Samples:
    receiver = Receiver()
    assert receiver.take(compress(batch)) is None
    return receiver.samples


def test_poison_costs_only_itself() -> None:
    receiver = Receiver(lambda labels, t_ms: "no b" if key(labels) == "vm-1b" and t_ms == T0 + 2000 else None)
    batch = request()
    settlement = carry_out(receiver, batch)
    good = wanted(batch)
    (poisoned,) = (labels for labels in good if key(labels) == "vm-1b")
    del good[poisoned][T0 + 2000]
    assert receiver.samples == good
    assert (settlement.sent, settlement.rejected, settlement.not_known) == (31, 1, 0)
    ((series, refusal),) = settlement.refusals.items()
    assert series == 'b{instance="vm-1",job="rondo-vmm",zone="a"}'
    assert (refusal.words, refusal.t_ms, refusal.samples) == ("no b", T0 + 2000, 1)


def test_what_is_too_old_for_all_costs_only_itself() -> None:
    receiver = Receiver()
    receiver.everything[(("other", "writer"),)] = {T0 + HOUR_MS + 1500: 0}
    settlement = carry_out(receiver, request())
    assert (settlement.sent, settlement.rejected) == (16, 16)


def test_a_committed_batch_is_recognised_and_counted_as_sent() -> None:
    receiver, batch = Receiver(), request(instances=3, rows=10)
    assert receiver.take(compress(batch)) is None
    before = {labels: dict(samples) for labels, samples in receiver.samples.items()}
    receiver.requests.clear()
    settlement = carry_out(receiver, batch, unclear=True)
    assert receiver.samples == before
    assert (settlement.sent, settlement.not_known) == (3 * 10 * 4, 0)
    # The batch; each instance: oldest row, each series' oldest, the witness' others, the newest row.
    assert len(receiver.requests) == 1 + 3 * (1 + 4 + 9 + 1)


def test_poison_in_a_batch_that_did_not_land_is_not_taken_for_delivery() -> None:
    receiver = Receiver(lambda labels, t_ms: "no" if key(labels) == "vm-0a" else None)
    batch = request()
    settlement = carry_out(receiver, batch, unclear=True)
    assert {key(labels) for labels in receiver.samples} == {key(labels) for labels in wanted(batch)} - {
        "vm-0a"
    }
    assert (settlement.sent, settlement.not_known) == (28, 4)


@pytest.mark.parametrize("limit", [1, 3, 4, 7, 16])
def test_what_is_too_large_is_sent_in_parts(limit: int) -> None:
    receiver, batch = Receiver(), request()
    settlement = carry_out(receiver, batch, limit=limit)
    assert receiver.samples == wanted(batch)
    assert settlement.sent == 32


def test_a_sample_that_is_too_large_alone_is_rejected() -> None:
    settlement = carry_out(Receiver(), request(), limit=0)
    assert settlement.rejected == 32


def misleading(everything: Samples, good: Samples) -> bool:
    """Whether a series looks by itself as if its batch were committed, and others of its instance do not.

    All its samples but the newest are bad in their own right: a receiver that refuses for age does
    that to every series alike, and one that refuses a series refuses all of it.
    """

    def instance(labels: Key) -> str:
        return dict(labels)["instance"]

    looks_committed = {
        instance(labels)
        for labels, samples in everything.items()
        if len(samples) > 1 and list(good[labels]) == [max(samples)]
    }
    return any(
        instance(labels) in looks_committed and any(t_ms != max(everything[labels]) for t_ms in samples)
        for labels, samples in good.items()
    )


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_good_sample_is_ever_lost(data: st.DataObject) -> None:
    """Whatever was committed before, whatever is refused, and wherever settling was cut short.

    Refused for good: whole series, single samples, and all that is older than a moment (the hour's
    bound). All other samples are there in the end, exactly, and the counts add up.
    """
    instances, rows = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 5))
    batch = request(instances, rows)
    names = [f"vm-{i}{name}" for i in range(instances) for name in "abcd"]
    bad_series = data.draw(st.sets(st.sampled_from(names), max_size=3))
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
    assume(not misleading(everything, good))
    unclear = split = False
    if data.draw(st.booleans()):
        unclear = True
        receiver.take(compress(batch))  # lands if nothing in it is bad
    for _ in range(data.draw(st.integers(0, 2))):
        cut_at = data.draw(st.integers(0, 20))
        carry_out(receiver, batch, unclear=unclear, split=split, limit=limit, stop_after=cut_at)
        unclear = split = True
    settlement = carry_out(receiver, batch, unclear=unclear, split=split, limit=limit)
    assert {labels: samples for labels, samples in receiver.samples.items() if samples} == {
        labels: samples for labels, samples in good.items() if samples
    }
    total = sum(map(len, everything.values()))
    assert settlement.sent + settlement.rejected + settlement.not_known == total
    if not unclear:
        assert settlement.sent == sum(map(len, good.values()))


def test_pieces_of_a_series_go_in_time_order() -> None:
    receiver = Receiver(lambda labels, t_ms: "no" if t_ms == T0 + 1000 else None)
    carry_out(receiver, request(1, 6))
    alone = [r for r in receiver.requests if len(r.timeseries) == 1 and len(r.timeseries[0].samples) == 1]
    for _, group in itertools.groupby(alone, key=lambda r: r.timeseries[0].labels[0].value):
        times = [r.timeseries[0].samples[0].timestamp for r in group]
        assert times == sorted(times)


@pytest.mark.parametrize("boundary", [0, 1, 7, 19, 20])
def test_what_is_refused_for_its_age_does_not_cost_a_request_each(boundary: int) -> None:
    """The boundary is found by one series, and holds for all, exactly."""
    too_old_ms = T0 + 1000 * boundary
    receiver = Receiver(lambda labels, t_ms: "too old" if t_ms < too_old_ms else None)
    batch = request(instances=5, rows=20)
    settlement = carry_out(receiver, batch, old_ms=T0 + HOUR_MS)
    good = {
        labels: {t_ms: value for t_ms, value in samples.items() if t_ms >= too_old_ms}
        for labels, samples in wanted(batch).items()
    }
    assert receiver.samples == {labels: samples for labels, samples in good.items() if samples}
    assert (settlement.sent, settlement.rejected) == (20 * (20 - boundary), 20 * boundary)
    assert len(receiver.requests) <= 1 + 20 + 4 + 1
    assert settlement.too_old_ms == (too_old_ms - 1000 if boundary else 0)


def test_a_series_that_is_refused_is_not_taken_for_age() -> None:
    receiver = Receiver(lambda labels, t_ms: "no" if key(labels) == "vm-0a" else None)
    batch = request(instances=3, rows=10)
    settlement = carry_out(receiver, batch, old_ms=T0 + HOUR_MS)
    assert {key(labels) for labels in receiver.samples} == {key(labels) for labels in wanted(batch)} - {
        "vm-0a"
    }
    assert (settlement.sent, settlement.rejected, settlement.too_old_ms) == (110, 10, 0)


def test_requests_are_bounded_whatever_is_refused() -> None:
    receiver = Receiver(lambda labels, t_ms: "no")
    settlement = carry_out(receiver, request(instances=200, rows=10))
    assert settlement.rejected == 200 * 10 * len(SERIES)
    # Three metrics of four are asked of each instance, sample by sample: to try each would be 9,000.
    assert len(receiver.requests) < 7000
