"""The one writer of a store: its lock, its description, and the rings of its sessions.

    store.json                       {"rondo_store": 1, "tiers": "1s:10m,10s:6h,5m:7d"}
    lock                             flock; holds the writer's pid, for the message to the second one
    instances/NAME/START_MS/         session.json {"header": the header as received, "end": null or
                                     {"end": reason, "t_ms": int}}, tier_0.slab, tier_1.slab, ...

Both JSON files are replaced whole. A session's session.json is written after its slabs are there:
a folder without one is no session yet.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from rondo_tools import files, stream
from rondo_tools.catalog import Series
from rondo_tools.errors import EX_TEMPFAIL, EX_UNAVAILABLE, StoreError
from rondo_tools.store.reader import FORMAT_VERSION, Session, Store, folder_name, read_store_json
from rondo_tools.store.ring import Ring
from rondo_tools.store.tiers import DEFAULT_TIERS, Tier, format_tiers
from rondo_tools.units import format_duration

log = logging.getLogger(__name__)


class SessionWriter:
    """An open session. `path` is its folder; `ring` takes its ticks.

    `is_replaced` says that it was opened once more: it is closed then, and goes on elsewhere.
    """

    __slots__ = ("__weakref__", "end", "header", "is_replaced", "path", "ring")

    def __init__(self, path: Path, tiers: tuple[Tier, ...], header: stream.Header) -> None:
        """Make the session, or take it up again. Raises StoreError if it has other series."""
        self.path = path
        self.header = header
        self.end: stream.End | None = None
        self.is_replaced = False
        path.mkdir(parents=True, exist_ok=True)
        file = path / "session.json"
        if file.exists():
            try:
                known = Session(path, tiers)
            except ValueError as exc:
                raise StoreError(f"{file}: damaged ({exc})") from exc
            if known.header != header:
                raise StoreError(
                    f"{path}: instance {header.instance!r} has begun a session at {header.start_ms} "
                    "with another header; give each VM a name of its own (--instance)"
                )
            self.end = known.end
            self.ring = Ring(path, tiers, header)
        else:
            self.ring = Ring(path, tiers, header)
            try:
                self._save(None)
            except BaseException:
                self.ring.close()
                raise

    def finish(self, end: stream.End) -> None:
        """Note that the VM ended. A second end is the first one sent again, and changes nothing."""
        if self.end is None:
            self.ring.finish()
            self._save(end)
            self.end = end

    def close(self) -> None:
        self.ring.close()

    def _save(self, end: stream.End | None) -> None:
        document: dict[str, Any] = {
            "header": stream.header_to_map(self.header),
            "end": {"end": end.reason, "t_ms": end.t_ms} if end else None,
        }
        files.replace(self.path / "session.json", json.dumps(document, indent=1).encode())


class StoreWriter:
    """Holds a store open for writing; use it as a context manager."""

    def __init__(
        self,
        path: str | Path,
        tiers: tuple[Tier, ...] | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """Open the store, making it if there is none, with `tiers` or the default ones.

        Raises StoreError if it cannot be written to, if another process writes to it, or if it was
        made with other tiers.
        """
        self.path = Path(path)
        self._now_ms = now_ms
        self._open: WeakValueDictionary[Path, SessionWriter] = WeakValueDictionary()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.path / "lock")
        except OSError as exc:
            raise StoreError(
                f"{self.path}: cannot be written to: {exc.strerror}", exit_code=EX_UNAVAILABLE
            ) from exc
        try:
            if not (self.path / "store.json").exists():
                document = {"rondo_store": FORMAT_VERSION, "tiers": format_tiers(tiers or DEFAULT_TIERS)}
                files.replace(self.path / "store.json", json.dumps(document).encode())
            self.tiers = read_store_json(self.path)
            if tiers not in (None, self.tiers):
                raise StoreError(
                    f"{self.path}: made with --tiers {format_tiers(self.tiers)}, which cannot be changed; "
                    "leave the flag out, or use another folder"
                )
        except BaseException:
            os.close(self._lock)
            raise

    def open(self, header: stream.Header) -> SessionWriter:
        """The session that a header opens; the caller closes it.

        One that is open already is closed then: of two connections the newer one counts.
        """
        path = self.path / "instances" / folder_name(header.instance) / str(header.start_ms)
        before = self._open.get(path)
        session = SessionWriter(path, self.tiers, header._replace(series=_shared(header.series)))
        if before is not None:
            before.close()
            before.is_replaced = True
        self._open[path] = session
        return session

    def expire(self) -> None:
        """Remove the sessions whose last tick is older than the last tier remembers."""
        horizon_ms = self._now_ms() - self.tiers[-1].span_ms
        for session in Store(self.path).sessions():
            if _last_ms(session) >= horizon_ms:
                continue
            log.info(
                "%s: removed, its data is older than %s",
                session.path,
                format_duration(self.tiers[-1].span_ms),
            )
            # Without its session.json a folder is no session: nobody sees it half removed.
            (session.path / "session.json").unlink()
            shutil.rmtree(session.path)
            try:
                session.path.parent.rmdir()
            except OSError:
                pass  # the instance has other sessions

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@lru_cache(maxsize=64)
def _shared(series: tuple[Series, ...]) -> tuple[Series, ...]:
    """One tuple for all sessions with the same series: a kilobyte or two for each that is open."""
    return series


def _last_ms(session: Session) -> int:
    try:
        t_ms = session.rows().t_ms
    except StoreError:
        return session.start_ms
    return int(t_ms[-1]) if t_ms.size else session.start_ms


def _lock(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(fd, 32).decode("ascii", "replace").strip()
        os.close(fd)
        raise StoreError(
            f"{path}: process {holder or '?'} writes to this store; only one may", exit_code=EX_TEMPFAIL
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd
