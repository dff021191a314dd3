"""Watermarks: lines ``path<TAB>number:offset`` on standard output, up to where journals are written.

Strategy: only the newest line counts, and it is written when the pipe has room. Nothing waits for the reader
except the last line, and that not for long. A slow reader may see a later journal's line next: the journals
in between are complete.
"""

from __future__ import annotations

import logging
import os
import select
import stat

from rondo_tools.store.keeper import Position

log = logging.getLogger(__name__)


class Watermarks:
    """Writes lines to the descriptor `fd` if it is a pipe, until its reader is gone; -1 is no descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd if fd >= 0 and stat.S_ISFIFO(os.fstat(fd).st_mode) else -1
        self._poll = select.poll()  # select() takes no descriptor over 1023
        if self._fd >= 0:
            self._poll.register(self._fd, select.POLLOUT)
        self._written: Position | None = None
        self._newest: Position | None = None

    def update(self, position: Position | None) -> None:
        """Take the newest position, and write its line if the pipe has room now."""
        if self._fd >= 0 and position is not None:
            self._newest = position
            self._write_within(0)

    def drain(self, seconds: float) -> None:
        """Wait up to `seconds` until the pipe takes the last line."""
        self._write_within(seconds * 1000)

    def _write_within(self, milliseconds: float) -> None:
        if self._newest is None or self._newest == self._written or self._fd < 0:
            return
        if not self._poll.poll(milliseconds):
            return
        path, number, offset = self._newest
        try:
            # A write of up to PIPE_BUF bytes is atomic (POSIX), and a path has at most 4095 bytes.
            os.write(self._fd, f"{path}\t{number}:{offset}\n".encode("utf-8", "surrogateescape"))
            self._written = self._newest
        except OSError as exc:  # usually EPIPE; an error of stdout never stops storing
            log.info("cannot write watermarks any more (%s); storing continues", exc.strerror)
            self._fd = -1
