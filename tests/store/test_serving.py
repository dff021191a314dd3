"""Many producers on sockets: acknowledged data is written, and no producer holds up the others."""

from __future__ import annotations

import os
import random
import shutil
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgpack
import pytest

from rondo_tools.errors import EX_TEMPFAIL, StoreError, StreamError
from rondo_tools.listeners import listen
from rondo_tools.signals import Signals
from rondo_tools.store.compaction import Result
from rondo_tools.store.format.records import LOST
from rondo_tools.store.intake import Intake
from rondo_tools.store.journal_folder import ClosedJournal
from rondo_tools.store.keeper import Position
from rondo_tools.store.opened import OpenStore
from rondo_tools.store.server import self_metrics
from rondo_tools.store.server.rounds import MOST_READS
from rondo_tools.store.server.self_metrics import SelfMetrics
from rondo_tools.store.server.server import Server
from rondo_tools.store.stdin import read_to_end
from rondo_tools.store.watermarks import Watermarks
from tests.support.store.journal_truth import NOW_MS, START_MS, Disk, read_journals
from tests.support.store.keeper_host import Clock, end, header, keeper, store, ticks, times


class Host:
    """A server; the test calls its turns."""

    def __init__(self, path: Path) -> None:
        self.path = path / "store"
        self.clock = Clock()
        self.signals = Signals()
        self.listener = listen(f"unix:{path / 'sock'}")
        self.store = OpenStore(self.path, now_ms=lambda: NOW_MS, clock=self.clock)
        self.kept = self.store.keeper
        self.server = Server(self.store, [self.listener], Watermarks(-1), self.signals, clock=self.clock)
        self.address = str(path / "sock")
        self.peers: list[socket.socket] = []

    def connect(self, data: bytes = b"") -> socket.socket:
        peer = socket.socket(socket.AF_UNIX)
        self.peers.append(peer)
        peer.settimeout(30)
        peer.connect(self.address)
        peer.setblocking(False)
        if data:
            assert peer.send(data) == len(data)
        return peer

    def turns(self, count: int = 5) -> None:
        for _ in range(count):
            self.server.turn(0)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    with made.signals:
        made.server.open()
        yield made
        for peer in made.peers:
            peer.close()
        made.server.close()
        made.listener.close()
        try:
            made.kept.close()
        except StoreError:
            pass  # the test removed its folder


def answer(peer: socket.socket) -> bytes | None:
    """The answer of the store; b"" is an acknowledgement, None is no answer."""
    try:
        return peer.recv(4096)
    except BlockingIOError:
        return None


def finish(peer: socket.socket) -> None:
    peer.shutdown(socket.SHUT_WR)


def test_producers_are_acknowledged_when_all_is_written(host: Host) -> None:
    peers = [host.connect(header(name) + ticks(1, 50)) for name in "abc"]
    host.turns()
    assert [answer(peer) for peer in peers] == [None] * 3
    for peer in peers:
        peer.send(ticks(50, 60) + end())
        finish(peer)
    host.turns()
    assert [answer(peer) for peer in peers] == [b""] * 3
    found = read_journals(host.path)
    for name in "abc":
        assert times(host.path, name) == list(range(1, 60))
        assert found.state_of((name, START_MS)) == "poweroff"
    assert host.server.connections == 0


def test_unwritten_ticks_stay_with_the_producer(host: Host, install: Callable[[Disk], None]) -> None:
    full = [True]
    install(Disk(lambda *_: "fail" if full[0] else None, random.Random(1)))
    peer, other = host.connect(header() + ticks(1, 3) + end()), host.connect(header("b") + ticks(1, 3))
    finish(peer)
    host.turns()
    assert host.server.is_blocked
    assert answer(peer) is None
    host.clock.now += 1
    host.server.timers.run()
    assert host.server.is_blocked
    full[0] = False
    host.clock.now += 1
    host.server.timers.run()
    host.turns()
    assert (host.server.is_blocked, answer(peer)) == (False, b"")
    other.send(ticks(3, 5))
    host.turns()
    assert times(host.path) == [1, 2]
    assert times(host.path, "b") == [1, 2, 3, 4]
    assert host.server.errors["store"] == 1


