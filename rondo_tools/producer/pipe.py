"""An output to a pipe, a file or a terminal: written once, in order.

Strategy: other processes may share the descriptor and expect blocking writes, so its mode is not changed:
a write follows a poll that found it writable, and is at most as long as it then accepts. A write to a full
disk is repeated every second, from the byte where it stopped. A reader that is gone does not come back.
"""

from __future__ import annotations

import errno
import math
import os
import select

from rondo_tools.producer.backlog import KEPT, Follower
from rondo_tools.producer.output import NOTICES, Notices, Output

RETRY_S = 1.0  # between two attempts to write to a full disk
_READER_S = 0.02  # between two checks for the reader of a named pipe
_MOST_WRITTEN = select.PIPE_BUF  # bytes that a writable pipe accepts at once


class Pipe(Output):
    """Owns `fd`, unless it is a standard one. `fifo` is a named pipe's path, opened when it has a reader."""

    __slots__ = ("_fd", "_fifo", "_follower", "_is_unwritable", "_pending", "_written")

    def __init__(
        self,
        fd: int,
        name: str,
        *,
        fifo: str = "",
        items: str = "ticks",
        limit: int = KEPT,
        notices: Notices = NOTICES,
    ) -> None:
        super().__init__(name, items=items, limit=limit, notices=notices)
        self._fd = fd
        self._fifo = fifo
        self._follower = Follower(self.backlog)
        self._pending = b""  # unwritten rest of the follower's last bytes
        self._written = 0  # items
        self._is_unwritable = False  # a failed write was reported

    @property
    def missing(self) -> int:
        return self.backlog.count - self._written

    def fileno(self) -> int:
        return self._fd if self.wants_write else -1  # with nothing to write, a reader may go unnoticed

    def on_readable(self, now: float) -> None:
        self.on_writable(now)  # the write raises the error

    def on_time(self, now: float) -> None:
        if self.is_over or (now < self.deadline and not self.wants_write and self._is_unwritable):
            return
        if self._fd < 0 and not self._open(now):
            return
        self.deadline = math.inf
        self._fetch()

    def on_writable(self, now: float) -> None:
        if not self.wants_write:
            return
        try:
            size = os.write(self._fd, self._pending[:_MOST_WRITTEN])
        except BlockingIOError:
            return
        except ConnectionError as exc:
            self._lose(exc)
        except OSError as exc:
            if not self._is_unwritable:
                self.notices.unwritable(self, str(exc.strerror))
            self._is_unwritable, self.wants_write, self.deadline = True, False, now + RETRY_S
        else:
            self._pending = self._pending[size:]
            self._fetch()

    def _let_go(self) -> None:
        self.wants_write = False
        if self._fd > 2:
            os.close(self._fd)
            self._fd = -1

    def _open(self, now: float) -> bool:
        """Open the named pipe, if it has a reader."""
        try:
            self._fd = os.open(self._fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as exc:
            if exc.errno == errno.ENXIO:
                self.deadline = now + _READER_S
            else:
                self._lose(exc)
            return False
        return True

    def _fetch(self) -> None:
        """Fetch the next bytes to write."""
        if not self._pending:
            self._written, self._is_unwritable = self._follower.items, False
            self._pending = self._follower.next(1)
        if self._pending:
            self.wants_write = True
        elif self._follower.is_done:
            self.delivered = not self.backlog.dropped
            self.close()
        else:
            self.wants_write = False

    def _lose(self, exc: OSError) -> None:
        self.gone = True
        self.notices.reader_gone(self, str(exc.strerror))
        self.close()
