"""Housekeeping: expiry, the files that stay for cursors and sessions, and eviction."""

from __future__ import annotations

import errno
import logging
import os
import random
from pathlib import Path

import pytest

from rondo_tools.store.compaction import clean_up
from rondo_tools.store.format.cursors import CursorPosition
from rondo_tools.store.format.layout import ENDED, JOURNALS, LAST_ROWS, Layout
from rondo_tools.store.format.state import State, parse_state
from rondo_tools.store.format.tiers import Tier, parse_tiers
from rondo_tools.store.housekeeping import Housekeeper, Look
from rondo_tools.store.looks import plausible
from rondo_tools.store.remembered import Remembered
from rondo_tools.store.reserve import Reserve
from tests.support.faulty_disk import FaultyDisk
from tests.support.store.store_journals import (
    T0,
    TIERS,
    Host,
    Session,
    descriptions,
    expected_rows,
    stored_rows,
)

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
SEED = int(os.environ.get("RONDO_TEST_SEED", "0"))
SCHEDULES = int(os.environ.get("RONDO_SCHEDULES", "10"))


class Store(Host):
    """A store with roll-ups and housekeeping. `now_ms` is its clock, `true_ms` the true time."""

    def __init__(self, path: Path, tiers: tuple[Tier, ...] = TIERS) -> None:
        super().__init__(path, tiers=tiers)
        path.mkdir(exist_ok=True)
        self.true_ms = T0
        self.cursors: list[CursorPosition] = []
        self.max_bytes: int | None = None
        self.restart()

    def restart(self) -> None:
        """Open the store in another process."""
        if self.layout.state_json.exists():
            self.state = parse_state(self.layout.state_json.read_bytes())
            clean_up(self.layout, self.state, self.tiers)
        begun_ms = self.true_ms
        self.keeper = Housekeeper(
            self.layout, self.tiers, lambda: self.cursors, lambda: self.now_ms, self.max_bytes,
            lambda: (self.true_ms - begun_ms) / 1000,
        )  # fmt: skip

    def wait(self, some_ms: int) -> None:
        self.now_ms += some_ms
        self.true_ms += some_ms

    def live_a_while(self, vm: Session, seconds: int = 5, end: str | None = "poweroff") -> None:
        """A journal with some ticks of a session, rolled up."""
        journal = self.journal()
        journal.ticks(vm, self.some(vm, seconds))
        if end is not None:
            journal.end(vm, end)
        journal.close()
        self.roll_up()

    def look(self) -> Look:
        look = self.keeper.look(self.state)
        self.take(look)
        return look

    def take(self, look: Look) -> None:
        if self.layout.state_json.exists():
            assert parse_state(self.layout.state_json.read_bytes()) == look.state
        self.state = look.state
        for folder, number in look.removed:
            if folder == ENDED:
                self.remembered.forget(number)

    def journals(self) -> list[int]:
        return self.layout.numbers(JOURNALS)

    def files(self) -> int:
        return sum(1 for path in self.layout.path.rglob("*") if path.is_file())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def an_hour_of_looks(store: Store) -> None:
    for _ in range(7):
        store.look()
        store.wait(10 * MINUTE_MS)


def test_a_journal_expires_after_tier_0s_span_and_its_rows_stay(store: Store) -> None:
    an_hour_of_looks(store)
    store.live_a_while(Session("vm-1"))
    for _ in range(2):
        store.wait(5 * MINUTE_MS)
        store.look()
        assert store.journals() == [1]
    store.wait(MINUTE_MS)
    assert store.look().removed == [(JOURNALS, 1)]
    assert not store.journals()
    assert not store.state.journals
    store.check()


def test_a_journal_that_is_not_rolled_up_stays(store: Store) -> None:
    an_hour_of_looks(store)
    journal = store.journal()
    journal.ticks(Session("vm-1"), store.some(Session("vm-1"), 5))
    journal.close()
    store.wait(30 * DAY_MS)
    an_hour_of_looks(store)
    assert store.journals() == [1]


def test_an_active_cursor_keeps_journals_for_tier_1s_span(store: Store) -> None:
    an_hour_of_looks(store)
    for number in range(1, 4):
        store.live_a_while(Session(f"vm-{number}"))
    store.wait(MINUTE_MS)
    for _ in range(35):
        store.wait(10 * MINUTE_MS)
        store.cursors = [CursorPosition("a", 2, store.now_ms), CursorPosition("b", 3, store.now_ms)]
        store.look()
        assert store.journals() == [2, 3]
    for _ in range(3):
        store.wait(10 * MINUTE_MS)
        store.look()
    assert not store.journals()


