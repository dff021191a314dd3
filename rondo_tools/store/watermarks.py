"""The lines that tell the next in the pipe how far the journals are written: ``path<TAB>number:offset``.

Strategy: only the newest line counts, and it is written when the reader has room for it; nothing ever
waits for the reader but the very last line, and that not for long. A reader that was slow sees a later
journal's line next: what lies between is whole.
"""

from __future__ import annotations

import logging
import os
import select
import stat

from rondo_tools.store.keeper import Position

log = logging.getLogger(__name__)


class Watermarks:
    """Writes lines to the descriptor `fd` if it is a pipe (-1: to nobody), until its reader is gone."""

    def __init__(self, fd: int) -> None:
        self._fd = fd if fd >= 0 and stat.S_ISFIFO(os.fstat(fd).st_mode) else -1
        self._poll = select.poll()  # select() has no room for a descriptor over 1023
        if self._fd >= 0:
            self._poll.register(self._fd, select.POLLOUT)
        self._written: Position | None = None
        self._newest: Position | None = None

    def update(self, position: Position | None) -> None:
        """Note how far it is written, and tell the reader if it has room for a line now."""
        if self._fd >= 0 and position is not None:
            self._newest = position
            self._write_within(0)

    def drain(self, seconds: float) -> None:
        """Give the reader up to `seconds` to take the last line."""
        self._write_within(seconds * 1000)

    def _write_within(self, milliseconds: float) -> None:
        if self._newest is None or self._newest == self._written or self._fd < 0:
            return
        if not self._poll.poll(milliseconds):
            return
        path, number, offset = self._newest
        try:
            # A line is shorter than what a pipe takes whole (POSIX, PIPE_BUF), a path at most 4095 bytes.
            os.write(self._fd, f"{path}\t{number}:{offset}\n".encode("utf-8", "surrogateescape"))
            self._written = self._newest
        except OSError as exc:  # mostly EPIPE; but what is wrong with stdout never stops storing
            log.info("the lines cannot be written any more (%s); storing goes on", exc.strerror)
            self._fd = -1
