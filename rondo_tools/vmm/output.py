"""Where the ticks go: a pipe, a file or a socket, behind a thread and a bounded backlog.

Strategy: who produces puts an item into the backlog and goes on; a thread of the output's own does
the writing and all the waiting. The backlog keeps the newest 600 items, sent or not, so that to
deliver is to `follow` it, from the oldest kept to the end: a pipe does so once, a socket (see
`link`) once for each connection. What a full backlog pushes out unsent is lost, and counted.

A VM whose clock was set back goes on in another session: an item knows its session, so a follower
can put the right header before it, wherever it begins.

Nothing here knows what the items mean.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator

_log = logging.getLogger(__name__)

KEPT = 600  # ticks: ten minutes of them, the span of the store's first tier


class _Session:
    """What stands before and behind the items of a session."""

    def __init__(self, header: bytes) -> None:
        self.header = header
        self.end = b""


class Backlog:
    """The newest `limit` items, each in its session, for one follower. Its lock is held for moments only."""

    def __init__(self, limit: int = KEPT) -> None:
        self._limit = limit
        self._changed = threading.Condition()
        self._kept: deque[tuple[_Session, bytes]] = deque()
        self._session = _Session(b"")  # of the items to come
        self._finished = False
        self._taken = 0  # how many were handed to a follower, the first time
        self.count = 0  # how many there were ever
        self.dropped = 0  # how many of them went before they were taken

    def begin(self, header: bytes) -> None:
        """The items to come follow this header; to be called before there is a follower."""
        with self._changed:
            self._session = _Session(header)

    def begin_anew(self, end: bytes, header: bytes) -> None:
        """`end` closes the session of the items so far, `header` opens that of the items to come."""
        with self._changed:
            self._session.end = end
            self._session = _Session(header)
            self._changed.notify_all()

    def put(self, item: bytes) -> bool:
        """Add an item; True if that was the first time that one was lost for want of room."""
        with self._changed:
            self._kept.append((self._session, item))
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
            self._session.end = end
            self._finished = True
            self._changed.notify_all()

    def follow(self) -> Iterator[tuple[bytes, list[bytes]]]:
        """Yield all that is kept, then items as they come; return behind the end of the last session.

        Before items of one session comes what has to stand between them and what was yielded
        before: nothing, the header, or the end of the session before it and the header.
        """
        position, told = 0, None
        while True:
            with self._changed:
                while told is self._session and position == self.count and not self._finished:
                    self._changed.wait()
                position = max(position, self.count - len(self._kept))
                ahead = list(self._kept)[len(self._kept) - (self.count - position) :]
                session = ahead[0][0] if ahead else self._session
                items = [item for of, item in ahead if of is session]
                position += len(items)
                self._taken = max(self._taken, position)
                is_last = self._finished and session is self._session
            before = b""
            if session is not told:
                before = session.header if told is None else told.end + session.header
                told = session
            yield before, items
            if is_last:
                yield session.end, []
                return

    def wait_for_end(self, timeout_s: float) -> bool:
        """Sleep until the end is there, at most that long; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._finished, timeout_s)


class Output(ABC):
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
        self.backlog = Backlog(limit)
        self._done = threading.Event()
        self._on_done: Callable[[], None] = _nothing

    @property
    def done(self) -> bool:
        return self._done.is_set()

    @property
    @abstractmethod
    def missing(self) -> int:
        """How many items are not known to have arrived."""

    def start(self, header: bytes, on_done: Callable[[], None] | None = None) -> None:
        self.backlog.begin(header)
        self._on_done = on_done or _nothing
        threading.Thread(target=self._run, name=f"output {self.name}", daemon=True).start()

    def put(self, item: bytes) -> None:
        if self.backlog.put(item) and not self.gone:
            _log.warning("%s does not keep up: its oldest %s are being dropped", self.name, self.items)

    def begin_anew(self, end: bytes, header: bytes) -> None:
        """End the session, and begin another."""
        self.backlog.begin_anew(end, header)

    def finish(self, end: bytes = b"") -> None:
        self.backlog.finish(end)

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is over; False if it is not by then."""
        return self._done.wait(timeout_s)

    def _run(self) -> None:
        try:
            self._deliver()
        finally:
            self._done.set()
            self._on_done()

    @abstractmethod
    def _deliver(self) -> None:
        """Write what the backlog has, to its end; in the output's thread."""


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
        return self.backlog.count - self._written

    def _deliver(self) -> None:
        try:
            if self._fifo:
                self._fd = os.open(self._fifo, os.O_WRONLY | os.O_CLOEXEC)
            for before, items in self.backlog.follow():
                self._write(before)
                for item in items:
                    self._write(item)
                    self._written += 1
            self.delivered = not self.backlog.dropped
        except OSError as exc:
            self.gone = True
            _log.warning("the reader of %s is gone (%s); the VM runs on", self.name, exc.strerror)
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


def _nothing() -> None:
    pass
