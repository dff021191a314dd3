"""A store's folder, held by its one writer.

Strategy: the lock is an flock on a file of its own, which has the writer's pid for the error message of a
second one. If the folder is removed, renamed or replaced by a backup, a process keeps its descriptors and
would write to files that no reader finds. `check` compares the files that have the names now with those that
this process opened.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Self

from rondo_tools import files
from rondo_tools.errors import EX_TEMPFAIL, EX_UNAVAILABLE, StoreError
from rondo_tools.store.format.layout import JOURNALS, Layout, is_part
from rondo_tools.store.format.store_json import StoreJson, new_store, parse_store_json
from rondo_tools.store.format.tiers import DEFAULT_TIERS, Tier, format_tiers


class Folder:
    """Opens a store for writing, or makes it; use it as a context manager.

    Raises StoreError if it cannot be written to, if another process writes to it, or if it was made
    with other tiers or by another rondo.
    """

    def __init__(self, path: str | Path, tiers: tuple[Tier, ...] | None = None) -> None:
        self.layout = Layout(path)
        self._lock = -1
        try:
            files.make_folder(self.layout.path)
            known = _read(self.layout.store_json)
            if known is None:
                known = _check_empty(self.layout)
            self._lock = _lock(self.layout.lock)
            known = known or _read(self.layout.store_json)
            if known is None:
                known = new_store(tiers or DEFAULT_TIERS)
                files.replace(self.layout.store_json, known.pack())
            if tiers not in (None, known.tiers):
                raise StoreError(
                    f"{path}: made with --tiers {format_tiers(known.tiers)}, which cannot be changed; "
                    "leave the flag out, or use another folder"
                )
            _make_writable_folder(self.layout.folder(JOURNALS))
            self._store_json = _identity(os.stat(self.layout.store_json))  # noqa: PTH116
        except (FileExistsError, NotADirectoryError) as exc:
            self.close()
            raise StoreError(
                f"{path}: this is a file; a store is a folder", exit_code=EX_UNAVAILABLE
            ) from exc
        except OSError as exc:
            self.close()
            why = files.why(exc, Path(exc.filename or path))
            raise StoreError(f"{path}: cannot be written to: {why}", exit_code=EX_UNAVAILABLE) from exc
        except BaseException:
            self.close()
            raise
        self.store_id, self.tiers = known

    def check(self) -> None:
        """Raise StoreError unless the folder is still the one that was opened."""
        lock, store_json = self.layout.lock, self.layout.store_json
        try:
            is_ours = (
                _identity(os.stat(lock)) == _identity(os.fstat(self._lock))  # noqa: PTH116
                and _identity(os.stat(store_json)) == self._store_json  # noqa: PTH116
            )
        except FileNotFoundError:
            is_ours = False
        except OSError as exc:
            raise StoreError(f"{self.layout.path}: {exc.strerror}", exit_code=EX_UNAVAILABLE) from exc
        if not is_ours:
            raise moved(self.layout.path)

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def moved(path: Path) -> StoreError:
    """The error for a folder that was moved or replaced."""
    return StoreError(
        f"{path}: removed or replaced while this process wrote to it; start again", exit_code=EX_UNAVAILABLE
    )


def _identity(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino


def _read(path: Path) -> StoreJson | None:
    try:
        return parse_store_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except StoreError as exc:
        raise StoreError(f"{path.parent}: {exc}", exit_code=exc.exit_code) from exc


def _check_empty(layout: Layout) -> StoreJson | None:
    """The store.json that another process has just made; None for a folder in which to make a store.

    Hidden files do not count. Raises StoreError for a folder with other files, or of a store that lost its
    store.json.
    """
    path = layout.path
    allowed = {layout.lock.name, "lost+found"}  # of an interrupted start; of a file system
    others = [one.name for one in path.iterdir() if not one.name.startswith(".") and one.name not in allowed]
    if not others:
        return None
    if made := _read(layout.store_json):  # it is the first file of a store after the lock
        return made
    if any(map(is_part, others)):
        raise StoreError(
            f"{path}: its store.json is gone; put it back from a backup, or use another folder",
        )
    raise StoreError(
        f"{path}: no store, and not empty ({min(others)}); name a folder of its own, such as "
        f"{path / 'vmm_metrics'}"
    )


def _make_writable_folder(path: Path) -> None:
    """Make a folder. Raises OSError, also if no file can be made in it: else the first write would wait."""
    files.make_folder(path)
    if not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def _lock(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        holder = os.read(fd, 32).decode("ascii", "replace").strip()
        os.close(fd)
        raise StoreError(
            f"{path}: process {holder or '?'} writes to this store; only one may", exit_code=EX_TEMPFAIL
        ) from None
    except BaseException:
        os.close(fd)
        raise
    return fd
