"""What streams hand over is in the journals: once, whole and in order, whatever happens between."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from rondo_tools import stream
from rondo_tools.catalog import GAUGE, Series
from rondo_tools.errors import EX_TEMPFAIL, StoreError
from rondo_tools.store import folder
from rondo_tools.store.format.layout import JOURNALS
from rondo_tools.store.format.records import LOST, Description, SessionRecord
from rondo_tools.store.format.state import State
from rondo_tools.store.format.tiers import parse_tiers
from rondo_tools.store.intake import Counts, Intake
from rondo_tools.store.journal_folder import ClosedJournal
from rondo_tools.store.keeper import Keeper
from rondo_tools.store.remembered import Remembered
from rondo_tools.store.sync import NEVER, Policy
from tests.support.store.journal_truth import (
    NOW_MS,
    START_MS,
    Disk,
    Killed,
    Model,
    Reference,
    pieces,
    read_journals,
)
from tests.support.store.keeper_host import ALWAYS, Clock, end, header, keeper, store, ticks, times

TRIES = 10_000


def random_life(chance: random.Random, instance: str, start_ms: int) -> bytes:
    """A session's stream: ticks, changes of schema, repetitions, and mostly an end."""
    kind, at, made = chance.randrange(3), 1, b""
    made += header(instance, start_ms, kind)
    for _ in range(chance.randrange(5)):
        if chance.random() < 0.3:
            kind = chance.randrange(3)
            made += header(instance, start_ms, kind)
        if chance.random() < 0.2:
            at = max(1, at - 10)  # sent again
        count = chance.choice((1, 1, 3, 30))
        made += ticks(at, at + count, kind, start_ms)
        at += count
    return made + (end() if chance.random() < 0.7 else b"")


def random_streams(chance: random.Random) -> list[bytes]:
    """Streams of several producers; instances and sessions of different ones overlap in time."""
    return [
        b"".join(
            random_life(chance, f"vm-{number // 2}", START_MS + 7 * number + 100_000 * life)
            for life in range(chance.randint(1, 3))
        )
        for number in range(4)
    ]


@pytest.mark.parametrize("seed", range(60))
def test_journals_have_the_ticks_and_ends_of_the_streams(tmp_path: Path, seed: int) -> None:
    chance, model = random.Random(seed), Model()
    streams = random_streams(chance)
    for _ in range(2):  # the second time, all of it is known
        kept = keeper(tmp_path)
        waiting = [(Intake(kept), Reference(model), list(pieces(chance, one))) for one in streams]
        while waiting:
            one = chance.choice(waiting)
            intake, reference, left = one
            if not left:
                intake.close(give_up=chance.random() < 0.5)
                waiting.remove(one)
                continue
            piece = left.pop(0)
            intake.feed(piece)
            reference.feed(piece)
            if chance.random() < 0.3:
                kept.flush()
            if chance.random() < 0.05:
                kept.end_journal()
        kept.close()
        model.check(read_journals(tmp_path))
        read_journals(tmp_path).check_lines_of_time()


def attempt(first: Callable[[], object], again: Callable[[], object]) -> None:
    """What a server does after an error of the disk, without the waiting."""
    for number in range(TRIES):
        try:
            (again if number else first)()
        except OSError:
            continue
        return
    pytest.fail("no room came")


class Acknowledged:
    """Feeds streams until the process dies, and knows what it had acknowledged by then."""

    def __init__(self, kept: Keeper, streams: list[bytes], chance: random.Random) -> None:
        self.model = Model()
        gathering = Model()
        intakes = [Intake(kept) for _ in streams]
        references = [Reference(gathering) for _ in streams]
        waiting = [list(pieces(chance, one)) for one in streams]
        try:
            while any(waiting):
                for intake, reference, left in zip(intakes, references, waiting, strict=True):
                    if left:
                        piece = left.pop(0)
                        attempt(partial(intake.feed, piece), intake.store)
                        reference.feed(piece)
                attempt(kept.flush, kept.flush)
                self.model = Model(
                    {key: list(rows) for key, rows in gathering.rows.items()}, dict(gathering.ends)
                )
                if chance.random() < 0.1:
                    attempt(kept.end_journal, kept.end_journal)
            self.died = False
        except Killed:
            self.died = True

    def check(self, path: Path) -> None:
        """Fails unless all of it is there; more may be."""
        found = read_journals(path)
        for key, rows in self.model.rows.items():
            assert found.rows.get(key, [])[: len(rows)] == rows
        for key, reason in self.model.ends.items():
            assert found.state_of(key) == reason


