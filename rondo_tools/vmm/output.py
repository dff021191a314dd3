"""Where the ticks go: a pipe, a file or a socket, behind a thread and a bounded backlog.

Strategy: who produces puts an item into the backlog and goes on; a thread of the output's own does
the writing and all the waiting. The backlog keeps the newest 600 items, sent or not, so that an
output is one generator, `follow`, from the oldest kept to the end: a pipe goes through it once, a
socket once for each connection (header first), until its peer has acknowledged all of it by closing
after our end. What a full backlog pushes out unsent is lost, and counted.

Nothing here knows what the items mean.
"""

from __future__ import annotations

import logging
import os
import random
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from rondo_tools.errors import UsageError

_log = logging.getLogger(__name__)

KEPT = 600  # ticks: ten minutes of them, the span of the store's first tier
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
_MAX_UNIX_PATH = 107  # bytes, unix(7)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0  # between two attempts
_LAST_PAUSE_S = 0.5  # the same, once the VM has ended
_STALL_S = 10.0  # how long a peer may neither take nor say anything before we connect anew


class Backlog:
    """The newest `limit` items and an end, for one follower. Its lock is held for moments only."""

    def __init__(self, limit: int = KEPT) -> None:
        self._limit = limit
        self._changed = threading.Condition()
        self._kept: deque[bytes] = deque()
        self._finished = False
        self.end = b""
        self._taken = 0  # how many were handed to a follower, the first time
        self.count = 0  # how many there were ever
        self.dropped = 0  # how many of them went before they were taken

    def put(self, item: bytes) -> bool:
        """Add an item; True if that was the first time that one was lost for want of room."""
        with self._changed:
            self._kept.append(item)
            self.count += 1
            if len(self._kept) > self._limit:
                self._kept.popleft()
                lost = self.count - self._limit > self._taken
                self.dropped += lost
            else:
                lost = False
            self._changed.notify_all()
            return lost and self.dropped == 1

    def finish(self, end: bytes) -> None:
        """No item comes after this; `end` is what follows the last one."""
        with self._changed:
            self.end = end
            self._finished = True
            self._changed.notify_all()

    def follow(self) -> Iterator[list[bytes]]:
        """Yield all that is kept, then items as they come; return when they have come to the end."""
        position = 0
        while True:
            with self._changed:
                while position == self.count and not self._finished:
                    self._changed.wait()
                position = max(position, self.count - len(self._kept))
                skip = len(self._kept) - (self.count - position)
                items = list(self._kept)[skip:]
                position = self._taken = self.count
                finished = self._finished
            if items:
                yield items
            if finished:
                return

    def wait_for_end(self, timeout_s: float) -> bool:
        """Sleep until the end is there, at most that long; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._finished, timeout_s)


class Output:
    """One destination. `start`, any number of `put`, `finish`; then `done` says when it is over.

    `on_done` is called, in the output's thread, when nothing more will be written: `delivered` if
    all of it arrived, or `gone` if there is nobody left to write to. Otherwise the thread goes on
    trying; it keeps no process from exiting.
    """

    def __init__(self, name: str, *, items: str = "ticks", limit: int = KEPT) -> None:
        self.name = name
        self.items = items
        self.delivered = False
        self.gone = False
        self._backlog = Backlog(limit)
        self._header = b""
        self._done = threading.Event()
        self._on_done: Callable[[], None] = _nothing

    @property
    def done(self) -> bool:
        return self._done.is_set()

    @property
    def missing(self) -> int:
        """How many items are not known to have arrived."""
        raise NotImplementedError

    def start(self, header: bytes, on_done: Callable[[], None] | None = None) -> None:
        self._header = header
        self._on_done = on_done or _nothing
        threading.Thread(target=self._run, name=f"output {self.name}", daemon=True).start()

    def put(self, item: bytes) -> None:
        if self._backlog.put(item) and not self.gone:
            _log.warning("%s does not keep up: its oldest %s are being dropped", self.name, self.items)

    def finish(self, end: bytes = b"") -> None:
        self._backlog.finish(end)

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is over; False if it is not by then."""
        return self._done.wait(timeout_s)

    def _run(self) -> None:
        try:
            self._deliver()
        finally:
            self._done.set()
            self._on_done()

    def _deliver(self) -> None:
        raise NotImplementedError


