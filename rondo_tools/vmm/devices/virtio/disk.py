"""The file behind a block device: whole sectors of 512 bytes, used by one VM at a time.

Strategy: positioned vector I/O, one call per request, directly from and to guest memory. The file never
grows: the caller checks every request against `sectors`. An flock keeps two VMs from sharing a disk; it
is advisory, and ends with its process.
"""

from __future__ import annotations

import errno
import fcntl
import os
from types import TracebackType
from typing import Self

from rondo_tools.errors import EX_UNAVAILABLE, UsageError, VmError
from rondo_tools.vmm.regular import open_regular

SECTOR = 512  # bytes; the protocol's unit, independent of the disk's sector size

# macOS has no fdatasync.
_sync = getattr(os, "fdatasync", os.fsync)


class Disk:
    """An open disk; it owns `fd`. `sectors` is its size when it was opened."""

    def __init__(self, fd: int, sectors: int, *, read_only: bool = False) -> None:
        self._fd = fd
        self.sectors = sectors
        self.read_only = read_only

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read_into(self, views: list[memoryview], sector: int) -> None:
        """Fill the views from `sector` on. Raises OSError if fewer bytes could be read."""
        _all_or_error(os.preadv(self._fd, views, sector * SECTOR), views)

    def write_from(self, views: list[memoryview], sector: int) -> None:
        """Write the views from `sector` on. Raises OSError if fewer bytes could be written."""
        _all_or_error(os.pwritev(self._fd, views, sector * SECTOR), views)

    def flush(self) -> None:
        """Return when all written data is on stable storage. Raises OSError if that failed."""
        _sync(self._fd)


def _all_or_error(moved: int, views: list[memoryview]) -> None:
    wanted = sum(len(view) for view in views)
    if moved != wanted:
        raise OSError(errno.EIO, f"only {moved} of {wanted} bytes")


def open_disk(path: str, *, read_only: bool = False) -> Disk:
    """Open the file or block device `path` and lock it, exclusively unless it is read-only.

    Raises UsageError for a file that cannot be a disk, VmError for one that cannot be opened or locked.
    """
    try:
        fd = open_regular("--disk", path, os.O_RDONLY if read_only else os.O_RDWR, or_block_device=True)
        try:
            sectors = _sectors(fd, path)
            fcntl.flock(fd, (fcntl.LOCK_SH if read_only else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BaseException:
            os.close(fd)
            raise
    except BlockingIOError as exc:
        what = f"--disk {path}: in use by another VM; give each its own"
        raise VmError(what, exit_code=EX_UNAVAILABLE) from exc
    except OSError as exc:
        raise VmError(f"--disk {path}: {exc.strerror}", exit_code=EX_UNAVAILABLE) from exc
    return Disk(fd, sectors, read_only=read_only)


def _sectors(fd: int, path: str) -> int:
    """The size of a file or block device in sectors. Raises UsageError if it is not whole sectors."""
    size = os.lseek(fd, 0, os.SEEK_END)
    if not size or size % SECTOR:
        raise UsageError(
            f"--disk {path}: {size} bytes are not whole sectors of {SECTOR}; "
            f"truncate --size=8M {path} makes a disk"
        )
    return size // SECTOR


def temporary_disk(size: int) -> Disk:
    """A sparse, unnamed disk of `size` zero bytes; closing it deletes it.

    Raises UsageError if `size` is not whole sectors, VmError if the file cannot be created.
    """
    import tempfile  # takes 7 ms, which a VM with a disk of its own should not pay

    if size <= 0 or size % SECTOR:
        raise UsageError(f"a disk of {size} bytes is not whole sectors of {SECTOR}")
    try:
        with tempfile.TemporaryFile(buffering=0) as file:
            file.truncate(size)
            return Disk(os.dup(file.fileno()), size // SECTOR)
    except OSError as exc:
        raise VmError(f"cannot create a temporary disk: {exc.strerror}", exit_code=EX_UNAVAILABLE) from exc
