"""Producers that flood, stall, send junk and reconnect, beside twelve good ones: these lose no tick.

The test makes the server's turns and sets its clock. A neighbour's tick must be in the files after
the turn in which it was heard, whatever the others send.
"""

from __future__ import annotations

import fcntl
import logging
import select
import socket
import struct
import termios
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from rondo_tools import stream
from rondo_tools.catalog import SERIES
from rondo_tools.store.reader import Store
from rondo_tools.store.server import server as server_module
from rondo_tools.store.server.server import Server
from rondo_tools.stream import Tick
from tests.support.store.store_host import Clock, connected, data, turns
from tests.support.store.stream_model import check, header, ticks
from tests.support.streams import encoded

NEIGHBOURS, SECONDS = 12, 38
HUGE = b"\xc6" + struct.pack(">I", (1 << 31) - 1)  # the head of a bin of 2 GB


class Villain:
    """Connects, and sends its data as fast as the store reads; connects again when it is closed."""

    def __init__(self, address: str, begins: bytes, goes_on: Callable[[], bytes]) -> None:
        self.lives = 0
        self._address, self._begins, self._goes_on = address, begins, goes_on
        self._peer: socket.socket | None = None

    def send(self) -> None:
        if self._peer is None:
            self._peer = connected(self._address)
            self._peer.setblocking(False)
            self.lives += 1
            self._left = self._begins
        try:
            if select.select([self._peer], [], [], 0)[0]:
                return self.close()  # the store closed it
            while True:
                self._left = self._left or self._goes_on()
                if not self._left:
                    return None
                self._left = self._left[self._peer.send(self._left) :]
        except BlockingIOError:
            return None  # the socket is full
        except OSError:
            return self.close()

    def close(self) -> None:
        if self._peer is not None:
            self._peer.close()
        self._peer = None


def villains(address: str, begin_ms: int) -> dict[str, Villain]:
    one = stream.encode(Tick(begin_ms, bytes(8 * len(SERIES))))

    def ticks_every(step_ms: int) -> Callable[[], bytes]:
        t_ms = begin_ms - 90 * 86_400_000

        def more() -> bytes:
            nonlocal t_ms
            made = b"".join(stream.encode(Tick(t_ms + at * step_ms, bytes(128))) for at in range(500))
            t_ms += 500 * step_ms
            return made

        return more

    def new_sessions() -> bytes:
        nonlocal begin_ms
        made = b""
        for _ in range(30):
            begin_ms += 1
            made += stream.encode(header(SERIES[:1], "sessions", begin_ms))
        return made

    def silence() -> bytes:
        return b""

    opened = {name: data(begin_ms, 0, end=False, instance=name) for name in ("flood", "windows", "late")}
    return {
        "flood": Villain(address, opened["flood"], ticks_every(1)),
        "late": Villain(address, opened["late"], lambda: one * 500),
        "windows": Villain(address, opened["windows"], ticks_every(300_000)),
        "sessions": Villain(address, b"", new_sessions),
        "stalled": Villain(address, data(begin_ms, 1, end=False, instance="stalled") + one[:-1], silence),
        "huge": Villain(address, data(begin_ms, 1, end=False, instance="huge") + HUGE, lambda: bytes(65_536)),
        "silent": Villain(address, b"", silence),
        "junk": Villain(address, b"GET / HTTP/1.1\r\n\r\n", silence),
    }


def is_taken(peer: socket.socket) -> bool:
    left = bytearray(4)
    fcntl.ioctl(peer, termios.TIOCOUTQ, left)
    return not any(left)


