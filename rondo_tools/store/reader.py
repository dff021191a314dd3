"""Reading a store, also while it is written: what rondo-push and rondo-query stand on.

Strategy: nothing is locked. `session.json` is replaced whole; a row proves itself by its CRC; a
window that the writer has not rolled up yet is rolled up here, by the same function, so that
nobody sees the lag.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import numpy as np

from rondo_tools import stream
from rondo_tools.errors import EX_UNAVAILABLE, StoreError, UsageError
from rondo_tools.store import check, rollup, together
from rondo_tools.store.check import Finding, finding_of
from rondo_tools.store.rollup import Column
from rondo_tools.store.slab import Rows, Slab
from rondo_tools.store.tiers import Tier, parse_tiers

__all__ = ["Column", "Finding", "Rows", "Session", "Store", "Tier", "finding_of"]

FORMAT_VERSION = 1
_FEW = 4  # of a ring's slots, the part that is read together with those of other sessions
_TOGETHER = 256  # sessions
_MAX_NAME = 200  # bytes of a folder's name; the file system's limit is 255

log = logging.getLogger(__name__)


def folder_name(instance: str) -> str:
    """The folder of an instance: percent-encoded, bounded, never hidden, `.` or `..`."""
    name = quote(instance, safe="")
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) > _MAX_NAME:
        digest = hashlib.sha256(instance.encode()).hexdigest()[:32]
        name = f"{name[: _MAX_NAME - 33]}~{digest}"
    return name


class Session:
    """One life of an instance, as its folder tells it when `Store.sessions` looked."""

    def __init__(self, path: Path, tiers: tuple[Tier, ...]) -> None:
        """Read its session.json. Raises OSError if there is none, ValueError if it is damaged."""
        try:
            document = json.loads((path / "session.json").read_bytes())
            self.header = stream.header_from_map(document["header"])
            self.end = stream.end_from_map(document["end"]) if document["end"] is not None else None
        except (KeyError, TypeError, AttributeError, RecursionError) as exc:
            raise ValueError(f"not a session's description ({exc!r})") from exc
        self.path = path
        self.key = f"{path.parent.name}/{path.name}"
        self.tiers = tiers
        self._columns: dict[int, tuple[Column, ...]] = {}
        self._slabs: dict[int, Path] = {}
        self._checked: set[int] = set()  # tiers whose slab is what it should be: its header never changes

    @property
    def instance(self) -> str:
        return self.header.instance

    @property
    def start_ms(self) -> int:
        return self.header.start_ms

    def columns(self, tier: int) -> tuple[Column, ...]:
        """What the columns of `rows(tier).values` hold."""
        if tier not in self._columns:
            self._columns[tier] = rollup.columns(self.header.series, tier)
        return self._columns[tier]

    def rows(self, tier: int = 0, after_ms: int = 0) -> Rows:
        """The rows of a tier with t_ms > after_ms, in time order, read now.

        Raises StoreError if a slab is damaged or gone (a session may expire while one looks).
        """
        # Tier 0 first: what the writer rolls up and overwrites in between is then in the coarser
        # tier when that is read.
        rows = self._read(0)
        if tier > 0:
            window_ms = self.tiers[tier].interval_ms
            if rows.t_ms.size:
                # After a gap, tier 0 may still hold single rows of windows long overwritten.
                rows = rows.between(
                    self.tiers[0].whole_since(int(rows.t_ms[-1]), window_ms) - 1, stream.MAX_T_MS + 1
                )
            roll_up = rollup.roll_up_of(self.header.series, self.tiers[0].interval_ms)
            t_ms, values = roll_up(rows.t_ms, rows.values, window_ms)
            stored = self._read(tier)
            # Where a stored row exists it is the better one: tier 0 may hold a part of its window.
            fresh = ~np.isin(t_ms // window_ms, stored.t_ms // window_ms)
            if self.end is None:
                # Where a backlog came in meanwhile, a later lap's may stand in the place of some.
                newest_ms = int(self._read(0).t_ms.max(initial=0))
                fresh &= t_ms // window_ms > newest_ms // window_ms - self.tiers[tier].slots
            t_ms = np.concatenate((stored.t_ms, t_ms[fresh]))
            values = np.concatenate((stored.values, values[fresh]))
            order = np.argsort(t_ms, kind="stable")
            # A torn tick is missing from a window that is rolled up here.
            skipped = stored.skipped + (rows.skipped if fresh.any() else 0)
            rows = Rows(t_ms[order], values[order], skipped)
        return rows.between(after_ms, stream.MAX_T_MS + 1) if after_ms else rows

    def stored(self, tier: int, after_ms: int, before_ms: int) -> tuple[Rows, bool]:
        """The rows of a tier with after_ms < t_ms < before_ms as they stand in its slab, and whether
        they are all that was ever there; only their slots are read.

        For times at which everything is written and rolled up: what the writer is at now may be
        missing. Raises StoreError as `rows` does.
        """
        with self._open(tier) as slab:
            rows, is_whole = slab.read_between(after_ms, before_ms)
        return _of_one_nan(rows), is_whole

    def stretch(self, after_ms: int, before_ms: int) -> together.Stretch | None:
        """Tier 0's slots in which rows with after_ms < t_ms < before_ms are; None if these are not few,
        or while the writer is at them. Raises StoreError as `rows` does.
        """
        interval_ms, slots = self.tiers[0]
        first = (after_ms + 1) // interval_ms
        count = -(-before_ms // interval_ms) - first
        if not 0 < count <= slots // _FEW:
            return None
        with self._open(0) as slab:
            data = slab.read_still(first % slots, count)
        return None if data is None else together.Stretch(after_ms, first, data)

    def findings(self) -> list[Finding]:
        """All that is wrong with the session's slabs: headers, rows, tiers that do not agree."""
        return check.findings(self.path, self.tiers, self.header.series, ended=self.end is not None)

    def is_gone(self) -> bool:
        """Whether the session has been removed since: its session.json goes before all else."""
        try:
            (self.path / "session.json").stat()
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            pass  # it may be there; what keeps us from looking is another's to tell
        return False

    def bytes_on_disk(self) -> int:
        """What the session's files take, holes not counted."""
        return sum(file.stat().st_blocks * 512 for file in self.path.iterdir())

    def _slab(self, tier: int) -> Path:
        if tier not in self._slabs:
            self._slabs[tier] = self.path / f"tier_{tier}.slab"
        return self._slabs[tier]

    @contextmanager
    def _open(self, tier: int) -> Iterator[Slab]:
        path, expected = self._slab(tier), (*self.tiers[tier], len(self.columns(tier)))
        try:
            with Slab.open(path, known_as=expected if tier in self._checked else None) as slab:
                if (slab.interval_ms, slab.slots, slab.columns) != expected:
                    raise StoreError(f"{path}: the slab does not fit the store's tiers and series")
                self._checked.add(tier)
                yield slab
        except OSError as exc:
            raise StoreError(f"{path}: {exc.strerror}", exit_code=EX_UNAVAILABLE) from exc

    def _read(self, tier: int) -> Rows:
        with self._open(tier) as slab:
            return _of_one_nan(slab.read())


