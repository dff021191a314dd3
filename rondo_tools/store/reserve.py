"""Disk space for one roll-up on a full disk: without a roll-up no journal could be removed."""

from __future__ import annotations

import errno
import os

from rondo_tools.store.format.layout import Layout

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
FULL = (*FULL_DISK, errno.EFBIG)
"""The errors of a full disk, or of a limit on the size of the process's files."""


class Reserve:
    """A file of `size` bytes."""

    def __init__(self, layout: Layout, size: int) -> None:
        self._path, self._size = layout.reserve, size

    def take(self) -> bool:
        """Allocate the space, if it is not allocated yet. False if the disk is full. Raises OSError.

        A limit on the size of this process's files is no full disk: there is no reserve then.
        """
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
            return exc.errno not in FULL_DISK
        return True

    def give_up(self) -> None:
        """Free the space."""
        try:
            self._path.unlink()
        except OSError:
            pass  # there is none, or it cannot be removed
