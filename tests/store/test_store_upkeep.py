"""What rondo-store does with journals that are over: rolled up, kept, removed; on disks that are full."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from rondo_tools.errors import StoreError
from rondo_tools.store.check import Checker
from rondo_tools.store.cursors import Cursors
from rondo_tools.store.format.cursor import Position, Progress, pack_progress
from rondo_tools.store.format.layout import JOURNALS, Layout
from rondo_tools.store.intake import Intake
from rondo_tools.store.opened import OpenStore
from rondo_tools.store.reader import Store
from rondo_tools.stream import End, Event
from tests.support.faulty_disk import FaultyDisk
from tests.support.fixtures import Run
from tests.support.needs import PATIENCE_S
from tests.support.store.store_host import Clock, acknowledged, connected, data, fill, started, wait_for_log
from tests.support.store.stream_model import COUNTS, LEVEL, T0, check, header, served, ticks
from tests.support.streams import encoded

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
PAIR = (COUNTS, LEVEL)
SET_CLOCK = Path(__file__).parents[1] / "set_clock"


class Life:
    """Opens a store again and again; time is the test's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.layout = Layout(path)
        self.clock = Clock()
        self.now_ms = T0

    def open(self, max_bytes: int = 1 << 30) -> OpenStore:
        return OpenStore(self.path, now_ms=lambda: self.now_ms, clock=self.clock, max_bytes=max_bytes)

    def wait(self, some_ms: int) -> None:
        self.now_ms += some_ms
        self.clock.now += some_ms / 1000

    def pipe(self, instance: str = "cron", count: int = 5, max_bytes: int = 1 << 30) -> None:
        """A short life, from a pipe."""
        begin_ms = self.now_ms - count * 1000
        messages: list[Event] = [
            header(PAIR, instance, begin_ms),
            *ticks(count, begin_ms + 1000, width=2),
            End("poweroff", self.now_ms),
        ]
        with self.open(max_bytes) as store:
            store.keep_house()
            intake = Intake(store.keeper)
            intake.feed(encoded(*messages))
            intake.close(give_up=True)
            store.keeper.end_journal()
            store.keep_house()

    def journals(self) -> list[int]:
        return self.layout.numbers(JOURNALS)

    def used(self) -> int:
        return sum(path.lstat().st_blocks * 512 for path in self.path.rglob("*") if path.is_file())


@pytest.fixture
def life(path: Path) -> Life:
    return Life(path)


@pytest.mark.long
def test_weeks_of_short_pipes_do_not_fill_the_disk(life: Life, no_waits: None) -> None:
    used, files = [], []
    for _ in range(18 * 24):
        life.pipe()
        used.append(life.used())
        files.append(sum(1 for _ in life.path.rglob("*")))
        life.wait(HOUR_MS)
    ninth, last = used[8 * 24 : 10 * 24], used[-2 * 24 :]
    assert max(last) <= max(ninth) * 1.05
    assert max(files[-2 * 24 :]) <= max(files[8 * 24 : 10 * 24])
    sessions = Store(life.path).sessions()
    assert 7 * 24 <= len(sessions) <= 8 * 24 + 1
    for session in sessions[-7 * 24 :]:
        lived = ticks(5, session.start_ms + 1000, width=2)
        assert served(session) == {one.t_ms: one.values for one in lived}
        check(session, lived, PAIR, whole=False)  # tier 1 remembers six hours


def test_journals_expire_by_two_looks_an_hour_apart(life: Life) -> None:
    life.pipe()
    life.wait(30 * MINUTE_MS)
    life.pipe()
    assert life.journals() == [1, 2]
    life.wait(40 * MINUTE_MS)
    life.pipe()
    assert life.journals() == [1, 2, 3], "the look that is an hour old says that the first is new"
    for _ in range(3):
        life.wait(30 * MINUTE_MS)
        life.pipe()
    assert 1 not in life.journals()
    for session in Store(life.path).sessions():
        check(session, ticks(5, session.start_ms + 1000, width=2), PAIR)