def test_an_inactive_cursor_keeps_no_journal(store: Store) -> None:
    an_hour_of_looks(store)
    store.live_a_while(Session("vm-1"))
    store.cursors = [CursorPosition("lab", 1, store.now_ms)]
    for _ in range(6):
        store.wait(10 * MINUTE_MS)
        store.look()
        assert store.journals() == [1]
    for _ in range(3):
        store.wait(10 * MINUTE_MS)
        store.look()
    assert not store.journals()


def test_the_last_ten_minutes_of_a_live_session_stay(store: Store) -> None:
    vm = Session("vm-1")
    an_hour_of_looks(store)
    for _ in range(5):
        store.live_a_while(vm, 300, end=None)
        store.wait(5 * MINUTE_MS)
        store.look()
    for _ in range(12):  # it is silent
        store.wait(10 * MINUTE_MS)
        store.look()
        assert store.journals() == [4, 5]
    journal = store.journal()
    journal.end(vm, "lost")
    journal.close()
    store.roll_up()
    store.check()
    store.wait(11 * MINUTE_MS)
    store.look()
    store.wait(11 * MINUTE_MS)
    store.look()
    assert not store.journals()
    store.check()


def test_coarse_rows_and_ended_sessions_expire_by_their_spans(store: Store, no_waits: None) -> None:
    an_hour_of_looks(store)
    store.live_a_while(Session("vm-1"), 30)
    counts = []
    for _ in range(24 * 9):
        store.wait(HOUR_MS)
        store.look()
        counts.append(tuple(bool(store.state.files[name]) for name in ("tier_1", "tier_2", LAST_ROWS, ENDED)))
    assert counts[4] == (True, True, True, True)
    assert counts[8] == (False, True, True, True)
    assert counts[7 * 24 - 1] == (False, True, True, True)
    assert counts[-1] == (False, False, False, False)
    assert store.remembered.find("vm-1", T0) is None
    store.live_a_while(Session("vm-2"), 30)
    assert min(store.state.files["tier_1"]) == 2, "a number is never used twice"


def test_runs_from_cron_expire_files(store: Store, no_waits: None) -> None:
    for number in range(200):
        store.restart()
        store.live_a_while(Session("vm", T0 + number * 10_000), 3)
        store.look()
        store.wait(MINUTE_MS)
    assert 60 <= len(store.journals()) <= 90
    assert len(store.state.looks_ms) <= 12


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(SEED, SEED + SCHEDULES))
def test_a_clock_that_is_wrong_for_an_hour_removes_nothing(tmp_path: Path, seed: int, no_waits: None) -> None:
    """Removed files are older than their span by the true time; in the end all such files are removed."""
    choose = random.Random(seed)
    store = Store(tmp_path / "store", parse_tiers("1s:10m,10s:2h,1m:1d"))
    written: dict[tuple[str, int], int] = {}
    wrong_until = 0
    for turn in range(300):
        if choose.random() < 0.3:
            before = {name: dict(files) for name, files in store.state.files.items()}
            store.live_a_while(Session("vm", T0 + turn * 10_000), 3)
            written[JOURNALS, store.number] = store.true_ms
            for name, files in store.state.files.items():
                for number, one in files.items():
                    if number not in before.get(name, {}) or before[name][number].length != one.length:
                        written[name, number] = store.true_ms
        if choose.random() < 0.1:
            store.restart()
        for folder, number in store.look().removed:
            span_ms = {JOURNALS: 10 * MINUTE_MS, "tier_1": 2 * HOUR_MS}.get(folder, DAY_MS)
            assert store.true_ms - written[folder, number] > span_ms, (turn, folder, number)
        store.wait(choose.choice((MINUTE_MS, 5 * MINUTE_MS, 20 * MINUTE_MS)))
        if store.true_ms >= wrong_until:
            store.now_ms = store.true_ms
            if choose.random() < 0.03:
                off_ms = choose.choice((365 * DAY_MS, 2 * HOUR_MS, -3 * HOUR_MS, -DAY_MS, -store.true_ms))
                store.now_ms = store.true_ms + off_ms + 1000
                wrong_until = store.true_ms + choose.choice((MINUTE_MS, 30 * MINUTE_MS))
    store.now_ms = store.true_ms
    for hour in range(6):  # files closed by a right clock correct those before
        store.wait(HOUR_MS)
        store.look()
        store.live_a_while(Session("vm", T0 + (1000 + hour) * 10_000), 3)
    for _ in range(4 * 27):
        store.wait(15 * MINUTE_MS)
        store.look()
    assert not store.journals()
    assert not store.state.files["tier_1"]


