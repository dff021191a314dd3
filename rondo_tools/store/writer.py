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
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from rondo_tools import files, stream
from rondo_tools.catalog import Series
from rondo_tools.errors import EX_TEMPFAIL, EX_UNAVAILABLE, StoreError
from rondo_tools.store.reader import FORMAT_VERSION, Session, folder_name, read_store_json
from rondo_tools.store.ring import Ring
from rondo_tools.store.room import Room
from rondo_tools.store.sync import NEVER, Policy, Syncer
from rondo_tools.store.tiers import DEFAULT_TIERS, Tier, format_tiers

log = logging.getLogger(__name__)


class SessionWriter:
    """An open session. `folder` is where it is; `ring` takes its ticks.

    `is_replaced` says that it was opened once more: it is closed then, and goes on elsewhere.
    """

    __slots__ = ("_all_open", "end", "folder", "header", "is_replaced", "ring")

    def __init__(
        self,
        path: Path,
        tiers: tuple[Tier, ...],
        header: stream.Header,
        all_open: dict[str, SessionWriter],
        *,
        dsync: bool = False,
    ) -> None:
        """Make the session, or take it up again. Raises StoreError if it has other series.

        `all_open` are the sessions that are open, by folder: it is among them until it is closed.
        """
        self.folder = str(path)  # a Path takes ten times the room, and there may be thousands
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
            self.ring = Ring(self.folder, tiers, header, dsync=dsync)
        else:
            self.ring = Ring(self.folder, tiers, header, dsync=dsync)
            try:
                self._save(None)
            except BaseException:
                self.ring.close()
                raise
        if (before := all_open.get(self.folder)) is not None:
            before.close()
            before.is_replaced = True
        self._all_open = all_open
        all_open[self.folder] = self

    @property
    def path(self) -> Path:
        return Path(self.folder)

    @property
    def is_closed(self) -> bool:
        return self._all_open.get(self.folder) is not self

    def finish(self, end: stream.End) -> None:
        """Note that the VM ended. A second end is the first one sent again, and changes nothing."""
        if self.end is None:
            self.ring.finish()
            self._save(end)
            self.end = end

    def close(self) -> None:
        if not self.is_closed:
            del self._all_open[self.folder]
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
        *,
        max_bytes: int | None = None,
        sync: Policy = NEVER,
    ) -> None:
        """Open the store, making it if there is none, with `tiers` or the default ones.

        `max_bytes` bounds what it takes on the disk.

        Raises StoreError if it cannot be written to, if another process writes to it, or if it was
        made with other tiers.
        """
        self.path = Path(path)
        self._sync = sync
        self._syncer: Syncer | None = None
        self._open: dict[str, SessionWriter] = {}
        self._behind: dict[SessionWriter, None] = {}  # a set that keeps its order
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
            self.room = Room(self.path, self.tiers, max_bytes, self._open, now_ms)
            if sync.every_ms:
                self._syncer = Syncer(sync.every_ms, len(self.tiers))
        except BaseException:
            os.close(self._lock)
            raise

    def open(self, header: stream.Header) -> SessionWriter:
        """The session that a header opens; the caller closes it.

        One that is open already is closed then: of two connections the newer one counts.
        """
        path = self.path / "instances" / folder_name(header.instance) / str(header.start_ms)
        header = header._replace(series=_shared(header.series))
        with self.room.guard:
            if not (path / "session.json").exists():
                self.room.admit(header.instance)
            return SessionWriter(path, self.tiers, header, self._open, dsync=self._sync.always)

    def wrote(self, session: SessionWriter) -> None:
        """Something was added to a session: to be synced in time, and rolled up."""
        if self._syncer is not None:
            self._syncer.mark(session.folder)
        if session.ring.is_behind:
            self._behind[session] = None

    def catch_up(self, seconds: float) -> bool:
        """Roll up what is owed, for about so long. Whether there is more to do."""
        until = time.monotonic() + seconds
        while self._behind and time.monotonic() < until:
            session = next(iter(self._behind))
            del self._behind[session]
            try:
                if not session.is_closed:
                    session.ring.catch_up()
                    self.wrote(session)
            except (OSError, StoreError) as exc:
                # It stays owed; when the next window closes, it is its producer's trouble.
                log.debug("%s: not rolled up yet: %s", session.path, exc)
        return bool(self._behind)

    def close(self) -> None:
        self.room.close()
        if self._syncer is not None:
            self._syncer.close()
            self._syncer = None
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
