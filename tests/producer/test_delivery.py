"""Random failures and sockets that accept little: the store gets the ticks that the protocol promises."""

from __future__ import annotations

import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rondo_tools import stream
from rondo_tools.catalog import COUNTER, Series
from rondo_tools.producer.link import Link
from rondo_tools.stream import Decoder, End, Header, Tick
from tests.support.producer.peers import Loop, RecordedNotices, Store

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

BEGIN_MS = 1_795_395_000_000
SERIES = tuple(Series(f"series_{number}_total", (), COUNTER, "", "") for number in range(3))


class Taken(list[int]):
    """The number of bytes that each of the next sends accepts, in a cycle; 0 is "not now"."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__(sizes)
        self.sends = 0

    def next(self) -> int:
        self.sends += 1
        return self[self.sends % len(self)]


class StingySocket(socket.socket):
    """Accepts as many bytes at once as the test's schedule allows."""

    taken = Taken([1])

    def send(self, data: ReadableBuffer, flags: int = 0, /) -> int:
        size = self.taken.next()
        if not size:
            raise BlockingIOError
        return super().send(memoryview(data)[:size], flags)


class Vm:
    """One producer: its link, its sent ticks, and its ticks in the store."""

    def __init__(self, number: int, store: Store, limit: int) -> None:
        self.header = Header(f"vm-{number}", BEGIN_MS, (), 1000, SERIES)
        self.link = Link(store.address, f"vm-{number}", limit=limit, notices=RecordedNotices())
        self.link.begin(stream.encode(self.header))
        self.t_ms = BEGIN_MS
        self.sent: list[tuple[int, int]] = []  # session, time
        self.stored: list[tuple[int, int]] = []
        self.latest: dict[int, int] = {}  # the store's last tick of each session
        self.ends: dict[int, int] = {}

    def tick(self) -> None:
        self.t_ms += 1000
        self.sent.append((self.header.start_ms, self.t_ms))
        self.link.put(stream.encode(Tick(self.t_ms, struct.pack("<3d", self.t_ms, 0, 1))))

    def begin_anew(self) -> None:
        """The clock was set back; here by so little that the sessions do not overlap."""
        end = End("clock", self.t_ms)
        self.t_ms += 1
        self.header = self.header._replace(start_ms=self.t_ms)
        self.link.begin_anew(stream.encode(end), stream.encode(self.header))

    def finish(self) -> None:
        self.link.finish(stream.encode(End("poweroff", self.t_ms)))


class Connection:
    """The store's side of a connection: it keeps each whole message that it has read."""

    def __init__(self, accepted: socket.socket, vms: dict[str, Vm]) -> None:
        self.socket = accepted
        self.is_over = False
        self._vms = vms
        self._vm: Vm | None = None
        self._session = 0
        self._decoder = Decoder()

    def read(self, size: int) -> None:
        try:
            data = self.socket.recv(size)
        except BlockingIOError:
            return
        if not data:
            self._decoder.close()
            self.socket.close()  # acknowledged
            self.is_over = True
        for event in self._decoder.feed(data):
            self._store(event)

    def _store(self, event: stream.Event) -> None:
        if isinstance(event, Header):
            assert self._session < event.start_ms, "sessions arrive in order"
            self._vm, self._session = self._vms[event.instance], event.start_ms
            return
        vm, session = self._vm, self._session
        assert vm is not None
        if isinstance(event, End):
            vm.ends[session] = event.t_ms
        elif event.t_ms > vm.latest.get(session, 0):
            vm.latest[session] = event.t_ms
            vm.stored.append((session, event.t_ms))