class Store:
    """A store's folder, open for reading. Raises StoreError if there is none, or of another format.

    `unread` are the paths that the last look at its sessions could not read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.tiers = read_store_json(self.path)
        self.unread: set[str] = set()
        self._known: dict[str, tuple[tuple[int, int], Session]] = {}

    def sessions(self) -> list[Session]:
        """All sessions there are now, by instance and start.

        A session whose session.json cannot be read is logged, once, and left out.
        """
        known, self._known = self._known, {}
        unread_before, self.unread = self.unread, set()

        def leave_out(file: str, exc: Exception) -> None:
            self.unread.add(file)
            if file not in unread_before:
                _say_why_not(file, exc)

        for folder in folders_of_sessions(self.path, leave_out):
            file = f"{folder}/session.json"
            try:
                status = os.stat(file)  # noqa: PTH116  (a thousand of them at every push)
                # Each version is a new file, so its inode and time tell whether it was read before.
                version = (status.st_ino, status.st_mtime_ns)
                if folder in known and known[folder][0] == version:
                    self._known[folder] = known[folder]
                else:
                    self._known[folder] = (version, Session(Path(folder), self.tiers))
            except (FileNotFoundError, NotADirectoryError):
                continue  # it was removed meanwhile, or never was a session
            except (OSError, ValueError) as exc:
                leave_out(file, exc)
        return sorted(
            (session for _, session in self._known.values()),
            key=lambda session: (session.instance, session.start_ms, session.key),
        )

    def each_session(self) -> Iterator[Session]:
        """All sessions, in no order, each as it is when its turn comes; none is kept, however many there are.

        A session whose session.json cannot be read is logged and left out.
        """
        for folder in folders_of_sessions(self.path, _say_why_not):
            try:
                session = Session(Path(folder), self.tiers)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (OSError, ValueError) as exc:
                _say_why_not(f"{folder}/session.json", exc)
            else:
                yield session

    def new_rows(self, after_ms: Mapping[Session, int], before_ms: int) -> dict[Session, Rows]:
        """Tier 0's rows before `before_ms` of sessions, for each those later than its time in `after_ms`.

        Many are read together. A session that is missing here has to be asked itself: it has nothing
        new, or much, or something about it is out of the ordinary.
        """
        alike: dict[int, list[tuple[Session, together.Stretch]]] = {}  # by the number of their columns
        for session, time_ms in after_ms.items():
            try:
                stretch = session.stretch(time_ms, before_ms)
            except StoreError:
                continue
            if stretch is not None:
                alike.setdefault(len(session.header.series), []).append((session, stretch))
        found: dict[Session, Rows] = {}
        for columns, pairs in alike.items():
            for at in range(0, len(pairs), _TOGETHER):
                sessions, stretches = zip(*pairs[at : at + _TOGETHER], strict=True)
                rows_of_each = together.rows_of(stretches, self.tiers[0], columns)
                pairs_found = zip(sessions, rows_of_each, strict=True)
                found.update({one: rows for one, rows in pairs_found if rows is not None and rows.t_ms.size})
        return found


def folders_of_sessions(store: Path, failed: Callable[[str, OSError], None]) -> Iterator[str]:
    """The folders of a store in which there may be a session; `failed` hears of those that cannot be read."""
    instances = f"{store}/instances"
    for name in _names(instances, failed):
        for start in _names(f"{instances}/{name}", failed):
            yield f"{instances}/{name}/{start}"


def _say_why_not(file: str, exc: Exception) -> None:
    log.warning("%s: left out, it cannot be read: %s", file, exc)


def _names(folder: str, failed: Callable[[str, OSError], None]) -> list[str]:
    """What is in a folder; it may go while we look, or be none."""
    try:
        return os.listdir(folder)  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as exc:
        failed(folder, exc)
        return []


def _of_one_nan(rows: Rows) -> Rows:
    """A tick may carry any payload; readers see one."""
    np.copyto(rows.values, np.nan, where=np.isnan(rows.values))
    return rows


def read_store_json(path: Path) -> tuple[Tier, ...]:
    """The tiers of the store at `path`. Raises StoreError."""
    file = path / "store.json"
    try:
        document = json.loads(file.read_bytes())
        version = document["rondo_store"]
        if version != FORMAT_VERSION:
            raise StoreError(f"{file}: store format {version!r}; this rondo reads format {FORMAT_VERSION}")
        return parse_tiers(document["tiers"])
    except FileNotFoundError:
        raise StoreError(f"{path}: no store there (no store.json)", exit_code=EX_UNAVAILABLE) from None
    except OSError as exc:
        raise StoreError(f"{file}: {exc.strerror}", exit_code=EX_UNAVAILABLE) from exc
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UsageError) as exc:
        raise StoreError(f"{file}: not a store's description ({exc})") from exc