def test_check_does_not_miss_expired_coarse_rows(life: Life, no_waits: None) -> None:
    """The last ten minutes of a session are there for a week, its rows of tier 1 for six hours."""
    for _ in range(10):
        life.pipe()
        life.wait(HOUR_MS)
    life.pipe()
    assert 1 not in life.layout.numbers("tier_1")
    assert len(Store(life.path).sessions()[0].rows().t_ms) == 5
    assert list(Checker(life.path).findings()) == []


def progress(life: Life, journal: int, tier: int = 0) -> bytes:
    with life.open() as store:
        store_id = store.keeper.folder.store_id
    return pack_progress(
        Progress(store=store_id.hex(), tier=tier, begin=Position(journal, bytes(8), 40)), None
    )


def an_hour_of_looks(life: Life) -> None:
    for _ in range(7):
        with life.open() as store:
            store.keep_house()
        life.wait(10 * MINUTE_MS)


@pytest.mark.parametrize(
    ("cursor", "held_ms", "kept"),
    [
        ("at 3", 0, [3, 4]),
        ("at 3", 3 * HOUR_MS, [4]),  # no push has held it for long
        ("of tier 1", 0, [4]),
        ("damaged", 0, [1, 2, 3, 4]),
    ],
)
def test_an_active_cursor_keeps_the_journals_from_its_own_on(
    life: Life, cursor: str, held_ms: int, kept: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    an_hour_of_looks(life)
    for number in (1, 2, 3):
        life.pipe(f"vm-{number}")
    path = life.layout.cursor("prometheus")
    path.write_bytes({
        "at 3": progress(life, 3),
        "of tier 1": progress(life, 1, tier=1),
        "damaged": b"{}",
    }[cursor])  # fmt: skip
    for _ in range(2):
        life.wait(HOUR_MS)
        os.utime(path, ns=(0, (life.now_ms - held_ms) * 1_000_000))
        life.pipe("vm-4")
    assert [number for number in life.journals() if number <= 4] == kept
    assert ("cannot be read" in caplog.text) == (cursor == "damaged")


def test_a_cursor_of_another_store_has_delivered_nothing(life: Life) -> None:
    life.pipe()
    life.layout.cursor("a").write_bytes(
        pack_progress(Progress(store="00" * 8, begin=Position(7, b"", 0)), None)
    )
    life.layout.cursor("b").write_bytes(pack_progress(Progress(), None))
    with life.open() as store:
        found = Cursors(life.layout, store.keeper.folder.store_id)()
    assert [(one.name, one.journal) for one in found] == [("a", 0), ("b", 0)]


def test_a_start_with_a_clock_that_is_weeks_ahead_removes_nothing(
    path: Path, run: Run, begin_ms: int
) -> None:
    offset = path.parent / "offset"
    environment = {**os.environ, "PYTHONPATH": str(SET_CLOCK), "SET_CLOCK": str(offset)}
    offset.write_text("0")
    assert run("rondo-store", path, stdin=None, input=data(begin_ms, 45), env=environment).returncode == 0
    for _ in range(2):
        offset.write_text(str(30 * DAY_MS))
        assert run("rondo-store", path, stdin=None, input=b"", env=environment).returncode == 0
    offset.write_text("0")
    assert run("rondo-store", path, stdin=None, input=b"", env=environment).returncode == 0
    (session,) = Store(path).sessions()
    check(session, ticks(45, begin_ms))


def test_max_bytes_limits_the_store_and_reports_evictions(
    life: Life, no_waits: None, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(60):
        life.pipe(f"vm-{number}", count=100, max_bytes=250_000)
        life.wait(HOUR_MS)
        assert life.used() <= 250_000
    assert "journals had to go that not every push had delivered" not in caplog.text, "there is no push"
    store = Store(life.path)
    sessions = {one.instance: one for one in store.sessions()}
    assert store.evictions
    check(sessions["vm-59"], ticks(100, sessions["vm-59"].start_ms + 1000, width=2), PAIR)


def test_the_limit_is_logged_at_start(path: Path, address: str, begin_ms: int) -> None:
    with started(path, "--max-bytes", "3G", "--listen", f"unix:{address}") as process:
        assert f"{path}: at most 3.0 GiB (--max-bytes)" in wait_for_log(process, "listening")
    status = os.statvfs(path)
    bound = min(16 << 30, status.f_blocks * status.f_frsize // 10)
    with OpenStore(path) as store:
        assert store.upkeep.max_bytes == bound


# --- full disks -----------------------------------------------------------------------------------


def test_a_roll_up_that_failed_on_a_full_disk_is_repeated(small_disk: Path, run: Run, begin_ms: int) -> None:
    path = small_disk / "store"
    assert run("rondo-store", path, "--max-bytes", "10M", stdin=None, input=b"").returncode == 0
    ballast = fill(small_disk, 16_384)
    done = run("rondo-store", path, "--max-bytes", "10M", stdin=None, input=data(begin_ms, 60))
    assert done.returncode == 0, done.stderr
    assert b"60 ticks stored" in done.stderr
    assert f"{path}: not rolled up yet: No space left on device".encode() in done.stderr
    (session,) = Store(path).sessions()
    check(session, ticks(60, begin_ms))
    ballast.unlink()
    done = run("rondo-store", path, "--max-bytes", "10M", stdin=None, input=b"")
    assert b"not rolled up" not in done.stderr
    assert Layout(path).numbers("tier_1")
    (session,) = Store(path).sessions()
    check(session, ticks(60, begin_ms))


def test_a_server_rolls_up_on_a_full_disk(small_disk: Path, clock: Clock, begin_ms: int) -> None:
    path = small_disk / "store"
    with OpenStore(path, max_bytes=1 << 20, clock=clock) as store:
        store.upkeep.keep_reserve()
        store.upkeep.look()
        intake = Intake(store.keeper)
        intake.feed(data(begin_ms, 60))
        store.keeper.end_journal()
        fill(small_disk, 0)
        store.keeper.roll_up()
        assert not store.keeper.closed
    (session,) = Store(path).sessions()
    check(session, ticks(60, begin_ms))


def test_another_program_that_fills_the_disk_for_minutes_costs_no_data(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what the roll-up needs is evicted, and only if the disk stays full."""
    for number in range(8):
        life.pipe(f"vm-{number}", 600)
    before = life.journals()
    disk = FaultyDisk(life.path, 1)
    with disk.installed(monkeypatch), life.open() as store:
        store.upkeep.keep_reserve()
        intake = Intake(store.keeper)
        intake.feed(encoded(header(PAIR, "vm-9", life.now_ms), *ticks(60, life.now_ms, width=2)))
        store.keeper.flush()
        store.keeper.end_journal()
        disk.capacity = disk.used()
        for _ in range(5):
            store.keep_house()
            assert store.keeper.closed
            assert life.journals() == [*before, 9]
            assert store.upkeep.state.evictions == []
            life.wait(MINUTE_MS)
        store.keep_house()
        assert not store.keeper.closed
        evicted = store.upkeep.state.evictions
        assert 0 < len(evicted) < len(before)
        store.keep_house()
        assert store.upkeep.state.evictions == evicted, "none for the reserve"
    assert not list(Checker(life.path).findings())


def test_while_the_disk_stays_full_each_roll_up_evicts_without_a_wait(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Producers keep ten minutes of ticks, no more. After the disk had room, the wait begins again."""
    for number in range(12):
        life.pipe(f"vm-{number}", 600)
    disk = FaultyDisk(life.path, 1)
    with disk.installed(monkeypatch), life.open() as store:
        store.upkeep.keep_reserve()
        intake = Intake(store.keeper)

        def rolls_up(number: int, *, is_full: bool = True) -> bool:
            disk.capacity = None
            intake.feed(encoded(header(PAIR, f"new-{number}", life.now_ms), *ticks(60, life.now_ms, width=2)))
            store.keeper.flush()
            store.keeper.end_journal()
            disk.capacity = disk.used() if is_full else None
            store.keep_house()
            return not store.keeper.closed

        assert not rolls_up(1)
        life.wait(5 * MINUTE_MS)
        evicted = []
        for number in range(2, 5):
            assert rolls_up(number)
            evicted.append(len(store.upkeep.state.evictions))
        assert evicted == sorted(set(evicted))
        assert rolls_up(5, is_full=False)
        assert rolls_up(6), "with the reserve"
        assert not rolls_up(7)
        assert len(store.upkeep.state.evictions) == evicted[-1]
    assert not list(Checker(life.path).findings())


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EMFILE])
def test_no_file_is_evicted_for_the_reserve(life: Life, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    for number in range(3):
        life.pipe(f"vm-{number}")

    def failing(fd: int, at: int, size: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "posix_fallocate", failing)
    with life.open() as store:
        store.upkeep.keep_reserve()
        store.upkeep.look()
    assert life.journals() == [1, 2, 3]


def test_it_waits_for_inodes(few_inodes: Path, tmp_path: Path, begin_ms: int) -> None:
    path, address = few_inodes / "store", str(tmp_path / "sock")
    with started(path, "--no-health", "--listen", f"unix:{address}") as process:
        wait_for_log(process, "listening")
        taken: list[Path] = []
        try:
            while True:
                taken.append(few_inodes / f"file-{len(taken)}")
                taken[-1].touch()
        except OSError:
            taken.pop()
        with connected(address) as peer:
            peer.sendall(data(begin_ms, 50))
            wait_for_log(process, "No space left on device; trying again")
            for file in taken:
                file.unlink()
            assert acknowledged(peer)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    (session,) = Store(path).sessions()
    check(session, ticks(50, begin_ms))


# --- what happens to a folder ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["removed", "renamed", "replaced"])
def test_a_server_without_its_folder_ends_and_acknowledges_nothing(
    path: Path, tmp_path: Path, address: str, begin_ms: int, run: Run, how: str
) -> None:
    with started(path, "--no-health", "--listen", f"unix:{address}") as process:
        wait_for_log(process, "listening")
        with connected(address) as peer:
            peer.sendall(data(begin_ms, 5, end=False))
            assert process.stdout is not None
            process.stdout.readline()
            path.rename(tmp_path / "elsewhere")
            if how == "removed":
                subprocess.run(["rm", "-r", tmp_path / "elsewhere"], check=True)
            elif how == "replaced":
                assert run("rondo-store", path, stdin=None, input=b"").returncode == 0
            with suppress(BrokenPipeError, ConnectionResetError):  # it may have noticed by itself, and gone
                peer.sendall(encoded(*ticks(9, begin_ms)[5:]))
                assert not acknowledged(peer)
        assert process.wait(PATIENCE_S) == 69
        assert process.stderr is not None
        assert f"{path}: removed or replaced".encode() in process.stderr.read()
    if how == "replaced":
        assert Store(path).sessions() == []


@pytest.mark.parametrize("content", [b"", b"{}", b"rubbish"])
def test_an_unreadable_state_stops_it_and_changes_no_file(
    path: Path, run: Run, begin_ms: int, content: bytes
) -> None:
    assert run("rondo-store", path, stdin=None, input=data(begin_ms, 45)).returncode == 0
    layout = Layout(path)
    before = layout.state_json.read_bytes()
    files = {file: file.read_bytes() for file in path.rglob("*") if file.is_file() and file != layout.lock}
    layout.state_json.write_bytes(content)
    done = run("rondo-store", path, stdin=None, input=b"")
    assert done.returncode == 65
    assert f"{layout.state_json}: not a store's state".encode() in done.stderr
    assert b"Traceback" not in done.stderr
    layout.state_json.write_bytes(before)
    assert {file: file.read_bytes() for file in files} == files
    (session,) = Store(path).sessions()
    check(session, ticks(45, begin_ms))


@pytest.mark.parametrize("content", [None, b""])
def test_a_lost_state_costs_no_data_once_it_is_back(life: Life, run: Run, content: bytes | None) -> None:
    """None: removed, or left out of a backup."""
    for _ in range(6):
        life.pipe()
        life.wait(HOUR_MS)
    assert 1 not in life.journals()
    state = life.layout.state_json
    before = state.read_bytes()
    state.unlink()
    if content is not None:
        state.write_bytes(content)
    for argv in ("rondo-store", "rondo-query check", "rondo-query list"):
        tool, *words = argv.split()
        done = run(tool, life.path, *words, stdin=None, input=b"")
        assert done.returncode == 65, argv
        assert f"{state}: ".encode() in done.stderr
        assert b"Traceback" not in done.stderr
    state.write_bytes(before)
    assert len(Store(life.path).sessions()) == 6
    assert not list(Checker(life.path).findings())


def test_a_state_that_is_gone_beside_all_journals_is_made_again(life: Life) -> None:
    """As after a crash in the first roll-up."""
    for _ in range(2):
        life.pipe()
        life.wait(MINUTE_MS)
    life.layout.state_json.unlink()
    life.pipe()
    assert len(Store(life.path).sessions()) == 3
    assert not list(Checker(life.path).findings())


@pytest.mark.parametrize("size", [0, 1, 39])
def test_a_journal_without_a_header_is_skipped(path: Path, run: Run, begin_ms: int, size: int) -> None:
    assert run("rondo-store", path, stdin=None, input=data(begin_ms, 45)).returncode == 0
    torn = Layout(path).file(JOURNALS, 2)
    torn.write_bytes(Layout(path).file(JOURNALS, 1).read_bytes()[:size])
    done = run("rondo-store", path, stdin=None, input=data(begin_ms + 100_000, 5, instance="next"))
    assert done.returncode == 0
    assert b"passed over" not in done.stderr
    assert Layout(path).numbers(JOURNALS) == [1, 2, 3]
    assert {one.instance: one.ticks for one in Store(path).sessions()} == {"vm-1": 45, "next": 5}
    for command in (["list"], ["read", "{}"], ["check", "-q"]):
        asked = run("rondo-query", path, *command)
        assert (asked.returncode, asked.stderr) == (0, b"")


def test_a_file_that_cannot_be_removed_is_reported_once(life: Life, caplog: pytest.LogCaptureFixture) -> None:
    an_hour_of_looks(life)
    life.pipe("vm-1")
    journal = life.layout.file(JOURNALS, 1)
    journal.unlink()
    (journal / "full").mkdir(parents=True)
    with life.open() as store, caplog.at_level(logging.WARNING):
        for _ in range(4):
            life.wait(HOUR_MS)
            store.keep_house()
    assert caplog.text.count(str(journal)) == 1
    life.pipe("vm-2")
    assert {one.instance for one in Store(life.path).sessions()} == {"vm-1", "vm-2"}


def test_a_job_in_a_replaced_folder_does_nothing(life: Life, tmp_path: Path) -> None:
    life.pipe()
    with life.open() as store:
        life.path.rename(tmp_path / "elsewhere")
        Life(life.path).pipe("other")
        other = life.layout.state_json.read_bytes()
        with pytest.raises(StoreError, match="removed or replaced"):
            store.upkeep.look()
        with pytest.raises(StoreError, match="removed or replaced"):
            store.keep_house()
    assert life.layout.state_json.read_bytes() == other