class World:
    """Producers, a store that stops and starts, and the time."""

    def __init__(self, folder: Path, vms: int, limit: int) -> None:
        self.store = Store(folder / "sock")
        self.loop = Loop()
        self.vms = {f"vm-{number}": Vm(number, self.store, limit) for number in range(vms)}
        self.connections: list[Connection] = []
        self.kills = 0
        for vm in self.vms.values():
            self.loop.update(vm.link)

    def step(self, what: str, number: int) -> None:
        vm = self.vms[f"vm-{number % len(self.vms)}"]
        match what:
            case "tick":
                vm.tick()
                self.loop.update(vm.link)
            case "anew" if vm.sent and vm.sent[-1][0] == vm.header.start_ms:  # no session without a tick
                vm.begin_anew()
                self.loop.update(vm.link)
            case "start" if self.store.listener is None:
                self.store.listen()
            case "stop":
                self.store.close()
                while self.connections:
                    self.kill(0)
            case "kill" if self.connections:
                self.kill(number % len(self.connections))
            case "read" if self.connections:
                self.read(self.connections[number % len(self.connections)], 1 + number)
            case "wait":
                self.loop.turn(number / 100)
        self.accept()

    def kill(self, number: int) -> None:
        """Close it, with unread data."""
        self.connections.pop(number).socket.close()
        self.kills += 1

    def read(self, connection: Connection, size: int) -> None:
        connection.read(size)
        if connection.is_over:
            self.connections.remove(connection)

    def accept(self) -> None:
        try:
            while self.store.listener is not None:
                self.connections.append(Connection(self.store.accept(), self.vms))
        except BlockingIOError:
            pass

    def end(self) -> None:
        """All VMs end, the store runs, and enough time passes."""
        for vm in self.vms.values():
            vm.finish()
            self.loop.update(vm.link)
        if self.store.listener is None:
            self.store.listen()
        for _ in range(100_000):
            if all(vm.link.is_over for vm in self.vms.values()):
                return
            self.loop.turn(0.05)
            self.accept()
            for connection in [*self.connections]:
                self.read(connection, 1 << 16)
        raise AssertionError("it never ends")

    def close(self) -> None:
        for vm in self.vms.values():
            vm.link.close()
        for connection in self.connections:
            connection.socket.close()
        self.store.close()
        self.loop.close()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:  # a short path
        yield Path(folder)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["tick"] * 4 + ["read", "read", "wait", "start", "anew", "kill", "stop"]),
        st.integers(0, 400),
    ),
    max_size=80,
)
SIZES = st.lists(st.integers(0, 300), min_size=1, max_size=8).filter(any)


@pytest.mark.heavy
@given(STEPS, SIZES, st.integers(2, 30))
def test_after_any_failures_the_store_has_the_promised_ticks(
    folder: Path, steps: list[tuple[str, int]], sizes: list[int], limit: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", StingySocket)
        patch.setattr(StingySocket, "taken", Taken(sizes))
        world = World(folder, 2, limit)
        try:
            for what, number in steps:
                world.step(what, number)
            world.end()
        finally:
            world.close()
    for vm in world.vms.values():
        lost = [one for one in vm.sent if one not in vm.stored]
        # No tick twice, none that was not sent, and all in order.
        assert vm.stored == [one for one in vm.sent if one not in lost]
        # Kept ticks are never lost, and ticks lost unsent are counted.
        assert not set(vm.sent[-limit:]) & set(lost)
        if vm.link.missing == 0:
            assert vm.link.delivered
        if not world.kills:
            assert len(lost) == vm.link.missing
        assert len(lost) >= vm.link.missing or world.kills
        # The end of each session with kept ticks arrived, and that of the last one in any case.
        assert vm.ends[vm.header.start_ms] == vm.t_ms
        assert set(vm.ends) >= {session for session, _ in vm.sent[-limit:]}


@pytest.mark.heavy
@given(STEPS, SIZES)
def test_an_outage_shorter_than_the_backlog_loses_nothing(
    folder: Path, steps: list[tuple[str, int]], sizes: list[int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", StingySocket)
        patch.setattr(StingySocket, "taken", Taken(sizes))
        world = World(folder, 3, len(steps) + 1)
        try:
            for what, number in steps:
                world.step(what, number)
            world.end()
        finally:
            world.close()
    for vm in world.vms.values():
        assert vm.stored == vm.sent
        assert vm.link.delivered
        assert set(vm.ends) == {session for session, _ in vm.sent} | {vm.header.start_ms}
