"""The pusher's policy: what is repeated, what moves the cursor, and that no history of faults and crashes
loses a sample or sends one twice."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devtools.receivers.receiver import Key, Receiver
from rondo_tools.errors import PushError
from rondo_tools.push.cursor import Cursor
from rondo_tools.push.encoding.body import Body
from rondo_tools.push.model import Answer, Outcome
from rondo_tools.push.pusher import NotTakenError, Pusher
from rondo_tools.push.self_metrics import Tally
from tests.support.push.receivers import (
    T0,
    TWO_SERIES,
    Crash,
    Scripted,
    drain_of,
    expected,
    fill,
    header,
    push_once,
    seconds,
    ticks,
)
from tests.support.rounds import IN_ROUNDS


def cursor(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((path / "cursor_prometheus.json").read_text())
    return document


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are killed here, but not the machine: syncs of thousands of saves are not needed."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    fill(
        tmp_path,
        header("a"),
        ticks(*((T0 + 1000 * i, [i, math.nan if i % 2 else i]) for i in range(10))),
        "reset",
    )
    fill(tmp_path, header("b", T0 + 3000), seconds(5, T0 + 3300), "poweroff")
    return tmp_path


def test_everything_once_and_then_nothing(store: Path) -> None:
    receiver = Receiver()
    tally = push_once(store, Scripted(receiver))
    assert receiver.samples == expected(store)
    assert (tally.sent, tally.requests) == (2 * (10 + 1 + 5 + 1), 1)
    again = push_once(store, Scripted(receiver))
    assert (again.sent, again.requests) == (0, 0)


def test_ticks_during_a_push_are_left_to_the_next_one(store: Path) -> None:
    receiver = Receiver()
    session = header("c", T0 + 8000)

    class Busy(Scripted):
        def send(self, body: Body) -> Answer:
            assert self.attempts < 10, "producers keep the push from ending"
            fill(store, session, seconds(1, T0 + 9000 + 1000 * self.attempts))
            return super().send(body)

    for pushes in (1, 2, 3):
        sender = Busy(receiver)
        assert push_once(store, sender).requests == 1
        assert sender.attempts == 1, pushes
        session = header(f"c-{pushes}", T0 + 8000)
    push_once(store, Scripted(receiver))
    assert receiver.samples == expected(store)


def test_a_push_settles_the_batch_in_flight_and_delivers_new_ticks(store: Path) -> None:
    receiver = Receiver()
    with pytest.raises(NotTakenError):
        push_once(store, Scripted(receiver, ["refused"] * 4))
    fill(store, header("c", T0 + 8000), seconds(3, T0 + 9000))
    push_once(store, Scripted(receiver))
    assert receiver.samples == expected(store)


def test_metadata_goes_with_the_first_request_only(store: Path) -> None:
    receiver = Receiver()
    push_once(store, Scripted(receiver), max_samples=4)
    described = [[item.metric_family_name for item in request.metadata] for request in receiver.requests]
    assert described[0] == ["cpu_total", "heat"]
    assert len(described) > 3
    assert not any(described[1:])


@pytest.mark.parametrize("fault", ["refused", "lost", "unanswered"])
def test_three_retries_are_enough_and_a_fourth_is_not_made(store: Path, fault: str) -> None:
    receiver = Receiver()
    sender = Scripted(receiver, [fault] * 3)
    assert push_once(store, sender).requests == sender.attempts
    assert receiver.samples == expected(store)
    other = Receiver()
    for _ in range(2):
        fill(store, header("c"), seconds(1))
    sender = Scripted(other, [fault] * 4)
    with pytest.raises(NotTakenError) as caught:
        push_once(store, sender)
    assert (caught.value.exit_code, sender.attempts) == (75, 4)
    # A batch that certainly did not arrive is not in flight: it is encoded again.
    assert (cursor(store)["in_flight"] is None) == (fault == "refused")


def test_the_pauses_double_and_retry_after_is_honoured(store: Path) -> None:
    answers = [
        Answer(Outcome.RETRY, "busy"),
        Answer(Outcome.RETRY, "busy"),
        Answer(Outcome.RETRY, "busy", retry_after_s=7),
        Answer(Outcome.ACCEPTED),
    ]

    class Busy:
        protocol = "1.0"

        def send(self, body: Body) -> Answer:
            return answers.pop(0)

    pauses: list[float] = []

    def pause(seconds: float) -> bool:
        pauses.append(seconds)
        return True

    with Cursor(store, "x") as at:
        drain = drain_of(store)
        Pusher(drain, at, Busy(), Tally(), pause=pause, now_ms=lambda: T0 + 60_000, jitter=lambda: 0.5).push()
    assert pauses == pytest.approx([0.1, 0.2, 7])


def test_a_pause_of_an_hour_is_left_to_the_next_push(store: Path) -> None:
    class Busy:
        protocol = "1.0"

        def send(self, body: Body) -> Answer:
            return Answer(Outcome.RETRY, "busy", unclear=True, retry_after_s=3600)

    with Cursor(store, "x") as at, pytest.raises(NotTakenError) as caught:
        Pusher(drain_of(store), at, Busy(), Tally(), now_ms=lambda: T0 + 60_000).push()
    assert caught.value.retry_after_s == 3600


def test_a_denial_passes_nothing_over(store: Path) -> None:
    class No:
        protocol = "1.0"

        def send(self, body: Body) -> Answer:
            return Answer(Outcome.DENIED, "403")

    with Cursor(store, "prometheus") as at, pytest.raises(PushError) as caught:
        Pusher(drain_of(store), at, No(), Tally(), now_ms=lambda: T0 + 60_000).push()
    assert caught.value.exit_code == 69
    receiver = Receiver()
    push_once(store, Scripted(receiver))
    assert receiver.samples == expected(store)


def test_poison_is_counted_logged_and_passed_over(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    receiver = Receiver(lambda labels, t_ms: "label too long" if dict(labels)["__name__"] == "heat" else None)
    tally = push_once(store, Scripted(receiver))
    assert (tally.sent, tally.rejected, tally.unclear) == (17, 17, 0)
    assert "label too long" in caplog.text
    assert push_once(store, Scripted(receiver)).requests == 0


def test_a_lost_answer_is_not_a_refusal(store: Path) -> None:
    """The batch arrived, and is refused when it is sent again: all of it counts as sent."""
    receiver = Receiver()
    tally = push_once(store, Scripted(receiver, ["unanswered"]))
    assert (tally.sent, tally.rejected, tally.unclear) == (34, 0, 0)
    assert receiver.samples == expected(store)


def test_settling_continues_after_a_kill(store: Path) -> None:
    """Settled samples are not sent again, and are counted once, by the process that settled them."""
    receiver = Receiver(lambda labels, t_ms: "no" if dict(labels)["__name__"] == "heat" else None)
    first = Scripted(receiver, ["ok"] * 6 + ["crash-after"])
    with pytest.raises(Crash):
        push_once(store, first)
    pieces = cursor(store)["in_flight"]["pieces"]
    assert len(pieces) > 1
    tally = push_once(store, Scripted(receiver))
    assert 0 < tally.sent + tally.rejected + tally.unclear < 34
    assert receiver.samples == {
        labels: samples for labels, samples in expected(store).items() if ("__name__", "heat") not in labels
    }
    noted = [json.loads(line) for line in (store / "rejected_prometheus.jsonl").read_text().splitlines()]
    assert sum(one["samples"] for one in noted) == 17


@pytest.mark.parametrize("k", [1, 2, 7])
def test_settling_ends_under_a_rate_limit(store: Path, k: int) -> None:
    """429 after each k requests, longer than a push tries: each push continues where the last one stopped."""
    receiver = Receiver(lambda labels, t_ms: "no" if dict(labels)["__name__"] == "heat" else None)
    requests, sent, rejected = 0, 0, 0
    for _ in range(100):
        sender = Scripted(receiver, ["ok"] * k + ["lost"] * 4)
        tally = Tally()
        try:
            push_once(store, sender, tally=tally)
        except NotTakenError:
            pass
        requests += sender.attempts
        sent, rejected = sent + tally.sent, rejected + tally.rejected + tally.unclear
        if cursor(store)["in_flight"] is None:
            break
    assert (sent, rejected, cursor(store)["in_flight"]) == (17, 17, None)
    assert requests < 400
    assert receiver.samples == {
        labels: samples for labels, samples in expected(store).items() if ("__name__", "heat") not in labels
    }


def test_the_body_in_flight_is_sent_again_bit_for_bit_although_the_rows_are_gone(store: Path) -> None:
    receiver = Receiver()
    with pytest.raises(Crash):
        push_once(store, Scripted(receiver, ["crash"]))
    wanted = expected(store)
    for journal in store.glob("tier_0/*"):
        journal.unlink()
    push_once(store, Scripted(receiver))
    assert receiver.samples == wanted


def test_a_damaged_body_in_flight_is_an_error_and_not_sent(store: Path) -> None:
    with pytest.raises(Crash):
        push_once(store, Scripted(Receiver(), ["crash"]))
    document = cursor(store)
    document["in_flight"]["pieces"][0]["body"] = "AAAA"
    (store / "cursor_prometheus.json").write_text(json.dumps(document))
    sender = Scripted(Receiver())
    with pytest.raises(PushError, match="cursor_prometheus") as caught:
        push_once(store, sender)
    assert (caught.value.exit_code, sender.attempts) == (65, 0)


def test_passed_over_rows_are_counted_once(tmp_path: Path) -> None:
    fill(tmp_path, header(start_ms=T0), seconds(3), "reset")
    receiver = Receiver()
    push_once(tmp_path, Scripted(receiver))
    fill(tmp_path, header(start_ms=T0 - 1000), seconds(2), "reset")
    tally = push_once(tmp_path, Scripted(receiver))
    assert (tally.sent, tally.passed_over) == (0, 4)
    assert push_once(tmp_path, Scripted(receiver)).passed_over == 0


def test_a_stop_between_requests_loses_nothing(store: Path) -> None:
    receiver = Receiver()
    sender = Scripted(receiver)
    with Cursor(store, "prometheus") as at, pytest.raises(NotTakenError, match="stop"):
        Pusher(
            drain_of(store, max_samples=4),
            at,
            sender,
            Tally(),
            give_up=lambda: sender.attempts >= 2,
            now_ms=lambda: T0 + 60_000,
        ).push()
    assert sender.attempts == 2
    push_once(store, sender)
    assert receiver.samples == expected(store)
    assert receiver.twice == 0


FAULTS = st.sampled_from(["ok", "ok", "refused", "lost", "unanswered", "crash", "crash-after"])


@IN_ROUNDS
@pytest.mark.heavy
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=35,
    deadline=None,
)
@given(
    script=st.lists(FAULTS, max_size=60),
    saves=st.lists(st.sampled_from(["ok", "ok", "ok", "before", "after"]), max_size=30),
    poison=st.sets(
        st.tuples(st.sampled_from("abc"), st.sampled_from([s.name for s in TWO_SERIES])), max_size=2
    ),
    max_samples=st.sampled_from([4, 10, 10_000]),
    limit=st.sampled_from([6, 10_000]),
)
def test_no_history_of_faults_loses_or_repeats_a_sample(
    tmp_path_factory: pytest.TempPathFactory,
    script: list[str],
    saves: list[str],
    poison: set[tuple[str, str]],
    max_samples: int,
    limit: int,
    round_: int,
) -> None:
    """The network fails and the process dies at any request and any save of the cursor; rows are added in
    between; at the end nothing fails. Each good sample arrives once, to the bit."""
    path = tmp_path_factory.mktemp("store")

    def refuses(labels: Key, t_ms: int) -> str | None:
        named = dict(labels)
        return "poison" if (named["instance"], named["__name__"]) in poison else None

    receiver = Receiver(refuses)
    sender = Scripted(receiver, script, max_samples=limit)
    save, saving = Cursor.save, iter(saves)

    def dying_save(self: Cursor) -> None:
        word = next(saving, "ok")
        if word == "before":
            raise Crash
        save(self)
        if word == "after":
            raise Crash

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cursor, "save", dying_save)
        patch.setattr(os, "fsync", lambda fd: None)
        for life in range(4):
            for at, instance in enumerate("abc"):
                done = life == 3 and at < 2
                head = header(instance, T0 + at)
                fill(path, head, seconds(3, T0 + at + 4000 * life), "reset" if done else None)
            for _ in range(3):
                try:
                    push_once(path, sender, now_ms=T0 + 4000 * life, max_samples=max_samples)
                except (Crash, NotTakenError):
                    continue
    for _ in range(40):  # the rest of the script
        try:
            push_once(path, sender, max_samples=max_samples)
        except (Crash, NotTakenError):
            continue
        if push_once(path, Scripted(receiver)).requests == 0:
            break
    good = {labels: samples for labels, samples in expected(path).items() if refuses(labels, 0) is None}
    assert receiver.samples == good
    assert cursor(path)["in_flight"] is None