def test_harmful_producers_cost_the_others_no_tick(
    serving: Server, clock: Clock, path: Path, address: str, begin_ms: int
) -> None:
    everything = ticks(SECONDS, begin_ms)
    neighbours = [connected(address) for _ in range(NEIGHBOURS)]
    for number, peer in enumerate(neighbours):
        peer.sendall(data(begin_ms, 0, end=False, instance=f"vm-{number}"))
    turns(serving)
    bad = villains(address, begin_ms)
    tracemalloc.start()
    try:
        for one in everything:
            for villain in bad.values():
                villain.send()
            for peer in neighbours:
                peer.sendall(stream.encode(one))
            serving.turn(0)
            # One turn is enough, though the others have sent more than a turn reads.
            assert all(is_taken(peer) for peer in neighbours)
            for _ in range(len(bad)):  # a turn accepts one connection
                serving.turn(0)
            clock.now += 1
            serving.timers.run()
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 32 << 20
    # Junk closes a connection at once, silence after a while; slow and fast producers stay.
    assert {name: min(villain.lives, 3) for name, villain in bad.items()} == {
        "flood": 1, "late": 1, "windows": 1, "sessions": 1, "stalled": 2, "huge": 3, "silent": 2, "junk": 3,
    }  # fmt: skip
    for peer in neighbours:
        peer.shutdown(socket.SHUT_WR)
    for villain in bad.values():
        villain.close()
    turns(serving)
    for number, peer in enumerate(neighbours):
        assert peer.recv(1) == b""
        (session,) = Store(path).sessions(instance=f"vm-{number}")
        check(session, everything)


def test_a_producer_that_reconnects_in_a_loop_does_not_fill_the_log(
    serving: Server, clock: Clock, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    def come(times: int) -> None:
        for _ in range(times):
            with connected(address) as peer:
                peer.sendall(b"\xc1")
                turns(serving)

    come(500)
    assert caplog.text.count("closed: stream, byte 0") == server_module.WARNINGS
    clock.now += server_module.WINDOW_S
    serving.timers.run()
    assert "closed (stream): 490 more suppressed" in caplog.text
    caplog.clear()
    come(3)
    assert caplog.text.count("closed: stream, byte 0") == 3
    clock.now += server_module.WINDOW_S
    serving.timers.run()
    assert "not shown" not in caplog.text
    assert serving.errors["stream"] == 503


def test_ticks_from_the_future_do_not_fill_the_log(
    serving: Server, address: str, begin_ms: int, caplog: pytest.LogCaptureFixture
) -> None:
    far = stream.encode(Tick(begin_ms + 86_400_000, bytes(8 * len(SERIES))))
    with caplog.at_level(logging.WARNING):
        for _ in range(30):
            with connected(address) as peer:
                peer.sendall(data(begin_ms, 0, end=False) + far * 20)
                turns(serving)
    assert caplog.text.count("over 10 min ahead of this clock") == server_module.WARNINGS
    assert serving.counts.ahead == 600


def test_messages_in_two_pieces_are_no_stall(
    serving: Server, clock: Clock, address: str, begin_ms: int
) -> None:
    half = 70
    with connected(address) as peer:
        peer.sendall(data(begin_ms, 0, end=False))
        left = encoded(*ticks(20, begin_ms))
        peer.sendall(left[:half])
        left = left[half:]
        for _ in range(19):
            turns(serving)
            clock.now += 20
            serving.timers.run()
            peer.sendall(left[:140])
            left = left[140:]
        turns(serving)
        assert serving.connections == 1
        assert serving.counts.stored == 19
        clock.now += 31
        serving.timers.run()
        assert serving.connections == 0


def test_unwritten_ticks_are_not_acknowledged(serving: Server, address: str, begin_ms: int) -> None:
    """The server dies before the turn's write: the producer gets no acknowledgement."""
    with connected(address) as peer:
        peer.sendall(data(begin_ms, 20))
        peer.shutdown(socket.SHUT_WR)
        serving.turn(0)  # accepts
        serving.close()
        with pytest.raises(ConnectionResetError):
            peer.recv(1)


def test_a_thousand_short_sessions_are_stored_in_a_few_turns(
    serving: Server, path: Path, address: str, begin_ms: int
) -> None:
    steady = connected(address)
    steady.sendall(data(begin_ms, 0, end=False, instance="steady"))
    turns(serving)
    peers = []
    for number in range(1000):
        peers.append(connected(address))
        peers[-1].sendall(data(begin_ms, 3, instance=f"vm-{number}"))
        peers[-1].shutdown(socket.SHUT_WR)
        if number % 100 == 0:  # before the listener's queue is full
            turns(serving)
    while serving.connections < 1:
        serving.turn(0)
    steady.sendall(stream.encode(ticks(1, begin_ms)[0]))
    turns(serving)
    assert is_taken(steady)
    assert all(peer.recv(1) == b"" for peer in peers)
    found = {one.instance: (one.ticks, one.end and one.end.reason) for one in Store(path).sessions()}
    assert found == {f"vm-{number}": (3, "poweroff") for number in range(1000)} | {"steady": (1, None)}
