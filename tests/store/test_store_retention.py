"""Which sessions go: too old, or no room for them; and when data is forced to the disk."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from needs import PATIENCE_S
from ring_model import T0, header, ticks
from store_host import data, started

from rondo_tools.errors import StoreError, UsageError
from rondo_tools.store import retention
from rondo_tools.store.reader import Store
from rondo_tools.store.sync import DEFAULT_POLICY, Syncer, parse_policy
from rondo_tools.store.tiers import DEFAULT_TIERS
from rondo_tools.store.writer import SessionWriter, StoreWriter
from rondo_tools.stream import End

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]
NOW = T0 + 3_600_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


def live(store: StoreWriter, instance: str, start_ms: int = T0 - 1, count: int = 100) -> SessionWriter:
    session = store.open(header(instance=instance, start_ms=start_ms))
    session.ring.append(ticks(count, start_ms + 1))
    return session


def ended(store: StoreWriter, instance: str, start_ms: int = T0 - 1) -> SessionWriter:
    session = live(store, instance, start_ms)
    session.finish(End("poweroff", start_ms + 100_000))
    session.close()
    return session


def names(path: Path) -> list[str]:
    return [session.instance for session in Store(path).sessions()]


def cursor(path: Path, name: str, *sessions: SessionWriter, ended: bool = True) -> None:
    """As rondo-push writes it, of sessions that it has delivered."""
    marks = {
        f"{one.header.instance}/{one.header.start_ms}": {
            "delivered_ms": one.header.start_ms + 100_000,
            "ended": ended,
        }
        for one in sessions
    }
    document = {"version": 1, "begun_ms": 0, "sessions": marks, "in_flight": None}
    (path / f"cursor_{name}.json").write_text(json.dumps(document))


def one_size(path: Path) -> int:
    return Store(path).sessions()[0].bytes_on_disk()


def test_what_every_cursor_has_delivered_goes_first_oldest_first(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with StoreWriter(path, now_ms=lambda: NOW) as store:
        made = {name: ended(store, name, T0 + number * 100_000) for number, name in enumerate("abcde")}
        cursor(path, "one", made["b"], made["c"], made["e"])
        cursor(path, "two", made["c"], made["d"], made["e"], ended=False)
        order = []
        while names(path):
            before = names(path)
            store.room.max_bytes = retention.used(path)[0] - 1
            with caplog.at_level(logging.INFO):
                store.room.make_room()
            gone = [name for name in before if name not in names(path)]
            assert len(gone) == 1
            order += gone
            if gone[0] in "ce":
                assert "had to go" not in caplog.text
    assert order == ["c", "e", "a", "b", "d"]
    assert caplog.text.count("1 session had to go that no push had delivered") == 3


def test_a_cursor_that_cannot_be_read_has_delivered_nothing(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with StoreWriter(path, now_ms=lambda: NOW, max_bytes=1) as store:
        store.room.max_bytes = None
        cursor(path, "good", ended(store, "a"))
        (path / "cursor_bad.json").write_text("{}")
        store.room.max_bytes = 1
        store.room.make_room()
    assert names(path) == []
    assert "cursor_bad.json: cannot be read" in caplog.text
    assert "had to go" in caplog.text


def test_what_is_live_stays_and_new_sessions_are_refused(path: Path) -> None:
    with StoreWriter(path, now_ms=lambda: NOW) as store:
        open_one, silent = live(store, "open"), live(store, "silent")
        silent.close()
        fresh = live(store, "fresh")
        fresh.close()
        for session, written_ms in ((open_one, 0), (silent, NOW - 600_001), (fresh, NOW - 599_999)):
            os.utime(session.path / "tier_0.slab", ns=(0, written_ms * 1_000_000))
        store.room.max_bytes = 1
        with pytest.raises(
            StoreError, match=r"all that is left is live: the new session of 'new' is refused"
        ) as e:
            live(store, "new")
        assert e.value.exit_code == 75
        assert names(path) == ["fresh", "open"]
        live(store, "fresh").close()  # which goes on: it is not new
        store.room.max_bytes = 1 << 30
        live(store, "new").close()
        open_one.close()
    assert names(path) == ["fresh", "new", "open"]


def test_a_server_keeps_to_its_size(path: Path, run: Run, begin_ms: int) -> None:
    assert run("rondo-store", path, stdin=None, input=data(begin_ms, 300)).returncode == 0
    limit = str(retention.used(path)[0] + one_size(path) // 2)
    done = run("rondo-store", path, "--max-bytes", limit, stdin=None, input=data(begin_ms, 300, instance="b"))
    assert done.returncode == 0, done.stderr
    done = run("rondo-store", path, "--max-bytes", limit, stdin=None, input=data(begin_ms, 300, instance="c"))
    assert b"1 session had to go" in done.stderr
    assert names(path) == ["c", "vm-1"]
    none = run("rondo-store", path, "--max-bytes", "1", stdin=None, input=data(begin_ms, 3, instance="d"))
    assert none.returncode == 75
    assert b"the new session of 'd' is refused" in none.stderr


def test_an_end_that_lies_about_its_time_does_not_keep_a_session(path: Path) -> None:
    with StoreWriter(path, now_ms=lambda: T0 + DEFAULT_TIERS[-1].span_ms + 200_000) as store:
        session = live(store, "a")
        session.finish(End("poweroff", 2**53 - 1))
        session.close()
        store.room.expire()
    assert names(path) == []


def test_a_look_keeps_no_session_however_many_there_are(path: Path) -> None:
    """A week of short lives is a hundred thousand sessions, and a server looks at all before it serves."""
    with StoreWriter(path, now_ms=lambda: NOW) as store:
        for number in range(20):
            ended(store, f"vm-{number}")
    seen = [weakref.ref(session) for session in Store(path).each_session()]
    assert len(seen) == 20
    assert not any(one() for one in seen[:-1])
    assert {session.key for session in Store(path).each_session()} == {s.key for s in Store(path).sessions()}


def test_what_is_open_never_expires(path: Path) -> None:
    with StoreWriter(path, now_ms=lambda: 2**53) as store:
        session = live(store, "a")
        store.room.expire()
        assert names(path) == ["a"]
        session.close()
        store.room.expire()
    assert names(path) == []


def test_left_overs_are_swept_and_nothing_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with StoreWriter(path, now_ms=lambda: NOW) as store:
        killed = [ended(store, "a"), ended(store, "b"), ended(store, "c")]
        for session in killed:
            (session.path / "session.json").unlink()
        (killed[0].path / ".tier_1.slab.4711").write_bytes(b"x")
        (killed[0].path / ".session.json.4711").write_bytes(b"x")
        (killed[1].path / "notes.txt").write_text("mine")
        (killed[2].path / "tier_0.slab").unlink()
        (killed[2].path / "tier_0.slab").symlink_to(killed[1].path / "notes.txt")
        (path / "instances" / "a" / "77").symlink_to(killed[1].path)
        kept = live(store, "d")
        store.room.expire()
        assert not killed[0].path.exists()
        assert (path / "instances" / "a" / "77").is_symlink()
        assert (killed[1].path / "notes.txt").read_text() == "mine"
        assert killed[2].path.exists()
        kept.close()
    assert names(path) == ["d"]


# --- --sync --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "every_ms"), [("5s", 5000), ("always", 0), ("never", 0), ("200ms", 200)])
def test_policies(text: str, every_ms: int) -> None:
    policy = parse_policy(text)
    assert policy.every_ms == every_ms
    assert policy.always == (text == "always")
    assert parse_policy(str(policy)) == policy


def test_what_is_no_policy() -> None:
    with pytest.raises(UsageError, match="always, never or a duration"):
        parse_policy("sometimes")
    assert str(DEFAULT_POLICY) == "5s"


def test_an_interval_syncs_what_was_written_to(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[str] = set()
    enough = threading.Event()

    def watched(fd: int) -> None:
        synced.add(str(Path(f"/proc/self/fd/{fd}").readlink()))
        if len(synced) == 3:
            enough.set()

    with StoreWriter(path, sync=parse_policy("never")) as store:
        sessions = [live(store, "a"), live(store, "b")]
        for session in sessions:
            session.close()
    monkeypatch.setattr(os, "fdatasync", watched)
    syncer = Syncer(1, 3)
    syncer.mark(str(sessions[0].path))
    assert enough.wait(PATIENCE_S)
    syncer.close()
    assert synced == {str(sessions[0].path / f"tier_{number}.slab") for number in range(3)}
    slow = Syncer(3_600_000, 3)
    slow.mark(str(sessions[1].path))
    slow.close()  # an end comes before the interval
    assert len(synced) == 6


def test_what_is_written_after_the_clock_was_set_back_is_synced(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files written then have older times than the round before."""
    with StoreWriter(path, sync=parse_policy("never")) as store:
        before, after = live(store, "a"), live(store, "b")
        for session in (before, after):
            session.close()
    wall_s = time.time()
    synced: set[Path] = set()
    enough = threading.Event()

    def watched(fd: int) -> None:
        nonlocal wall_s
        if not synced:  # in the middle of a round
            wall_s -= 3600
            for file in after.path.iterdir():
                os.utime(file, (wall_s, wall_s))
            syncer.mark(str(after.path))
        synced.add(Path(f"/proc/self/fd/{fd}").readlink().parent)
        if len(synced) == 2:
            enough.set()

    monkeypatch.setattr(os, "fdatasync", watched)
    syncer = Syncer(1, 3, lambda: wall_s)
    try:
        syncer.mark(str(before.path))
        assert enough.wait(30)
    finally:
        syncer.close()
    assert synced == {before.path, after.path}


def test_always_is_on_the_disk_when_written(path: Path, begin_ms: int) -> None:
    """By the flags that the kernel shows of the slab that a process has open."""
    for when, expected in (("always", os.O_DSYNC), ("5s", 0)):
        with started(path, "--sync", when, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(data(begin_ms, 3, end=False))
            process.stdin.flush()
            process.stdout.readline()
            (fd,) = [
                link for link in Path(f"/proc/{process.pid}/fd").iterdir() if "slab" in str(link.readlink())
            ]
            text = Path(f"/proc/{process.pid}/fdinfo/{fd.name}").read_text()
            flags = int(text.split("flags:")[1].split()[0], 8)
            assert flags & os.O_DSYNC == expected
            process.stdin.close()
            assert process.wait(PATIENCE_S) == 0
        begin_ms += 10_000


def test_a_disk_that_cannot_be_synced_is_said_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with StoreWriter(path) as store:
        session = live(store, "a")
        session.close()
    monkeypatch.setattr(os, "fdatasync", broken)
    syncer = Syncer(3_600_000, 3)
    syncer.mark(str(session.path))
    syncer.close()
    assert caplog.text.count("cannot be synced: Input/output error") == 1
