"""Descriptors run out: one warning, only new connections wait, and everything resumes."""

from __future__ import annotations

import resource
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from rondo_tools.sd_notify import Notifier
from rondo_tools.store.reader import Store
from rondo_tools.store.server.self_metrics import SelfMetrics
from rondo_tools.store.server.server import Server
from tests.support.needs import PATIENCE_S
from tests.support.store.store_host import Clock, acknowledged, connected, data, started, turns, wait_for_log
from tests.support.store.stream_model import check, ticks
from tests.support.streams import encoded


@contextmanager
def no_descriptors(pid: int = 0) -> Iterator[None]:
    """While entered, a process gets no new descriptor; it keeps those that it has."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (1, before[1]))  # with 0, poll(2) refuses to work
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def wait_for_tick(process: subprocess.Popen[bytes], path: Path, instance: str, t_ms: int) -> None:
    """Read standard output until the store has a tick."""
    assert process.stdout is not None
    while process.stdout.readline():
        if any(one.last_ms >= t_ms for one in Store(path).sessions(instance=instance)):
            return
    raise AssertionError("it ended without that line")


def test_without_descriptors_only_new_connections_wait(path: Path, address: str, begin_ms: int) -> None:
    with started(path, "--no-health", "--sync", "never", "--listen", f"unix:{address}") as process:
        wait_for_log(process, "listening")
        everything = ticks(310, begin_ms)

        def send(peer: socket.socket, first: int, stop: int) -> None:
            peer.sendall(encoded(*everything[first:stop]))

        with ExitStack() as opened:
            steady, beginner = (opened.enter_context(connected(address)) for _ in range(2))
            steady.sendall(data(begin_ms, 0, end=False, instance="steady"))
            send(steady, 0, 5)
            wait_for_tick(process, path, "steady", begin_ms + 4000)
            while not (path / "reserve").exists():  # the first housekeeping is done
                assert process.poll() is None
            with no_descriptors(process.pid):
                # A session needs none; a new connection does.
                beginner.sendall(data(begin_ms, 10, instance="beginner"))
                wait_for_tick(process, path, "beginner", begin_ms + 9000)
                late, later = (opened.enter_context(connected(address)) for _ in range(2))
                late.sendall(data(begin_ms, 20, instance="late"))
                later.sendall(data(begin_ms, 20, instance="later"))
                assert "Too many open files; new ones wait" in wait_for_log(process, "new ones wait")
                for at in range(5, 310):
                    send(steady, at, at + 1)
                    wait_for_tick(process, path, "steady", begin_ms + at * 1000)
            assert all(acknowledged(peer) for peer in (late, later, beginner, steady))
        process.terminate()
        text = process.communicate(timeout=PATIENCE_S)[1].decode()
    assert text.count("Too many open files") == 0  # it was logged once
    sessions = {one.instance: one for one in Store(path).sessions()}
    for instance, count in (("steady", 310), ("beginner", 10), ("late", 20), ("later", 20)):
        check(sessions[instance], everything[:count])
        assert (sessions[instance].end is None) == (instance == "steady")


def test_a_first_journal_waits_for_a_descriptor(path: Path, address: str, begin_ms: int) -> None:
    with started(path, "--no-health", "--listen", f"unix:{address}") as process:
        wait_for_log(process, "listening")
        with connected(address) as peer:
            peer.sendall(data(begin_ms, 0, end=False))
            with no_descriptors(process.pid):
                peer.sendall(encoded(*ticks(10, begin_ms)))
                wait_for_log(process, "Too many open files; ")
            assert acknowledged(peer)
    (session,) = Store(path).sessions()
    check(session, ticks(10, begin_ms))


def test_periodic_jobs_survive_a_lack_of_descriptors(
    serving: Server, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = SelfMetrics(serving)
    notifier = Notifier({"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1000000"})
    serving.timers.every(0.5, notifier.alive)
    for second in (1, 61, 3601):
        clock.now += second
        with no_descriptors():
            serving.timers.run()
            serving.turn(0)
    clock.now += 3601
    serving.timers.run()
    turns(serving)
    metrics.close()
    serving.finish()
    assert not serving.is_blocked
    (session,) = Store(serving.keeper.folder.layout.path).sessions()
    assert session.ticks > 0