def close_dead(kept: Keeper) -> None:
    try:
        kept.close()
    except Killed:
        pass


def whole(streams: list[bytes]) -> Model:
    """What must be there when all was sent. Streams do not share sessions, so their order is no matter."""
    model = Model()
    for one in streams:
        Reference(model).feed(one)
    return model


def resend(path: Path, streams: list[bytes]) -> None:
    with keeper(path) as kept:
        for one in streams:
            intake = Intake(kept)
            intake.feed(one)
            kept.flush()
            intake.close()


def kill_at(step: int) -> Callable[[int, str], str | None]:
    """A fault: the process dies in that step."""
    return lambda number, _: "kill" if number == step else None


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("sync", [NEVER, ALWAYS], ids=str)
def test_acknowledged_ticks_survive_a_kill_at_any_step(
    tmp_path: Path, install: Callable[[Disk], None], seed: int, sync: Policy
) -> None:
    streams = random_streams(random.Random(seed))
    for step in range(1, 1000):
        path = tmp_path / str(step)
        kept = keeper(path, sync=sync)
        chance = random.Random(f"{seed} {step}")
        install(Disk(kill_at(step), chance))
        acknowledged = Acknowledged(kept, streams, chance)
        close_dead(kept)
        install(Disk(lambda *_: None, chance))
        acknowledged.check(path)
        resend(path, streams)
        whole(streams).check(read_journals(path))
        read_journals(path).check_lines_of_time()
        shutil.rmtree(path)
        if not acknowledged.died:
            break
    assert step > 3


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("sync", [NEVER, ALWAYS], ids=str)
def test_a_power_cut_loses_only_unsynced_ticks(
    tmp_path: Path, install: Callable[[Disk], None], seed: int, sync: Policy
) -> None:
    chance = random.Random(seed)
    streams = random_streams(chance)
    kept = keeper(tmp_path, sync=sync)
    at = chance.randint(1, 30)
    disk = Disk(lambda number, _: "kill" if number == at else None, chance)
    install(disk)
    acknowledged = Acknowledged(kept, streams, chance)
    close_dead(kept)
    disk.cut_power(tmp_path)
    install(Disk(lambda *_: None, chance))
    if sync is ALWAYS:
        acknowledged.check(tmp_path)
    resend(tmp_path, streams)
    expected, found = whole(streams), read_journals(tmp_path)
    for key, rows in found.rows.items():
        assert set(rows) <= set(expected.rows[key])
    if sync is ALWAYS:
        expected.check(found)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("sync", [NEVER, ALWAYS], ids=str)
def test_failed_writes_are_repeated(
    tmp_path: Path, install: Callable[[Disk], None], seed: int, sync: Policy
) -> None:
    chance = random.Random(seed)
    streams = random_streams(chance)
    kept = keeper(tmp_path, sync=sync)
    often = chance.choice((0.1, 0.3, 0.6))
    install(Disk(lambda *_: chance.choice(("fail", "short")) if chance.random() < often else None, chance))
    acknowledged = Acknowledged(kept, streams, chance)
    install(Disk(lambda *_: None, chance))
    kept.close()
    acknowledged.check(tmp_path)
    whole(streams).check(read_journals(tmp_path))
    read_journals(tmp_path).check_lines_of_time()


class Memory(Remembered):
    """Remembers what it is told, and reads no store."""

    def __init__(self, *descriptions: Description) -> None:
        self.descriptions = {one.key: one for one in descriptions}

    def __len__(self) -> int:
        return len(self.descriptions)

    def find(self, instance: str, start_ms: int) -> Description | None:
        return self.descriptions.get((instance, start_ms))

    def newest_ms(self, instance: str) -> int:
        return max((one.last_ms for one in self.descriptions.values() if one.instance == instance), default=0)