def test_a_server_that_stops_on_a_full_disk_acknowledges_nothing(
    host: Host, install: Callable[[Disk], None]
) -> None:
    install(Disk(lambda *_: "fail", random.Random(1)))
    peer = host.connect(header() + ticks(1, 3) + end())
    finish(peer)
    host.turns()
    host.server.close()
    with pytest.raises(ConnectionResetError):
        answer(peer)
    install(Disk(lambda *_: None, random.Random(1)))


@pytest.mark.parametrize("junk", [b"\xc1", ticks(1, 2), header(interval_ms=7)])
def test_only_the_connection_with_the_error_is_closed(host: Host, junk: bytes) -> None:
    good = host.connect(header() + ticks(1, 3))
    host.turns()
    bad = host.connect(junk)
    host.turns()
    with pytest.raises(ConnectionResetError):
        answer(bad)
    good.send(ticks(3, 5))
    host.turns()
    assert times(host.path) == [1, 2, 3, 4]
    assert host.server.errors["stream"] + host.server.errors["store"] == 1


def test_a_newer_connection_takes_the_session_over(host: Host) -> None:
    old = host.connect(header() + ticks(1, 5))
    host.turns()
    new = host.connect(header() + ticks(2, 8))
    host.turns()
    old.send(ticks(5, 6))
    host.turns()
    assert host.server.errors["replaced"] == 1
    new.send(end())
    finish(new)
    host.turns()
    assert answer(new) == b""
    assert times(host.path) == list(range(1, 8))


@pytest.mark.parametrize("turns", [0, 1])
def test_the_last_ticks_of_a_session_are_stored_before_those_of_the_next(host: Host, turns: int) -> None:
    second = START_MS + 100_000
    old = host.connect(header() + ticks(1, 3))
    host.turns(2 + turns)
    new = host.connect()
    host.turns(1)
    new.send(header(start_ms=second) + ticks(1, 3, start_ms=second))
    old.send(ticks(3, 50) + end())
    host.turns()
    _, record = read_journals(host.path).records[-1]
    assert (record.start_ms, record.before_ms) == (second, START_MS + 49_000)


def test_a_tick_does_not_wait_for_large_backlogs(host: Host) -> None:
    names = [f"vm-{number}" for number in range(MOST_READS + 8)]
    peers = [host.connect(header(name) + ticks(1, 2)) for name in (*names, "one")]
    host.turns(len(peers) + 2)
    for peer in peers[:-1]:
        peer.send(ticks(2, 500))
    peers[-1].send(ticks(2, 3))
    host.turns(1)
    stored = read_journals(host.path).rows
    heard = [name for name in names if len(stored[name, START_MS]) > 1]
    assert len(stored["one", START_MS]) == 2
    assert len(heard) == MOST_READS
    for peer in (peers[names.index(heard[0])], peers[-1]):  # a round continues with the others
        peer.send(ticks(500, 900))
    host.turns(1)
    stored = read_journals(host.path).rows
    assert {name: len(stored[name, START_MS]) for name in names} == dict.fromkeys(names, 499)
    host.turns(1)
    assert times(host.path, heard[0]) == list(range(1, 900))


def test_many_restarted_vms_are_stored_in_order(host: Host) -> None:
    second = START_MS + 1_000_000
    names = [f"vm-{number}" for number in range(MOST_READS + 8)]
    old = [host.connect(header(name) + ticks(1, 2)) for name in names]
    host.turns(len(old) + 2)
    new = [host.connect() for _ in names]
    host.turns(len(new) + 2)
    for name, peer, next_peer in zip(names, old, new, strict=True):
        next_peer.send(header(name, start_ms=second) + ticks(1, 2, start_ms=second))
        peer.send(ticks(2, 500) + end())
    host.turns()
    found = [one for _, one in read_journals(host.path).records if one.start_ms == second]
    assert [one.before_ms for one in found] == [START_MS + 499_000] * len(names)


