"""Counters that outlive their watcher as files of a bpf file system, where no systemd keeps descriptors.

Strategy: a map, or the link of a program, lives for as long as a file of a bpf file system names it. The
folder is one watcher's: it holds a lock on it for as long as it runs. A watcher pins the link of the exits'
program last and removes it first, so if that is there, so is all that belongs to it. What does not fit, of
another release or not complete, is removed; what is not ours is left alone.
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
    """The folder, which is made where it is missing. Raises RondoError if it cannot be, or is another's."""

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
                f"--pin {folder}: another rondo-attach counts with this folder; one is enough for a host",
                exit_code=EX_UNAVAILABLE,
            ) from None

    def descriptors(self) -> dict[str, int]:
        """What is pinned, opened, by name; for the caller to close."""
        found = {}
        for name in sorted(filter(_OURS.fullmatch, os.listdir(self._folder))):
            with suppress(OSError):  # what does not open is of no use
                found[name] = bpf_syscall.open_pinned(f"{self._folder}/{name}")
        return found

    def store(self, name: str, fd: int) -> None:
        """Keep a descriptor for the watcher after us. Raises RondoError."""
        path = f"{self._folder}/{name}"
        try:
            self.remove(name)  # it did not open
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
        f"--pin {folder}: {exc.strerror}: it takes a folder that we may write, on a bpf file system: "
        "mount -t bpf bpf DIR, or /sys/fs/bpf where that is mounted",
        exit_code=EX_UNAVAILABLE,
    )
