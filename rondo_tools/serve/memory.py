"""What the C library keeps of the memory that was freed.

Strategy: a look at a thousand VMs is some large arrays for a moment, made by whichever thread answers. By
default glibc has a heap for each thread, and keeps what is freed for later.
"""

from __future__ import annotations

import ctypes
import gc

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # mallopt(3)
_LARGE = 4 << 20  # bytes; to map each smaller block anew takes longer than to keep it


def keep_little() -> None:
    """One heap for all threads; large blocks go back to the system when they are freed."""
    _call("mallopt", _M_ARENA_MAX, 1)
    _call("mallopt", _M_MMAP_THRESHOLD, _LARGE)


def give_back() -> None:
    """Give the system all that is free now."""
    gc.collect()
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    try:
        getattr(ctypes.CDLL(None), name)(*arguments)
    except (OSError, AttributeError):
        pass  # another C library than glibc