def test_refused_ticks_are_reported_before_the_acknowledgement(host: Host) -> None:
    peer = host.connect(header() + ticks(1, 3) + ticks(90_000, 90_003) + end())
    finish(peer)
    host.turns()
    refused = answer(peer)
    assert refused
    assert msgpack.unpackb(refused) == {"refused": {"ahead": 3}}
    assert answer(peer) == b""
    assert times(host.path) == [1, 2]


def test_a_producer_beyond_its_quota_waits_and_the_others_do_not(host: Host) -> None:
    lives = b"".join(header("flood", START_MS + n) + end() for n in range(3000))
    flood, other = host.connect(), host.connect(header() + ticks(1, 3))

    def send() -> None:
        nonlocal lives
        try:
            lives = lives[flood.send(lives) :]
        except BlockingIOError:
            pass

    for _ in range(100):
        send()
        host.turns(1)
    begun = host.kept.sessions_begun
    assert 1000 <= begun < 2000
    other.send(ticks(3, 5))
    host.turns()
    assert times(host.path) == [1, 2, 3, 4]
    assert host.kept.sessions_begun == begun
    for _ in range(200):
        host.clock.now += 1
        host.server.timers.run()
        send()
        host.turns(1)
    assert not lives
    assert host.kept.sessions_begun == 3001


def test_removing_the_store_stops_its_server_without_acknowledgements(host: Host) -> None:
    peer = host.connect(header() + ticks(1, 3))
    host.turns()
    shutil.rmtree(host.path)
    peer.send(ticks(3, 5) + end())
    finish(peer)
    with pytest.raises(StoreError, match="removed or replaced"):
        host.turns()
    assert answer(peer) is None


