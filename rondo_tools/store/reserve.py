"""Room for one roll-up, kept for a full disk: without it nothing could be rolled up, and so nothing go."""

from __future__ import annotations

import errno
import os

from rondo_tools.store.format.layout import Layout

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The errors of a disk, or a process, that has no room for more."""


class Reserve:
    """A file of `size` bytes."""

    def __init__(self, layout: Layout, size: int) -> None:
        self._path, self._size = layout.reserve, size

    def take(self) -> bool:
        """Take the room, if it is not taken yet; whether there was so much. Raises OSError."""
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
            try:
                os.posix_fallocate(fd, 0, self._size)
            finally:
                os.close(fd)
        except OSError as exc:
            self.give_up()
            if exc.errno not in FULL:
                raise
            return False
        return True

    def give_up(self) -> None:
        """Give the room back."""
        try:
            self._path.unlink()
        except OSError:
            pass  # there is none; or it cannot be had
