"""Files and descriptors: replaces small files whole, forces data to the disk, explains missing permissions,
raises the limit of open files."""

from __future__ import annotations

import grp
import os
import pwd
import resource
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any


def replace(path: Path, data: bytes, *, like: Path | None = None) -> None:
    """Put `data` at `path`: a temporary file beside it, fsync, rename, fsync of the folder.

    With `like`, it gets the mode and, if permitted, the owner of that file. A crash at any moment leaves the
    old file or the new one, whole. Raises OSError; then the old file is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            if like is not None:
                look_like(file.fileno(), like)
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def look_like(fd: int, path: Path) -> None:
    """Give an open file the mode and, if permitted, the owner of another. Raises OSError."""
    other, ours = path.stat(), os.fstat(fd)
    os.fchmod(fd, other.st_mode & 0o7777)
    if (other.st_uid, other.st_gid) != (ours.st_uid, ours.st_gid):
        try:
            os.fchown(fd, other.st_uid, other.st_gid)
        except PermissionError:
            pass  # only root may give a file away


def sync_folder(path: Path) -> None:
    """Force the names in a folder to the disk. Raises OSError."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sync_file(path: Path) -> None:
    """Force a file's data to the disk, also data of other processes. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)


def denied(path: Path) -> str:
    """A missing permission in words: the owner of `path`, or of the nearest visible folder above it."""
    for place in (path, *path.parents):
        try:
            status = place.stat()
        except OSError:
            continue
        owner, group = _name(pwd.getpwuid, status.st_uid), _name(grp.getgrgid, status.st_gid)
        mode = stat.S_IMODE(status.st_mode)
        return f"{place} belongs to {owner} (group {group}, mode {mode:04o}): run this as {owner}"
    return "run this as its owner"


def _name(look_up: Callable[[int], Any], number: int) -> str:
    try:
        return str(look_up(number)[0])
    except KeyError:
        return str(number)


def why(exc: OSError, path: Path) -> str:
    """The error in words; for a missing permission also what to do."""
    text = exc.strerror or str(exc)
    return f"{text}; {denied(path)}" if isinstance(exc, PermissionError) else text


def make_folder(path: Path) -> None:
    """Make a folder and its parents, forced to the disk. Raises OSError."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def raise_descriptor_limit() -> int:
    """Raise the limit of descriptors as far as allowed; gives the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 1 << 20) if hard != resource.RLIM_INFINITY else 1 << 20
    if soft != resource.RLIM_INFINITY and soft >= wanted:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (ValueError, OSError):
        return soft
    return wanted