class Host:
    """A store with roll-ups, made up: what they come to is read out of the journals by the test's reader.

    A roll-up takes until `take_over`; meanwhile the keeper goes on.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = Clock()
        self.memory = Memory()
        self.state = State()
        self._underway: tuple[State, list[Description]] | None = None
        self.kept = self._open()

    def _open(self) -> Keeper:
        left = [one for one in self._described(self.state.rolled_up) if not one.reason]
        return keeper(self.path, self.clock, state=self.state, carried=left, remembered=self.memory)

    def roll_up(self) -> None:
        if self._underway is None and self.kept.closed:
            number = self.kept.closed[0].number
            self._underway = State(rolled_up=number), self._described(number)

    def take_over(self) -> None:
        if self._underway is not None:
            self.state, descriptions = self._underway
            self._underway = None
            self.memory.descriptions.update({one.key: one for one in descriptions if one.reason})
            self.kept.rolled_up(self.state)

    def restart(self) -> None:
        self.kept.close()
        self._underway = None
        self.kept = self._open()

    def _described(self, up_to: int) -> list[Description]:
        found = read_journals(self.path, up_to)
        declared = {record.key: record for _, record in found.records}
        return [
            Description(
                *key, record.interval_ms, record.labels, found.state_of(key) or "", 0, 0,
                found.rows[key][-1][0] if key in found.rows else 0, 0, 0, (),
            )
            for key, record in declared.items()
        ]  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_resent_ticks_are_recognized_before_and_after_a_roll_up(tmp_path: Path, seed: int) -> None:
    chance, model = random.Random(seed), Model()
    host = Host(tmp_path)
    for _ in range(3):
        streams = random_streams(chance) if chance.random() < 0.3 else random_streams(random.Random(seed))
        waiting = [(Intake(host.kept), Reference(model), list(pieces(chance, one))) for one in streams]
        while waiting:
            one = chance.choice(waiting)
            intake, reference, left = one
            if not left or chance.random() < 0.02:
                intake.close(give_up=chance.random() < 0.3)
                waiting.remove(one)
                continue
            piece = left.pop(0)
            intake.feed(piece)
            reference.feed(piece)
            host.clock.now += chance.choice((0, 0, 1, 40))
            for chances, act in (
                (0.3, host.kept.flush),
                (0.2, host.kept.give_up_gone),
                (0.1, host.kept.end_journal),
                (0.2, host.roll_up),
                (0.2, host.take_over),
            ):
                if chance.random() < chances:
                    act()
        if chance.random() < 0.5:
            host.restart()
    host.kept.give_up_gone(at_once=True)
    host.kept.end_journal()
    while host.kept.closed:
        host.take_over()
        host.roll_up()
    assert len(host.kept.live) == 0
    host.kept.close()
    model.check(read_journals(tmp_path))
    read_journals(tmp_path).check_lines_of_time()


# --- sessions -----------------------------------------------------------------------------------------


def described(reason: str, last: int, start_ms: int = START_MS) -> Description:
    last_ms = start_ms + 1000 * last
    return Description(
        "vm-1", start_ms, 1000, (("zone", "a"),), reason, last_ms, start_ms, last_ms, last, 2, ()
    )


@pytest.mark.heavy
def test_a_zeroed_tail_loses_its_ticks_until_they_are_resent(tmp_path: Path) -> None:
    """Of all lengths, over the last turn: what is sent again is stored, once."""
    with keeper(tmp_path / "whole") as kept:
        store(kept, header() + ticks(1, 3))
        (path,) = (tmp_path / "whole" / JOURNALS).iterdir()
        before = path.stat().st_size
        store(kept, header() + ticks(3, 6) + end())
    data = path.read_bytes()
    for kept_bytes in range(before, len(data) + 1):
        path.write_bytes(data[:kept_bytes].ljust(len(data), b"\0"))
        copy = tmp_path / str(kept_bytes)
        shutil.copytree(tmp_path / "whole", copy)
        assert times(copy)[:2] == [1, 2]
        with keeper(copy) as again:
            store(again, header() + ticks(1, 6) + end())
        assert times(copy) == [1, 2, 3, 4, 5]
        assert read_journals(copy).state_of(("vm-1", START_MS)) == "poweroff"
        shutil.rmtree(copy)


def test_ticks_lost_before_an_end_may_be_resent(tmp_path: Path) -> None:
    with keeper(tmp_path) as kept:
        store(kept, header() + ticks(1, 3))
        size = sum(path.stat().st_size for path in (tmp_path / JOURNALS).iterdir())
        store(kept, header() + ticks(3, 6) + end())  # one write, two frames
    (path,) = (tmp_path / JOURNALS).iterdir()
    data = bytearray(path.read_bytes())
    data[size + 60] ^= 1
    path.write_bytes(data)
    assert times(tmp_path) == [1, 2]
    with keeper(tmp_path) as kept:
        store(kept, header() + ticks(1, 6) + end())
    assert times(tmp_path) == [1, 2, 3, 4, 5]
    assert read_journals(tmp_path).state_of(("vm-1", START_MS)) == "poweroff"


def test_a_header_alone_leaves_nothing(tmp_path: Path) -> None:
    with keeper(tmp_path) as kept:
        store(kept, header()).close(give_up=True)
        assert len(kept.live) == 0
    assert not list((tmp_path / JOURNALS).iterdir())


def test_a_session_without_a_tick_has_an_end(tmp_path: Path) -> None:
    with keeper(tmp_path) as kept:
        store(kept, header() + end("error"))
    assert read_journals(tmp_path).state_of(("vm-1", START_MS)) == "error"


def test_a_replay_of_a_remembered_session_writes_nothing(tmp_path: Path) -> None:
    counts = Counts()
    with keeper(tmp_path, remembered=Memory(described("poweroff", 9))) as kept:
        store(kept, header() + ticks(1, 10) + end(), counts).close()
        store(kept, header() + ticks(1, 30) + end(), counts).close()  # nothing can follow its end
        assert len(kept.live) == 0
    assert (counts.stored, counts.late) == (0, 38)
    assert not list((tmp_path / JOURNALS).iterdir())


def test_a_remembered_lost_session_continues(tmp_path: Path) -> None:
    with keeper(tmp_path, remembered=Memory(described(LOST, 9))) as kept:
        store(kept, header() + ticks(1, 12)).close()
        assert len(kept.live) == 1
    found = read_journals(tmp_path)
    assert times(tmp_path) == [10, 11]
    assert [record.last_ms for _, record in found.records] == [START_MS + 9000]


def test_a_session_that_was_lost_and_back_before_a_roll_up_is_live(tmp_path: Path) -> None:
    carried = SessionRecord(0, "vm-1", START_MS, 1000, (("zone", "a"),), START_MS + 20_000, 0)
    memory = Memory(described(LOST, 9))
    with keeper(tmp_path, remembered=memory, carried=[carried]) as kept:
        store(kept, header() + ticks(9, 23)).close()
        assert kept.give_up_gone(at_once=True) == 1
    assert times(tmp_path) == [21, 22]
    assert read_journals(tmp_path).state_of(("vm-1", START_MS)) == LOST
    with keeper(tmp_path / "other", remembered=memory, carried=[carried]) as kept:
        assert kept.give_up_gone(at_once=True) == 1


def test_a_new_session_declares_the_newest_tick_of_earlier_ones(tmp_path: Path) -> None:
    second, third = START_MS + 100_000, START_MS + 200_000
    with keeper(tmp_path, remembered=Memory(described("poweroff", 9))) as kept:
        store(kept, header(start_ms=second) + ticks(1, 4, start_ms=second) + end())
        store(kept, header(start_ms=third) + ticks(1, 2, start_ms=third))
    records = {record.start_ms: record.before_ms for _, record in read_journals(tmp_path).records}
    assert records == {second: START_MS + 9000, third: second + 3000}


def test_a_new_session_declares_the_newest_tick_of_one_that_came_back(tmp_path: Path) -> None:
    second = START_MS + 100_000
    with keeper(tmp_path) as kept:
        store(kept, header() + ticks(1, 4)).close(give_up=True)
        kept.flush()
        store(kept, header() + ticks(1, 60))
        kept.end_journal()
        store(kept, header(start_ms=second) + ticks(1, 2, start_ms=second))
    found = read_journals(tmp_path)
    assert [one.before_ms for _, one in found.records if one.start_ms == second] == [START_MS + 59_000]
    found.check_lines_of_time()


def test_a_session_that_came_back_declares_the_newest_tick_of_the_others(tmp_path: Path) -> None:
    second = START_MS + 100_000
    with keeper(tmp_path) as kept:
        store(kept, header() + ticks(1, 4) + end()).close()
        store(kept, header(start_ms=second) + ticks(1, 4, start_ms=second)).close(give_up=True)
        kept.end_journal()
        store(kept, header(start_ms=second) + ticks(4, 6, start_ms=second))
    _, record = read_journals(tmp_path).records[-1]
    assert (record.last_ms, record.before_ms) == (second + 3000, START_MS + 3000)


def test_labels_and_interval_of_a_session_cannot_change(tmp_path: Path) -> None:
    with keeper(tmp_path) as kept:
        store(kept, header() + ticks(1, 2))
        with pytest.raises(StoreError, match="--instance"):
            store(kept, header(interval_ms=500))


def test_a_header_for_another_session_gives_up_the_one_before(tmp_path: Path) -> None:
    second = START_MS + 100_000
    with keeper(tmp_path) as kept:
        store(kept, header() + ticks(1, 4) + header(start_ms=second) + ticks(1, 2, start_ms=second))
        found = read_journals(tmp_path)
        assert found.state_of(("vm-1", START_MS)) == LOST
        assert found.state_of(("vm-1", second)) is None


def test_a_session_whose_connection_is_gone_is_given_up_after_a_while(tmp_path: Path) -> None:
    clock = Clock()
    with keeper(tmp_path, clock) as kept:
        store(kept, header() + ticks(1, 4)).close()
        store(kept, header("slow", interval_ms=60_000) + ticks(1, 2)).close()
        connected = store(kept, header("connected") + ticks(1, 2))
        clock.now += 29
        assert kept.give_up_gone() == 0
        clock.now += 2
        assert kept.give_up_gone() == 1
        kept.flush()
        assert read_journals(tmp_path).state_of(("vm-1", START_MS)) == LOST
        clock.now += 570
        assert kept.give_up_gone() == 1
        again = store(kept, header() + ticks(1, 6))  # it is back
        assert read_journals(tmp_path).state_of(("vm-1", START_MS)) is None
        assert times(tmp_path) == [1, 2, 3, 4, 5]
        again.feed(end())
        connected.close()
    assert read_journals(tmp_path).state_of(("vm-1", START_MS)) == "poweroff"


def test_a_tick_before_an_end_lost_is_written_undoes_it(tmp_path: Path) -> None:
    with keeper(tmp_path) as kept:
        store(kept, header() + ticks(1, 4)).close()
        assert kept.give_up_gone(at_once=True) == 1
        back = Intake(kept)
        back.feed(header() + ticks(1, 6))
        back.close()
        kept.flush()
        assert read_journals(tmp_path).state_of(("vm-1", START_MS)) is None
        assert kept.give_up_gone(at_once=True) == 1, "it is given up anew"
    assert read_journals(tmp_path).state_of(("vm-1", START_MS)) == LOST


@pytest.mark.parametrize("is_ended", [True, False], ids=["another journal", "one journal"])
def test_a_session_that_was_back_when_the_process_died_is_given_up_again(
    tmp_path: Path, is_ended: bool
) -> None:
    kept = keeper(tmp_path)
    store(kept, header() + ticks(1, 4)).close(give_up=True)
    kept.end_journal() if is_ended else kept.flush()
    store(kept, header() + ticks(1, 6))
    kept.close()
    with keeper(tmp_path) as kept:
        assert kept.give_up_gone(at_once=True) == 1
    assert [one.last_ms - START_MS for one in read_journals(tmp_path).ends["vm-1", START_MS]] == [3000, 5000]


def test_the_end_of_a_pipe_gives_up_sessions_without_an_end(tmp_path: Path) -> None:
    with keeper(tmp_path) as kept:
        store(kept, header("earlier") + ticks(1, 2)).close()
    with keeper(tmp_path) as kept:
        store(kept, header() + ticks(1, 2)).close(give_up=True)
        kept.give_up_gone(at_once=True)
    found = read_journals(tmp_path)
    assert found.state_of(("vm-1", START_MS)) == found.state_of(("earlier", START_MS)) == LOST


def test_the_newer_of_two_connections_owns_the_session(tmp_path: Path) -> None:
    with keeper(tmp_path) as kept:
        old = store(kept, header() + ticks(1, 4))
        new = store(kept, header() + ticks(2, 6))
        assert (old.is_replaced, new.is_replaced) == (True, False)
        old.close()
        assert kept.give_up_gone(at_once=True) == 0
        store(kept, header("other"))
    assert times(tmp_path) == [1, 2, 3, 4, 5]


def rolled_up(kept: Keeper) -> list[ClosedJournal]:
    closed = list(kept.closed)
    kept.rolled_up(State(rolled_up=closed[-1].number))
    return closed


def test_ended_sessions_leave_memory_when_their_journal_is_rolled_up(tmp_path: Path) -> None:
    with keeper(tmp_path) as kept:
        store(kept, header() + ticks(1, 4) + end()).close()
        store(kept, header("live") + ticks(1, 4))
        assert len(kept.live) == 2
        kept.end_journal()
        assert [one.number for one in rolled_up(kept)] == [1]
        assert [one.instance for one in kept.live] == ["live"]
        assert not kept.closed


def test_a_session_that_came_back_stays_in_memory(tmp_path: Path) -> None:
    with keeper(tmp_path) as kept:
        store(kept, header() + ticks(1, 4)).close(give_up=True)
        kept.end_journal()
        store(kept, header() + ticks(1, 6))
        rolled_up(kept)
        store(kept, header() + ticks(1, 8))
    assert times(tmp_path) == [1, 2, 3, 4, 5, 6, 7]


def test_a_session_back_without_a_tick_leaves_memory_with_its_connection(tmp_path: Path) -> None:
    with keeper(tmp_path) as kept:
        store(kept, header() + ticks(1, 4)).close(give_up=True)
        kept.end_journal()
        back = store(kept, header() + ticks(1, 4))
        rolled_up(kept)
        assert len(kept.live) == 1
        back.close()
        assert len(kept.live) == 0


def test_two_thousand_sessions_of_one_instance(tmp_path: Path) -> None:
    with keeper(tmp_path) as kept:
        for life in range(2000):
            start_ms = START_MS + 10 * life
            store(kept, header(start_ms=start_ms) + ticks(1, 2, start_ms=start_ms) + end()).close()
        assert [one.before_ms for _, one in read_journals(tmp_path).records] == [
            0 if life == 0 else START_MS + 10 * (life - 1) + 1000 for life in range(2000)
        ]


# --- journals -----------------------------------------------------------------------------------------


def test_a_journal_ends_after_the_coarsest_interval(tmp_path: Path) -> None:
    clock = Clock()
    with keeper(tmp_path, clock, tiers=parse_tiers("1s:10m,1m:1h")) as kept:
        store(kept, header() + ticks(1, 4))
        clock.now += 59
        kept.flush()
        assert not kept.closed
        clock.now += 1
        kept.flush()
        assert kept.closed == (ClosedJournal(1, NOW_MS),)
        clock.now += 600
        kept.flush()  # there is no journal without a row
        store(kept, header() + ticks(4, 6))
        newest = kept.newest_position()
        assert newest is not None
        assert newest.number == 2
    assert times(tmp_path) == [1, 2, 3, 4, 5]


def test_a_process_does_not_continue_an_earlier_journal(tmp_path: Path) -> None:
    for begin in (1, 5, 9):
        with keeper(tmp_path) as kept:
            store(kept, header() + ticks(1, begin + 4))
    assert sorted(path.name for path in (tmp_path / JOURNALS).iterdir()) == [f"{n:010d}" for n in (1, 2, 3)]
    assert times(tmp_path) == list(range(1, 13))


def test_numbers_of_removed_journals_are_not_reused(tmp_path: Path) -> None:
    with keeper(tmp_path, state=State(rolled_up=41)) as kept:
        store(kept, header() + ticks(1, 2))
    assert [path.name for path in (tmp_path / JOURNALS).iterdir()] == [f"{42:010d}"]


@pytest.mark.long
def test_producers_with_large_headers_do_not_make_a_journal_each_turn(tmp_path: Path) -> None:
    large = [
        tuple(Series(f"s{number}_{n:04d}", (), GAUGE, "", "x" * 150) for n in range(3900))
        for number in range(91)
    ]
    headers = [
        stream.encode(stream.Header(f"vm-{number}", START_MS, (), 1000, series))
        for number, series in enumerate(large)
    ]
    assert min(map(len, headers)) > 700_000
    clock = Clock()
    with keeper(tmp_path, clock) as kept:
        intakes = [Intake(kept) for _ in large]
        for turn in range(6):
            if turn == 3:
                clock.now += 300
            for number, (intake, series) in enumerate(zip(intakes, large, strict=True)):
                if turn == 0:
                    intake.feed(headers[number])
                value = np.full(len(series), number + turn / 10).tobytes()
                intake.feed(stream.encode(stream.Tick(START_MS + 1000 * (turn + 1), value)))
            kept.flush()
    assert len(list((tmp_path / JOURNALS).iterdir())) == 2
    found = read_journals(tmp_path)
    for number, series in enumerate(large):
        assert found.rows[f"vm-{number}", START_MS] == [
            (START_MS + 1000 * (turn + 1), series, np.full(len(series), number + turn / 10).tobytes())
            for turn in range(6)
        ]


def test_ticks_beyond_a_file_size_limit_go_into_another_journal(tmp_path: Path) -> None:
    script = f"""
