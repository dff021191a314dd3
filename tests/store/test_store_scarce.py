"""Descriptors run out: it is said once, nobody is harmed but those who need one, and all resumes."""

from __future__ import annotations

import errno
import os
import resource
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from needs import PATIENCE_S
from ring_model import header, slabs, ticks
from store_host import Clock, acknowledged, connected, data, said, started

from rondo_tools import stream
from rondo_tools.catalog import SERIES
from rondo_tools.store.health import Health
from rondo_tools.store.notify import Notifier
from rondo_tools.store.reader import Store
from rondo_tools.store.server import Server
from rondo_tools.store.tiers import DEFAULT_TIERS
from rondo_tools.store.writer import StoreWriter


@contextmanager
def no_descriptors(pid: int = 0) -> Iterator[None]:
    """While entered, a process gets no new descriptor: those that it has, it keeps."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (1, before[1]))  # with 0, poll(2) refuses to work
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def told(process: subprocess.Popen[bytes], instance: str, t_ms: int) -> None:
    """Read standard output up to the line that closes `t_ms` of an instance."""
    assert process.stdout is not None
    for line in process.stdout:
        path, closed_ms = line.decode().split("\t")
        if f"/{instance}/" in path and int(closed_ms) >= t_ms:
            return
    raise AssertionError("it ended without that line")


def test_who_needs_no_descriptor_goes_on_and_who_does_waits(path: Path, address: str, begin_ms: int) -> None:
    with started(path, "--no-health", "--listen", f"unix:{address}") as process:
        said(process, "listening")
        everything = ticks(310, begin_ms)

        def send(peer: socket.socket, first: int, stop: int) -> None:
            peer.sendall(b"".join(map(stream.encode, everything[first:stop])))

        with ExitStack() as opened:
            steady, beginner = (opened.enter_context(connected(address)) for _ in range(2))
            steady.sendall(data(begin_ms, 0, end=False, instance="steady"))
            send(steady, 0, 5)
            told(process, "steady", begin_ms + 3000)
            with no_descriptors(process.pid):
                beginner.sendall(data(begin_ms, 10, instance="beginner"))
                assert "Too many open files; waiting for room" in said(process, "waiting")
                late, later = (opened.enter_context(connected(address)) for _ in range(2))
                late.sendall(data(begin_ms, 20, instance="late"))
                later.sendall(data(begin_ms, 20, instance="later"))
                assert "Too many open files; new ones wait" in said(process, "new ones wait")
                # Even a roll-up, which opens slabs, waits without holding up the ticks.
                for at in range(5, 310):
                    send(steady, at, at + 1)
                    told(process, "steady", begin_ms + (at - 1) * 1000)
            assert all(acknowledged(peer) for peer in (late, later, beginner, steady))
        process.terminate()
        text = process.communicate(timeout=PATIENCE_S)[1].decode()
    assert text.count("Too many open files") == 0  # each was said once
    for instance, count, finished in (
        ("steady", 310, False),
        ("beginner", 10, True),
        ("late", 20, True),
        ("later", 20, True),
    ):
        folder = path / "instances" / instance / str(begin_ms)
        found = [(folder / f"tier_{number}.slab").read_bytes() for number in range(3)]
        assert found == slabs(SERIES, DEFAULT_TIERS, everything[:count], finished=finished)


def test_what_is_done_every_so_often_bears_it(
    serving: Server, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    serving.store.room.max_bytes = 1
    health = Health(serving)
    notifier = Notifier({"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1000000"})
    serving.timers.every(0.5, notifier.alive)
    for second in (1, 61, 3601):
        clock.now += second
        with no_descriptors():
            serving.timers.run()
            serving.chores.wait()
    assert "no room is made, and nothing expires, for now" in caplog.text
    caplog.clear()
    clock.now += 3601
    serving.timers.run()
    serving.chores.wait()
    health.close()
    assert "for now" not in caplog.text


def test_a_session_that_cannot_be_read_now_is_not_taken_for_old(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A VM that lived for months, without an end, and heard of a moment ago."""
    now_ms = time.time_ns() // 1_000_000
    with StoreWriter(path, now_ms=lambda: now_ms) as store:
        session = store.open(header(start_ms=now_ms - 100 * 86_400_000))
        session.ring.append(ticks(10, now_ms - 10_000))
        session.close()
        (seen,) = Store(path).sessions()
        opened = os.open

        def failing(name: str, *rest: int, **more: int) -> int:
            if str(name).endswith(".slab"):
                raise OSError(errno.EMFILE, "Too many open files")
            return opened(name, *rest, **more)

        monkeypatch.setattr(os, "open", failing)
        store.room.expire()
        assert seen.path.exists()
        now_ms += DEFAULT_TIERS[-1].span_ms + 60_000
        store.room.expire()
        assert not seen.path.exists()
