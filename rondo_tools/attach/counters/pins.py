"""Keeps counters as files of a bpf file system, for a restart without systemd.

Strategy: a map, or the link of a program, lives as long as its file in a bpf file system. One watcher owns
the folder: it holds a lock on it while it runs. A watcher pins the link of the program for exits last and
removes it first; so if that file exists, the set is complete. Pins of another release, or an incomplete set,
are removed; other files stay.
"""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import suppress

from rondo_tools.attach.counters import bpf_syscall
from rondo_tools.errors import EX_UNAVAILABLE, RondoError

_OURS = re.compile(r"(threads|lost|exits|wakeups)-[0-9a-f]{8}")


class Pins:
    """The folder, created if missing. Raises RondoError if that fails, or another watcher has the lock."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            self._lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as exc:
            raise _failed(folder, exc) from exc
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(self._lock)
            if not isinstance(exc, BlockingIOError):
                raise _failed(folder, exc) from exc
            raise RondoError(
                f"--pin {folder}: another rondo-attach uses this folder; one is enough for a host",
                exit_code=EX_UNAVAILABLE,
            ) from None

    def descriptors(self) -> dict[str, int]:
        """Open all pins; descriptors by name. The caller closes them."""
        found = {}
        for name in sorted(filter(_OURS.fullmatch, os.listdir(self._folder))):
            with suppress(OSError):  # a pin that cannot be opened is not used
                found[name] = bpf_syscall.open_pinned(f"{self._folder}/{name}")
        return found

    def store(self, name: str, fd: int) -> None:
        """Pin a descriptor for the next watcher. Raises RondoError."""
        path = f"{self._folder}/{name}"
        try:
            self.remove(name)  # an old pin that could not be opened
            bpf_syscall.pin(fd, path)
        except OSError as exc:
            raise _failed(self._folder, exc) from exc

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(f"{self._folder}/{name}")

    def close(self) -> None:
        os.close(self._lock)


def _failed(folder: str, exc: OSError) -> RondoError:
    return RondoError(
        f"--pin {folder}: {exc.strerror}: the folder must be writable, and on a bpf file system: "
        "mount -t bpf bpf DIR, or use /sys/fs/bpf where that is mounted",
        exit_code=EX_UNAVAILABLE,
    )
