"""A real rondo-store to test: started, fed, listened to, and gone at the end."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Unpack

from rondo_tools import stream
from rondo_tools.catalog import SERIES
from rondo_tools.store.server.server import Server
from rondo_tools.stream import End
from tests.support.fixtures import PIPES, ProcessOptions
from tests.support.needs import PATIENCE_S
from tests.support.store.stream_model import header, ticks

PROGRAM = [sys.executable, str(Path(__file__).parents[3] / "bin" / "rondo-store")]


def data(begin_ms: int, count: int, *, end: bool = True, instance: str = "vm-1") -> bytes:
    parts = [stream.encode(header(SERIES, instance, begin_ms))]
    parts += [stream.encode(one) for one in ticks(count, begin_ms)]
    if end:
        parts.append(stream.encode(End("poweroff", begin_ms + count * 1000)))
    return b"".join(parts)


@contextmanager
def started(path: Path, *flags: str, **options: Unpack[ProcessOptions]) -> Iterator[subprocess.Popen[bytes]]:
    """rondo-store with pipes; gone at the end, whatever happens."""
    settings: ProcessOptions = {**PIPES, **options}
    process = subprocess.Popen([*PROGRAM, path, *flags], **settings)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            try:
                if pipe is not None:
                    pipe.close()
            except BrokenPipeError:
                pass  # what it would not take is of no use to it any more


def wait_for_log(process: subprocess.Popen[bytes], what: str) -> str:
    """Read standard error up to the line that says `what`."""
    assert process.stderr is not None
    text = ""
    for line in process.stderr:
        text += line.decode()
        if what in text:
            return text
    raise AssertionError(f"it ended without saying {what!r}: {text}")


def fill(place: Path, left: int) -> Path:
    """Write a file that leaves `left` bytes of the file system free, also while others write to it."""
    ballast = place / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:  # asking how much is free and writing that much would race with the store
                file.write(bytes(65_536))
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
        file.truncate(file.tell() - left)
    return ballast


CONNECTIONS: list[socket.socket] = []
"""All that `connected` made; a fixture closes them when the test is over, also when it failed."""


def connected(address: str) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    CONNECTIONS.append(peer)
    peer.settimeout(PATIENCE_S)
    peer.connect(address)
    return peer


def acknowledged(peer: socket.socket) -> bool:
    """End, and wait for the word that all is stored."""
    try:
        peer.shutdown(socket.SHUT_WR)
        return peer.recv(1) == b""
    except OSError:  # also one that is not connected any more
        return False


def deliver(address: str, message: bytes) -> bool:
    with connected(address) as peer:
        peer.sendall(message)
        return acknowledged(peer)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def turns(server: Server) -> None:
    """Let a server do all that there is to do."""
    while server.turn(0):
        pass
