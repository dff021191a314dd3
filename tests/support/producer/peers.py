"""A Unix socket that acts as the store for links, and a clock that the test sets."""

from __future__ import annotations

import select
import socket
from pathlib import Path

from rondo_tools.producer.address import UnixAddress
from rondo_tools.producer.driver import Driver
from rondo_tools.producer.output import Notices, Output


def head(instance: str = "vm") -> bytes:
    return b"header of %s;" % instance.encode()


def tick(number: int) -> bytes:
    return b"tick %03d;" % number


def ticks(first: int, last: int) -> bytes:
    """The ticks from `first` to `last`, exclusive."""
    return b"".join(tick(number) for number in range(first, last))


class RecordedNotices(Notices):
    """The notices of outputs, as a list of lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def falls_behind(self, output: Output) -> None:
        self.lines.append(f"{output.name} falls behind")

    def failed(self, output: Output, reason: str) -> None:
        self.lines.append(f"{output.name} failed: {reason}")

    def connected(self, output: Output) -> None:
        self.lines.append(f"{output.name} connected")

    def refused(self, output: Output, counts: object) -> None:
        self.lines.append(f"{output.name} refused: {counts}")

    def reader_gone(self, output: Output, reason: str) -> None:
        self.lines.append(f"{output.name} gone: {reason}")


class Loop:
    """One epoll, one driver, and the time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.epoll = select.epoll()
        self.driver = Driver(self.epoll)

    def update(self, *outputs: Output) -> None:
        for output in outputs:
            self.driver.update(output, self.now)

    def turn(self, seconds: float = 0.0) -> None:
        """Let time pass, and do everything that is due, until nothing is due at that time."""
        self.now += seconds
        self.driver.on_time(self.now)
        for _ in range(100):
            events = self.epoll.poll(0)
            for fd, event in events:
                assert self.driver.dispatch(fd, event, self.now)
            if not events and self.driver.timeout(self.now) != 0:
                break
            self.driver.on_time(self.now)

    def close(self) -> None:
        self.epoll.close()


class Store:
    """Listens on a Unix socket. It never waits: a missing connection is an error of the test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.address = UnixAddress(str(path))
        self.listener: socket.socket | None = None

    def listen(self, queue: int = 16) -> None:
        self.path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen(queue)
        self.listener.setblocking(False)

    def accept(self) -> socket.socket:
        assert self.listener is not None
        connection, _ = self.listener.accept()
        connection.setblocking(False)
        return connection

    def close(self) -> None:
        if self.listener is not None:
            self.listener.close()
            self.listener = None


def received(connection: socket.socket) -> bytes:
    """The data that has arrived."""
    got = b""
    try:
        while piece := connection.recv(1 << 16):
            got += piece
    except BlockingIOError:
        pass
    return got