class FileOutput(Output):
    """A pipe, a file or a terminal: written once, in order. Owns `fd` if it opened it itself.

    A disk that is full is tried again every second, from the very byte where it was left; a reader
    that is gone is gone for good.
    """

    def __init__(
        self, fd: int, name: str, *, fifo: str = "", items: str = "ticks", limit: int = KEPT
    ) -> None:
        super().__init__(name, items=items, limit=limit)
        self._fd = fd
        self._fifo = fifo  # the path of a named pipe, to be opened by the thread: opening waits for a reader
        self._written = 0

    @property
    def missing(self) -> int:
        return self._backlog.count - self._written

    def _deliver(self) -> None:
        try:
            if self._fifo:
                self._fd = os.open(self._fifo, os.O_WRONLY | os.O_CLOEXEC)
            self._write(self._header)
            for items in self._backlog.follow():
                for item in items:
                    self._write(item)
                    self._written += 1
            self._write(self._backlog.end)
            self.delivered = not self._backlog.dropped
        except ConnectionError:
            self.gone = True
            _log.warning("the reader of %s is gone; the VM runs on without it", self.name)
        finally:
            if self._fd > 2:
                os.close(self._fd)
                self._fd = -1

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        complained = False
        while left:
            try:
                left = left[os.write(self._fd, left) :]
            except BlockingIOError:  # who gave us the descriptor made it non-blocking
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()
            except ConnectionError:
                raise
            except OSError as exc:
                if not complained:
                    _log.warning("%s: %s; trying again every second", self.name, exc.strerror)
                    complained = True
                time.sleep(1)


class SocketOutput(Output):
    """A Unix or TCP socket: connected again whenever it breaks, all that is kept sent again.

    `address` is a path, or (host, port). Before our end a peer that closes has gone away; after it,
    the close is its acknowledgement.
    """

    def __init__(self, address: str | tuple[str, int], name: str, *, limit: int = KEPT) -> None:
        super().__init__(name, limit=limit)
        self._address = address
        self._acknowledged = False
        self._trouble = False  # it was said that there is no connection

    @property
    def missing(self) -> int:
        return self._backlog.dropped if self._acknowledged else self._backlog.count

    def _deliver(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._acknowledged:
            began = time.monotonic()
            try:
                self._attempt()
            except OSError as exc:
                if not self._trouble:
                    _log.warning("%s: %s; trying again and again", self.name, exc.strerror or exc)
                self._trouble = True
                if time.monotonic() - began > _LONGEST_PAUSE_S:
                    pause_s = _FIRST_PAUSE_S
                if self._backlog.wait_for_end(pause_s * random.uniform(0.5, 1)):  # noqa: S311 - jitter
                    time.sleep(_LAST_PAUSE_S)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        self.delivered = not self._backlog.dropped

    def _attempt(self) -> None:
        """One connection, from the oldest tick kept to the acknowledgement. Raises OSError."""
        with self._connect() as peer:
            peer.sendall(self._header)
            for items in self._backlog.follow():
                _check_open(peer)
                peer.sendall(b"".join(items))
                if self._trouble:
                    self._trouble = False
                    _log.info("%s: connected", self.name)
            peer.sendall(self._backlog.end)
            _check_open(peer)
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(4096):
                pass
            self._acknowledged = True

    def _connect(self) -> socket.socket:
        if isinstance(self._address, tuple):
            return socket.create_connection(self._address, timeout=_STALL_S)
        peer = socket.socket(socket.AF_UNIX)
        try:
            peer.settimeout(_STALL_S)
            peer.connect(self._address)
        except BaseException:
            peer.close()
            raise
        return peer


def _check_open(peer: socket.socket) -> None:
    """Raise ConnectionError if the peer has closed. Over TCP, sending would not tell at once."""
    while select.select([peer], [], [], 0)[0]:
        if not peer.recv(4096):
            raise ConnectionResetError("the peer closed the connection")


def open_output(spec: str) -> Output:
    """The destination that ``--output`` names. Raises UsageError for one that cannot be."""
    kind, colon, address = spec.partition(":")
    if spec == "-":
        return FileOutput(_standard(1, "output"), "standard output")
    if colon and kind == "unix":
        if not 0 < len(os.fsencode(address)) <= _MAX_UNIX_PATH:
            raise UsageError(f"--output {spec}: a socket's path has 1 to {_MAX_UNIX_PATH} bytes")
        return SocketOutput(address, spec)
    if colon and kind == "tcp":
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise UsageError(f"--output {spec}: write tcp:HOST:PORT, such as tcp:127.0.0.1:9400")
        return SocketOutput((host.strip("[]"), int(port)), spec)
    return _open_file("--output", spec)


def open_console(spec: str) -> Output | None:
    """Where ``--serial`` says that the guest's console goes; None is nowhere."""
    if spec == "none":
        return None
    if spec == "-":
        return FileOutput(_standard(2, "error"), "the guest's console", items="lines")
    return _open_file("--serial", spec, items="lines")


def _standard(fd: int, name: str) -> int:
    try:
        os.fstat(fd)
    except OSError as exc:
        raise UsageError(f"standard {name} is closed, and something is to be written to it") from exc
    return fd


def _open_file(flag: str, path: str, *, items: str = "ticks") -> Output:
    try:
        if Path(path).is_fifo():
            return FileOutput(-1, path, fifo=path, items=items)
        return FileOutput(os.open(path, _NEW_FILE, 0o666), path, items=items)
    except OSError as exc:
        raise UsageError(f"{flag} {path}: {exc.strerror}") from exc


def _nothing() -> None:
    pass
