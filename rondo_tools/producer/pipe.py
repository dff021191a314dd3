"""An output to a pipe, a file or a terminal: written once, in order.

Strategy: the descriptor may be shared with others, who expect its writes to block, so its mode is left
alone: a write follows a poll that found room, and is no longer than that room is at least. A disk that
is full is tried again every second, from the very byte where it was left; a reader that is gone is gone
for good.
"""

from __future__ import annotations

import errno
import math
import os
import select

from rondo_tools.producer.backlog import KEPT, Follower
from rondo_tools.producer.output import NOTICES, Notices, Output

RETRY_S = 1.0  # between two attempts to write to a disk that is full
_READER_S = 0.02  # between two looks for the reader of a named pipe
_ROOM = select.PIPE_BUF  # bytes that a pipe takes at once if it takes any


class Pipe(Output):
    """Owns `fd`, unless it is a standard one. `fifo` is a named pipe's path, opened once it has a reader."""

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
        self._pending = b""  # of what the follower returned last
        self._written = 0  # items
        self._is_unwritable = False  # it was said so

    @property
    def missing(self) -> int:
        return self.backlog.count - self._written

    def fileno(self) -> int:
        return self._fd if self.wants_write else -1  # while there is nothing to write a reader may be gone

    def on_readable(self, now: float) -> None:
        self.on_writable(now)  # the write will tell what is wrong

    def on_time(self, now: float) -> None:
        if self.is_over or (now < self.deadline and not self.wants_write and self._is_unwritable):
            return
        if self._fd < 0 and not self._open(now):
            return
        self.deadline = math.inf
        self._look()

    def on_writable(self, now: float) -> None:
        if not self.wants_write:
            return
        try:
            size = os.write(self._fd, self._pending[:_ROOM])
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
            self._look()

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

    def _look(self) -> None:
        """See what there is to write."""
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
