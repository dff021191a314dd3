"""Limits the freed memory that the C library keeps.

Strategy: a look at a thousand VMs needs large arrays for a moment, in the thread that answers. By default
glibc has a heap for each thread, and keeps freed memory.
"""

from __future__ import annotations

import ctypes
import gc

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # mallopt(3)
_LARGE = 4 << 20  # bytes; mapping smaller blocks each time costs more than keeping them


def keep_little() -> None:
    """Use one heap for all threads, and return large blocks to the system when they are freed."""
    _call("mallopt", _M_ARENA_MAX, 1)
    _call("mallopt", _M_MMAP_THRESHOLD, _LARGE)


def give_back() -> None:
    """Return all free memory to the system."""
    gc.collect()
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    try:
        getattr(ctypes.CDLL(None), name)(*arguments)
    except (OSError, AttributeError):
        pass  # another C library than glibc