def test_later_files_correct_the_time_of_a_wrong_clock() -> None:
    assert plausible({1: 10, 2: 20, 3: 30}, 40) == {1: 10, 2: 20, 3: 30}
    assert plausible({1: 10, 2: 5, 3: 30}, 40) == {1: 10, 2: 10, 3: 30}
    assert plausible({1: 10, 2: 999, 3: 30}, 40) == {1: 10, 2: 30, 3: 30}
    assert plausible({1: 10, 2: 30, 3: 999}, 40) == {1: 10, 2: 30, 3: 40}


def test_files_are_evicted_in_order(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    order: list[tuple[str, bool]] = []
    for number in range(1, 9):
        store.live_a_while(Session(f"vm-{number}"), 60)
        store.wait(DAY_MS)
    store.cursors = [CursorPosition("a", 4, store.now_ms)]
    store.look()
    kept = {folder: len(store.state.files[folder]) for folder in ("tier_1", "tier_2", LAST_ROWS, ENDED)}
    with caplog.at_level(logging.WARNING):
        while removed := (look := store.keeper.make_room(store.state, 1)).removed:
            store.take(look)
            order.append((removed[0][0], bool(look.coarsened)))
            assert len(removed) == 1
    names = [name for name, _ in order]
    assert names == sorted(names, key=[JOURNALS, "tier_1", LAST_ROWS, "tier_2", ENDED].index) or {
        *names[-6:]
    } == {"tier_2", ENDED}
    assert [coarsened for name, coarsened in order if name == JOURNALS] == [False] * 3 + [True] * 5
    assert names.count("tier_1") == kept["tier_1"] - 1, "never one that is open"
    assert names.count(LAST_ROWS) == kept[LAST_ROWS] - 1
    assert names.index("tier_1") > 7
    assert max(at for at, name in enumerate(names) if name == "tier_1") < names.index(LAST_ROWS)
    assert max(at for at, name in enumerate(names) if name == LAST_ROWS) < min(
        names.index("tier_2"), names.index(ENDED)
    )
    evictions = store.state.evictions
    assert [one.delivered for one in evictions[:8]] == [True] * 3 + [False] * 5
    assert all(one.bytes and T0 < one.from_ms <= one.to_ms <= T0 + 61_000 for one in evictions)
    assert len(evictions) == len(order)
    assert "coarser" in caplog.text
    assert descriptions(store.layout, store.state)


def test_max_bytes_limits_the_disk_usage(store: Store, no_waits: None) -> None:
    store.keeper.max_bytes = 250_000
    for number in range(1, 60):
        store.live_a_while(Session(f"vm-{number}"), 100)
        store.wait(HOUR_MS)
        store.look()
        assert store.layout.used_bytes() <= 250_000
    assert store.state.evictions
    assert parse_state(store.state.pack()) == store.state


def test_a_file_that_cannot_be_removed_is_reported_once_and_retried(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    an_hour_of_looks(store)
    for number in (1, 2):
        store.live_a_while(Session(f"vm-{number}"))
    path = store.layout.file(JOURNALS, 1)
    path.unlink()
    path.mkdir()
    for _ in range(4):
        store.wait(10 * MINUTE_MS)
        store.look()
    assert store.journals() == [1]
    assert caplog.text.count(str(path)) == 1
    path.rmdir()
    path.write_bytes(b"")
    store.look()
    assert not store.journals()


def test_an_unreadable_carry_keeps_the_journals(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    an_hour_of_looks(store)
    store.live_a_while(Session("vm-1"), end=None)
    path = store.layout.carry(store.state.carry)
    path.write_bytes(b"x")
    for _ in range(3):
        store.wait(10 * MINUTE_MS)
        store.look()
    assert store.journals() == [1]
    assert caplog.text.count(str(path)) == 1


def test_if_the_state_cannot_be_replaced_nothing_is_removed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    an_hour_of_looks(store)
    store.live_a_while(Session("vm-1"))
    store.wait(20 * MINUTE_MS)
    disk = FaultyDisk(store.layout.path, 1)
    with disk.installed(monkeypatch):
        disk.fail_in = 0
        with pytest.raises(OSError, match="Input/output"):
            store.look()
        assert store.journals() == [1]
        store.look()
    assert not store.journals()


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(SEED, SEED + max(SCHEDULES // 3, 1)))
def test_a_full_disk_is_no_deadlock(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Roll-ups fail, the reserve is freed, files are evicted, and the store continues without wrong data."""
    choose = random.Random(seed)
    store = Store(tmp_path / "store")
    disk = FaultyDisk(store.layout.path, seed)
    reserve = Reserve(store.layout, 150_000)
    room = []
    with disk.installed(monkeypatch):
        assert reserve.take()
        disk.capacity = 700_000
        for number in range(60):
            vm = Session(f"vm-{number}")
            try:
                journal = store.journal()
                journal.ticks(vm, store.some(vm, choose.randint(1, 700)))
                journal.end(vm, "poweroff")
                journal.close()
            except OSError:  # whole frames are valid; here the producer keeps the rest
                journal.writer.close()
                journal.path.unlink(missing_ok=True)
                store.number -= 1
                del store.ticks[vm]
                store.last_ms.pop(vm.key, None)
                store.take(look := store.keeper.make_room(store.state, 100_000))
                room.append(len(look.removed))
            store.wait(MINUTE_MS)
            try:
                store.roll_up(max_file=30_000)
            except OSError:
                reserve.give_up()
                store.roll_up(max_file=30_000)
            if not reserve.take():
                look = store.keeper.make_room(store.state, 250_000)
                room.append(len(look.removed))
                store.take(look)
                assert reserve.take()
    assert room
    assert store.state.rolled_up == store.number
    # The remaining rows equal those of the plain loop, and the newest sessions have all of theirs.
    newest = list(store.ticks)[-1]
    for tier in (1, 2):
        interval_ms = TIERS[tier].interval_ms
        stored = stored_rows(store.layout, store.state, tier, interval_ms).rows
        assert stored[newest.key] == expected_rows(store.ticks[newest], interval_ms)
        for vm, ticks in store.ticks.items():
            assert stored.get(vm.key, {}).items() <= expected_rows(ticks, interval_ms).items()
    assert newest.key in descriptions(store.layout, store.state)


def test_the_file_size_limit_of_the_process_is_an_error_like_a_full_disk(store: Store) -> None:
    import resource
    import signal

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    vm = Session("vm-1")
    journal = store.journal()
    journal.ticks(vm, store.some(vm, 700))
    journal.end(vm, "poweroff")
    journal.close()
    try:
        for limit in (10, 100, 5_000, 20_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            with pytest.raises(OSError):
                store.roll_up()
            assert store.state == State()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not any(store.layout.numbers(folder) for folder in ("tier_1", "tier_2", ENDED, LAST_ROWS))
    store.roll_up()
    store.check()


def test_the_reserve_is_allocated_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(tmp_path)
    reserve = Reserve(layout, 50_000)
    assert reserve.take()
    assert reserve.take()
    assert layout.reserve.stat().st_blocks * 512 >= 50_000
    reserve.give_up()
    reserve.give_up()
    assert not layout.reserve.exists()
    disk = FaultyDisk(tmp_path, 1)
    with disk.installed(monkeypatch):
        disk.capacity = 49_999
        assert not reserve.take()
        assert not layout.reserve.exists()

    def too_large(_fd: int, _offset: int, _length: int) -> None:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    monkeypatch.setattr(os, "posix_fallocate", too_large)
    assert reserve.take(), "a limit on the size of files is no full disk"
    assert not layout.reserve.exists()


@pytest.mark.heavy
@pytest.mark.parametrize(("minutes", "days"), [(30, 11), pytest.param(1, 9, marks=pytest.mark.long)])
def test_days_of_short_pipes_keep_files_and_state_small(
    tmp_path: Path, no_waits: None, minutes: int, days: int
) -> None:
    """As from cron."""
    every_ms = minutes * MINUTE_MS
    store = Store(tmp_path / "store")
    sizes, files = [], []
    while store.now_ms < T0 + days * DAY_MS:
        store.restart()
        store.live_a_while(Session("cron", store.now_ms), 3)
        store.look()
        sizes.append(len(store.state.pack()))
        files.append(store.files())
        store.wait(every_ms)
    day = DAY_MS // every_ms
    assert max(files[-day:]) <= max(files[:-day])
    assert max(sizes[-day:]) <= max(sizes[:-day]) + 64
    assert max(files) < 50 + 2 * HOUR_MS // every_ms
    assert max(sizes) < 8192
    again = Remembered(store.layout)
    again.load(store.state)
    assert len(again) == len(descriptions(store.layout, store.state))