def test_closed_journals_are_rolled_up_in_the_background(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    run = host.store.upkeep.run

    def noted(journal: ClosedJournal) -> Result:
        threads.append(threading.current_thread())
        return run(journal)

    monkeypatch.setattr(host.store.upkeep, "run", noted)
    peer = host.connect(header() + ticks(1, 3) + end())
    host.turns()
    host.clock.now += 300
    peer.send(header("b") + ticks(1, 3))
    while host.store.upkeep.remembered < 1:
        host.server.turn(1)
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()
    assert [one.instance for one in host.kept.live] == ["b"]
    assert not host.kept.closed


def test_a_stalled_connection_is_closed_and_a_quiet_one_is_not(host: Host) -> None:
    silent, half = host.connect(), host.connect(header("half") + ticks(1, 2)[:-3])
    quiet = host.connect(header() + ticks(1, 3))
    host.turns()
    for _ in range(40):
        host.clock.now += 1
        host.server.timers.run()
        host.turns(1)
    assert host.server.errors["stalled"] == 2
    assert answer(quiet) is None
    silent.close()
    half.close()


@pytest.mark.parametrize("step_ms", [0, -60_000])
def test_its_own_metrics_are_an_instance(host: Host, step_ms: int) -> None:
    now = [NOW_MS]
    metrics = SelfMetrics(host.server, lambda: now[0])
    peer = host.connect(header() + ticks(1, 3))
    for second in range(5):
        host.turns(1)
        host.clock.now += 1
        now[0] += 1000 + step_ms * (second == 2)
        host.server.timers.run()
    metrics.close()
    host.turns()
    found = read_journals(host.path)
    first, then = (self_metrics.INSTANCE, NOW_MS), (self_metrics.INSTANCE, NOW_MS + 3000 + step_ms)
    assert found.rows[first][-1][1] == self_metrics.SERIES
    assert struct.unpack_from("<d", found.rows[first][-1][2]) == (2.0,), "ticks stored"
    if step_ms:
        assert (found.state_of(first), found.state_of(then)) == ("clock", "signal")
        assert (len(found.rows[first]), len(found.rows[then])) == (3, 3)
        assert struct.unpack_from("<d", found.rows[then][-1][2]) == (0.0,), "its counters begin at zero"
    else:
        assert found.state_of(first) == "signal"
        assert len(found.rows[first]) == 5
    peer.close()


# --- one stream ---------------------------------------------------------------------------------------


def opened(path: Path) -> OpenStore:
    return OpenStore(path, now_ms=lambda: NOW_MS)


@contextmanager
def piped(data: bytes) -> Iterator[int]:
    read, write = os.pipe()
    try:
        os.write(write, data)
        os.close(write)
        yield read
    finally:
        os.close(read)


@pytest.mark.parametrize(("data", "state"), [(end("reset"), "reset"), (b"", LOST)])
def test_a_pipe_is_read_to_its_end(tmp_path: Path, data: bytes, state: str) -> None:
    read, write = os.pipe()
    with Signals() as signals, opened(tmp_path) as store, piped(header() + ticks(1, 40) + data) as fd:
        watermarks = Watermarks(write)
        read_to_end(fd, Intake(store.keeper), store, watermarks, signals)
        watermarks.drain(10)
        newest = store.keeper.newest_position()
    os.close(write)
    with os.fdopen(read, "rb") as follower:
        lines = follower.read().decode().splitlines()
    assert newest == Position(tmp_path, 1, (tmp_path / "tier_0" / f"{1:010d}").stat().st_size)
    assert lines[-1] == f"{tmp_path}\t1:{newest.offset}", "the last line comes after the end"
    assert times(tmp_path) == list(range(1, 40))
    assert read_journals(tmp_path).state_of(("vm-1", START_MS)) == state


def test_ticks_before_an_error_in_a_pipe_are_stored(tmp_path: Path) -> None:
    data = header() + ticks(1, 40) + b"\xc1"
    with Signals() as signals, opened(tmp_path) as store, piped(data) as fd, pytest.raises(StreamError):
        read_to_end(fd, Intake(store.keeper), store, Watermarks(-1), signals)
    assert times(tmp_path) == list(range(1, 40))
    assert read_journals(tmp_path).state_of(("vm-1", START_MS)) == LOST


def test_a_signal_ends_the_wait_for_disk_space(tmp_path: Path, install: Callable[[Disk], None]) -> None:
    with Signals() as signals, opened(tmp_path) as store, piped(header() + ticks(1, 40)) as fd:

        def full(*_: object) -> str:
            os.kill(os.getpid(), 15)
            return "fail"

        install(Disk(full, random.Random(1)))
        with pytest.raises(StoreError, match="ended by a signal") as caught:
            read_to_end(fd, Intake(store.keeper), store, Watermarks(-1), signals)
        install(Disk(lambda *_: None, random.Random(1)))
    assert caught.value.exit_code == EX_TEMPFAIL


def test_a_slow_follower_gets_the_newest_watermark(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    filled = 0
    try:
        while True:
            filled += os.write(write, b"x" * 4096)
    except BlockingIOError:
        pass
    watermarks = Watermarks(write)
    for offset in (100, 200, 300):
        watermarks.update(Position(tmp_path, 7, offset))
    os.read(read, filled)
    watermarks.update(Position(tmp_path, 9, 50))
    watermarks.drain(10)
    os.close(write)
    with os.fdopen(read, "rb") as follower:
        assert follower.read().decode() == f"{tmp_path}\t9:50\n"


def test_watermarks_are_written_only_to_a_pipe(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        watermarks = Watermarks(file.fileno())
        watermarks.update(Position(tmp_path, 7, 100))
        watermarks.drain(10)
    assert not (tmp_path / "file").read_bytes()
    with keeper(tmp_path / "store") as kept:
        store(kept, header())
        assert kept.newest_position() is None