import resource, signal, sys
from tests.support.store.keeper_host import keeper, header, ticks, Intake
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
with keeper({str(tmp_path)!r}) as kept:
    intake = Intake(kept)
    intake.feed(header())
    for n in range(1, 400, 3):
        intake.feed(ticks(n, n + 3))
        kept.flush()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    assert times(tmp_path) == list(range(1, 400))
    assert len(list((tmp_path / JOURNALS).iterdir())) > 3


# --- the folder ---------------------------------------------------------------------------------------


def test_a_second_keeper_is_refused(tmp_path: Path) -> None:
    with keeper(tmp_path), pytest.raises(StoreError, match=f"process {os.getpid()} writes") as caught:
        keeper(tmp_path)
    assert caught.value.exit_code == EX_TEMPFAIL
    keeper(tmp_path).close()


def test_other_tiers_are_refused(tmp_path: Path) -> None:
    keeper(tmp_path).close()
    with pytest.raises(StoreError, match="--tiers"):
        keeper(tmp_path, tiers=parse_tiers("1s:10m"))
    keeper(tmp_path).close()


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ('{"rondo_store": 1, "tiers": "1s:10m"}', "earlier rondo.*move it away"),
        ('{"format": 3}', "format 3"),
        ('{"format": 2, "id": "zz", "tiers": "1s:10m"}', "not the description"),
        ('{"format": 2, "id": "0011223344556677", "tiers": "x"}', "not the description"),
        ("[]", "not the description"),
        ("", "not the description"),
    ],
)
def test_other_formats_are_refused(tmp_path: Path, document: str, message: str) -> None:
    (tmp_path / "store.json").write_text(document)
    with pytest.raises(StoreError, match=message) as caught:
        keeper(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["store.json"], "it is left as it is"


def remove(path: Path) -> None:
    shutil.rmtree(path)


def rename(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


def replace_with_copy(path: Path) -> None:
    shutil.copytree(path, path.with_name("copy"))
    rename(path)
    path.with_name("copy").rename(path)


def remove_journals(path: Path) -> None:
    shutil.rmtree(path / JOURNALS)


@pytest.mark.parametrize("how", [remove, rename, replace_with_copy, remove_journals])
def test_a_moved_or_removed_folder_is_an_error(tmp_path: Path, how: Callable[[Path], None]) -> None:
    clock, path = Clock(), tmp_path / "store"
    kept = keeper(path, clock)
    intake = store(kept, header() + ticks(1, 4))
    kept.acknowledge()
    how(path)
    with pytest.raises(StoreError, match="removed or replaced"):
        kept.acknowledge()
    intake.feed(ticks(4, 6))
    clock.now += 0.1
    with pytest.raises(StoreError, match="removed or replaced"):
        kept.flush()
    with pytest.raises(StoreError, match="removed or replaced"):
        kept.close()


def test_the_folder_is_checked_at_most_ten_times_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, looks = Clock(), []
    with keeper(tmp_path, clock) as kept:
        monkeypatch.setattr(folder.Folder, "check", lambda _: looks.append(clock.now))
        intake = Intake(kept)
        intake.feed(header())
        for n in range(1, 101):
            intake.feed(ticks(n, n + 1))
            kept.flush()
            clock.now += 0.01
    assert 8 <= len(looks) <= 11
