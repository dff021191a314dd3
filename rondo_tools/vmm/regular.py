"""Opens a regular file that a user named: opening a FIFO would hang, and opening a device may have effects.

Strategy: check the type before opening, open without blocking, and check the type of the open file again.
"""

from __future__ import annotations

import os
import stat

from rondo_tools.errors import UsageError

_OTHERS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)


def open_regular(flag: str, path: str, flags: int, *, or_block_device: bool = False) -> int:
    """Open the regular file `path`. Raises UsageError if it is of another type, OSError from open(2)."""
    _check(flag, path, os.stat(path).st_mode, or_block_device)
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _check(flag, path, os.fstat(fd).st_mode, or_block_device)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check(flag: str, path: str, mode: int, or_block_device: bool) -> None:
    if stat.S_ISREG(mode) or (or_block_device and stat.S_ISBLK(mode)):
        return
    wanted = "a regular file or a block device" if or_block_device else "a regular file"
    what = next((name for is_one, name in _OTHERS if is_one(mode)), "something else")
    raise UsageError(f"{flag} {path}: this is {what}; name {wanted}")
