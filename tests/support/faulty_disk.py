"""A disk that kills whoever uses it between any two steps, fails, and loses what was not synced.

It stands in front of the functions of `os` that change files below a folder. A power cut leaves of a
file what was synced, some of what was not, and zeros; with `tears`, of each sector that was not synced
what was written, zeros or anything. Names that were made, changed or removed since their folder was
synced may be as they were.
"""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

SECTOR = 512  # bytes


class KillError(BaseException):
    """The process was killed."""


class FaultyDisk:
    """Of the files below `root`. `kill_in` steps from now the process is killed; `fails` raise OSError."""

    def __init__(self, root: Path, seed: int, *, tears: bool = False) -> None:
        self.root = str(root)
        self.tears = tears
        self.random = random.Random(seed)
        self.kill_in: int | None = None
        self.fail_in: int | None = None
        self.is_full = False
        self.capacity: int | None = None  # bytes of all files
        self.steps = 0
        self._synced: dict[str, int] = {}
        self._made: set[str] = set()
        self._renamed: dict[str, bytes | None] = {}
        self._removed: dict[str, tuple[bytes, int]] = {}
        self._real: dict[str, Callable[..., Any]] = {}

    @contextmanager
    def installed(self, patch: pytest.MonkeyPatch) -> Iterator[None]:
        for name in ("open", "write", "fsync", "fdatasync", "replace", "unlink", "posix_fallocate"):
            self._real[name] = getattr(os, name)
            patch.setattr(os, name, getattr(self, f"_{name}"))
        try:
            yield
        finally:
            patch.undo()

    def _step(self) -> None:
        self.steps += 1
        if self.kill_in is not None:
            self.kill_in -= 1
            if self.kill_in < 0:
                raise KillError
        if self.fail_in is not None:
            self.fail_in -= 1
            if self.fail_in < 0:
                self.fail_in = None
                raise OSError(errno.EIO, os.strerror(errno.EIO))

    def used(self) -> int:
        return sum(
            Path(folder, name).stat().st_size for folder, _, names in os.walk(self.root) for name in names
        )

    def _room(self, size: int = 0) -> None:
        """Raise unless there is room for `size` bytes more."""
        if self.is_full or (self.capacity is not None and self.used() + size > self.capacity):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _ours(self, path: str | Path) -> bool:
        return os.fspath(path).startswith(self.root)

    def _path(self, fd: int) -> str:
        return str(Path(f"/proc/self/fd/{fd}").readlink())

    def _open(self, path: str | Path, flags: int, *args: Any, **named: Any) -> int:
        is_new = self._ours(path) and flags & os.O_CREAT and not Path(path).exists()
        if is_new:
            self._step()
            self._room()
        fd: int = self._real["open"](path, flags, *args, **named)
        if is_new:
            self._made.add(os.fspath(path))
            self._synced[os.fspath(path)] = 0
        return fd

    def _write(self, fd: int, data: bytes) -> int:
        if not self._ours(self._path(fd)):
            return int(self._real["write"](fd, data))
        try:
            self._step()
            self._room(len(data))
        except BaseException:
            room = len(data) if self.capacity is None else max(self.capacity - self.used(), 0)
            self._real["write"](
                fd, data[: min(room, self.random.choice((0, self.random.randint(0, len(data)))))]
            )
            raise
        return int(self._real["write"](fd, data))

    def _fdatasync(self, fd: int) -> None:
        self._sync(fd)

    def _fsync(self, fd: int) -> None:
        self._sync(fd)

    def _sync(self, fd: int) -> None:
        path = self._path(fd)
        if not self._ours(path):
            return
        self._step()
        found = os.fstat(fd)
        if not stat.S_ISDIR(found.st_mode):
            self._room()  # where blocks are reserved late
            self._synced[path] = found.st_size
            return
        self._made = {one for one in self._made if str(Path(one).parent) != path}
        for pending in (self._renamed, self._removed):
            for one in [one for one in pending if str(Path(one).parent) == path]:
                del pending[one]

    def _replace(self, source: str | Path, target: str | Path) -> None:
        source, target = os.fspath(source), os.fspath(target)
        self._step()
        before = Path(target).read_bytes() if Path(target).exists() else None
        self._real["replace"](source, target)
        self._renamed.setdefault(target, before)
        self._synced[target] = self._synced.pop(source, 0)

    def _unlink(self, path: str | Path, **named: Any) -> None:
        if not self._ours(path):
            self._real["unlink"](path, **named)
            return
        self._step()
        name = os.fspath(path)
        content = Path(name).read_bytes()
        self._real["unlink"](path, **named)
        self._removed[name] = content, self._synced.get(name, 0)

    def _posix_fallocate(self, fd: int, offset: int, size: int) -> None:
        self._step()
        self._room(size - os.fstat(fd).st_size)
        self._real["posix_fallocate"](fd, offset, size)

    def cut_power(self) -> None:
        """What the disk has after a power cut."""
        self.kill_in = self.fail_in = None
        choose = self.random.random
        for name, (content, size) in self._removed.items():
            if choose() < 0.5 and not Path(name).exists():
                Path(name).write_bytes(content)
                self._synced[name] = size
        for name, before in self._renamed.items():
            if choose() < 0.5 and Path(name).exists():
                if before is None:
                    self._real["unlink"](name)
                else:
                    Path(name).write_bytes(before)
                    self._synced[name] = len(before)
        for name in self._made:
            if choose() < 0.5 and Path(name).exists():
                self._real["unlink"](name)
        for folder, _, names in os.walk(self.root):
            for name in names:
                self._cut(Path(folder, name))
        self._made, self._renamed, self._removed = set(), {}, {}

    def _cut(self, path: Path) -> None:
        size, synced = path.stat().st_size, self._synced.get(str(path), 0)
        if synced >= size:
            return
        data = path.read_bytes()
        if self.tears and self.random.random() < 0.5:
            path.write_bytes(data[:synced] + b"".join(self._torn(data, synced)))
            self._synced[str(path)] = size
            return
        kept = self.random.choice((synced, self.random.randint(synced, size)))
        zeros = size - kept if self.random.random() < 0.5 else 0
        path.write_bytes(data[:kept] + bytes(zeros))
        self._synced[str(path)] = kept + zeros

    def _torn(self, data: bytes, synced: int) -> Iterator[bytes]:
        """What is not synced, a sector at a time."""
        for begin in range(synced // SECTOR * SECTOR, len(data), SECTOR):
            sector = data[max(begin, synced) : begin + SECTOR]
            yield self.random.choice((sector, bytes(len(sector)), self.random.randbytes(len(sector))))
