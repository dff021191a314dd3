"""Fixtures of the store's tests."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from rondo_tools import files
from rondo_tools.listeners import listen
from rondo_tools.signals import Signals
from rondo_tools.store import frame_writer
from rondo_tools.store.opened import OpenStore
from rondo_tools.store.server.server import Server
from rondo_tools.store.watermarks import Watermarks
from tests.support.store.journal_fixtures import SMALL_TIERS, Writer, fill
from tests.support.store.journal_truth import Disk
from tests.support.store.store_host import CONNECTIONS, Clock

CLONE_NEWNS, MS_PRIVATE_EVERYWHERE = 0x20000, 0x44000


@pytest.fixture(autouse=True)
def no_connection_outlives_its_test() -> Iterator[None]:
    yield
    while CONNECTIONS:
        CONNECTIONS.pop().close()


@pytest.fixture
def begin_ms() -> int:
    """A time some 20 minutes ago, on a multiple of five: stored ticks do not expire at once."""
    return (time.time_ns() // 1_000_000 - 1_200_000) // 300_000 * 300_000


@contextmanager
def mounted(place: Path, options: bytes) -> Iterator[Path]:
    """A small file system at `place`, seen by this process alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    mine, here = os.open("/proc/self/ns/mnt", os.O_RDONLY), Path.cwd()
    place.mkdir()
    try:
        if libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_PRIVATE_EVERYWHERE, None):
            pytest.skip("no rights to mount a small file system here")
        if libc.mount(b"none", bytes(place), b"tmpfs", 0, options):
            pytest.skip("no rights to mount a small file system here")
        yield place
        libc.umount2(bytes(place), 2)
    finally:
        libc.setns(mine, CLONE_NEWNS)
        os.chdir(here)  # setns(2) goes to the root
        os.close(mine)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    with mounted(tmp_path / "disk", b"size=512k") as place:
        yield place


@pytest.fixture
def few_inodes(tmp_path: Path) -> Iterator[Path]:
    """A file system with inodes for 40 files."""
    with mounted(tmp_path / "disk", b"size=64m,nr_inodes=40") as place:
        yield place


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def address(tmp_path: Path) -> str:
    return str(tmp_path / "sock")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def serving(path: Path, address: str, clock: Clock) -> Iterator[Server]:
    """A server at `address`; the test calls its turns."""
    with (
        Signals() as signals,
        OpenStore(path, clock=clock) as store,
        closing(listen(f"unix:{address}")) as listener,
        closing(Server(store, [listener], Watermarks(-1), signals, clock=clock)) as server,
    ):
        server.open()
        yield server


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[Disk], None]:
    """Puts a disk under the modules that write."""

    def put(disk: Disk) -> None:
        monkeypatch.setattr(frame_writer, "os", disk)
        monkeypatch.setattr(files, "os", disk)

    return put


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for the disk: for tests of days, or of readers, that test no crashes."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    monkeypatch.setattr(os, "fdatasync", lambda fd: None)


@pytest.fixture(scope="module")
def no_waits_in_module() -> Iterator[None]:
    """The same for all tests of a module, and for properties."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("fsync", "fdatasync"):
            patch.setattr(os, name, lambda fd: None)
        yield


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Writer]:
    """A store with data in every folder."""
    with Writer(tmp_path / "store", SMALL_TIERS, per_frame=3, last_ms=20_000) as writer:
        fill(writer)
        yield writer
