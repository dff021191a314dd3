"""Fixtures of the store's tests."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

CLONE_NEWNS, MS_PRIVATE_EVERYWHERE = 0x20000, 0x44000


@pytest.fixture
def begin_ms() -> int:
    """A time some 20 minutes ago, on a multiple of five: what is stored is not expired at once."""
    return (time.time_ns() // 1_000_000 - 1_200_000) // 300_000 * 300_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB, seen by this process alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    mine, here = os.open("/proc/self/ns/mnt", os.O_RDONLY), Path.cwd()
    place = tmp_path / "disk"
    place.mkdir()
    try:
        if libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_PRIVATE_EVERYWHERE, None):
            pytest.skip("no rights to mount a small file system here")
        if libc.mount(b"none", bytes(place), b"tmpfs", 0, b"size=512k"):
            pytest.skip("no rights to mount a small file system here")
        yield place
        libc.umount2(bytes(place), 2)
    finally:
        libc.setns(mine, CLONE_NEWNS)
        os.chdir(here)  # setns(2) goes to the root
        os.close(mine)
