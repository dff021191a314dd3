"""The lines that tell the next in the pipe what is closed: ``path<TAB>closed_through_ms``.

Strategy: only the newest line of each session is kept, and it is written when the reader has room
for it; nothing ever waits for the reader but the very last lines, and those not for long.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Mapping

log = logging.getLogger(__name__)

# A pipe that select calls writable takes this much without blocking (POSIX, PIPE_BUF on Linux).
_AT_ONCE = 4096


class Lines:
    """Writes lines to the descriptor `fd` (-1: to nobody), until its reader is gone."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()  # select() has no room for a descriptor over 1023
        if fd >= 0:
            self._poll.register(fd, select.POLLOUT)
        self._waiting: dict[str, int] = {}
        self._begun = b""  # what is left of lines that were partly written

    def update(self, closed: Mapping[str, int]) -> None:
        """Take note of what is closed, and write as much as the reader has room for now."""
        if self._fd < 0:
            return
        self._waiting.update(closed)
        self._write_until(0.0)

    def drain(self, seconds: float) -> None:
        """Give the reader up to `seconds` to take what is left."""
        self._write_until(time.monotonic() + seconds)

    def _write_until(self, deadline: float) -> None:
        """Write all, or what the reader has room for until then; after it, nothing is waited for."""
        while self._begun or self._waiting:
            if not self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return
            while self._waiting and len(self._begun) < _AT_ONCE:
                path, closed_through_ms = self._waiting.popitem()
                self._begun += f"{path}\t{closed_through_ms}\n".encode("utf-8", "surrogateescape")
            try:
                written = os.write(self._fd, self._begun[:_AT_ONCE])
            except OSError as exc:  # mostly EPIPE; but what is wrong with stdout never stops storing
                log.info("the lines cannot be written any more (%s); storing goes on", exc.strerror)
                self._fd = -1
                self._begun = b""
                self._waiting.clear()
                return
            self._begun = self._begun[written:]
