"""Reads a store, also while it is written: the base of rondo-push and rondo-query.

Strategy: nothing is locked and nothing is written. `Store.sessions` takes a snapshot of the files; its
sessions read from that snapshot, and only what is asked for. The sessions are found in the descriptions of
ended ones, in the carry of the last roll-up, and in the journals since; `session_rows` reads their rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rondo_tools.selector import Selector, rest_of
from rondo_tools.store import bulk
from rondo_tools.store.arrivals import Arrival, Arrivals, Ending, News
from rondo_tools.store.bulk import Piece, Question, TooMuchError, Wanted
from rondo_tools.store.carry import Carry, LiveSession
from rondo_tools.store.format.cursor import Position
from rondo_tools.store.format.opened import read_store_json
from rondo_tools.store.format.records import Labels, SessionKey, SessionRecord, key_of
from rondo_tools.store.format.schema import Column
from rondo_tools.store.format.state import Eviction
from rondo_tools.store.format.tiers import Tier
from rondo_tools.store.session import Session
from rondo_tools.store.session_rows import Part, Rows
from rondo_tools.store.snapshot import Files, Snapshot

if TYPE_CHECKING:
    from rondo_tools.store.check import Checker

__all__ = [
    "Arrival", "Column", "Ending", "Eviction", "News", "Part", "Piece", "Question", "Rows", "Session",
    "Store", "Tier", "TooMuchError", "Wanted",
]  # fmt: skip

_NEVER = 1 << 62  # ms
_MISSING = "is missing, though state.json names it"


class Store:
    """A store's folder, open for reading. Raises StoreError if there is none, or of another format."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        store_json = read_store_json(self.path)
        self.store_id, self.tiers = store_json.store_id, store_json.tiers
        self._files = Files(self.path, len(self.tiers))
        self._snapshot: Snapshot | None = None
        self._arrivals = Arrivals()

    @property
    def evictions(self) -> list[Eviction]:
        """The evicted files, as of the last look at the store; the oldest first."""
        return list((self._snapshot or self._look()).state.evictions)

    @property
    def unread(self) -> dict[Path, str]:
        """The files that the last look could not read, and why."""
        missing = {} if self._snapshot is None else dict.fromkeys(self._snapshot.missing, _MISSING)
        return self._files.unread | missing

    def damaged(self) -> Iterator[tuple[Path, int, str]]:
        """The damage found so far in the files of the last look: file, byte, error.

        Only the parts of files that were asked for have been read.
        """
        for view in self._files.views():
            if view.file.damage.bytes:
                yield view.path, view.file.damage.first_at, f"{view.file.damage.bytes} bytes are damaged"
            for at, what in view.bad.items():
                yield view.path, at, what

    def oldest_after(
        self, begin: Position | None, end: Position | None, done_ms: int, selector: Selector
    ) -> tuple[int, str] | None:
        """The time of the oldest tick in the journals from a position on, and its instance.

        Up to `end`, ticks not later than `done_ms` are dealt with. `begin` None is the oldest journal.
        Sessions that the selector cannot match are left out. Raises StoreError.
        """

        def is_wanted(record: SessionRecord) -> bool:
            return rest_of(selector, record.instance, record.labels) is not None

        found = []
        for number, view in self._look().journals.items():
            if begin is not None and number < begin.number:
                continue
            if not view.is_read:
                view.update()
            at = done_at = 0
            if begin is not None and number == begin.number:
                at = begin.offset
                if (
                    view.file.header.file_id != begin.file_id
                ):  # another history: ticks not later than `done_ms` were delivered before it
                    at, done_at = 0, _NEVER
            if end is not None and number <= end.number:
                done_at = max(done_at, end.offset if number == end.number else _NEVER)
            one = view.oldest(at, done_at, done_ms, is_wanted)
            if one is not None:
                found.append((one[0], one[1].instance))
        return min(found, default=None)

    def checker(self) -> Checker:
        """Checks the store."""
        from rondo_tools.store.check import Checker

        return Checker(self.path)

    def dump(self, write: Callable[[bytes], object], keys: Collection[SessionKey] | None = None) -> None:
        """Write a dump of the store, or of the sessions in `keys`, with `write`.

        Unreadable data is logged and left out. Raises as `write` does.
        """
        from rondo_tools.store.dump import read_cursors, write_dump

        cursors = {} if keys is not None else read_cursors(self.path)
        write_dump(self._look(), self.store_id, self.tiers, cursors, keys, write)

    def sessions(self, *, instance: str | None = None, since_ms: int = 0) -> list[Session]:
        """The present sessions, by instance and start: all, or those of an instance; with `since_ms` those
        whose last tick was then or later, and those that have not ended.

        Unreadable data is logged and left out.
        """
        return _sorted(self.each_session(instance=instance, since_ms=since_ms))

    def each_session(self, *, instance: str | None = None, since_ms: int = 0) -> Iterator[Session]:
        """The same in no order."""
        for session in self._each(self._look(), instance, since_ms):
            if not since_ms or (session.last_ms or session.start_ms) >= since_ms or session.end is None:
                yield session

    def read(self, wanted: Sequence[Wanted], question: Question) -> list[list[Piece]]:
        """Rows of many sessions of the last look: see `bulk.read`. Raises StoreError, TooMuchError."""
        return bulk.read(self._snapshot or self._look(), self.tiers, wanted, question)

    def recent(self, since_ms: int | None = None) -> list[Session]:
        """The sessions that have not ended, and some that ended lately; `arrivals` and `news` continue from
        here, or from the first tick since `since_ms` that is still in a journal."""
        snapshot = self._look()
        self._arrivals.skip(snapshot, since_ms)
        return _sorted(self._each(snapshot, None, _NEVER))

    def arrivals(self) -> tuple[list[Arrival], list[Ending]]:
        """The new ticks and ends since `recent`, or since the last call."""
        return self._arrivals.take(self._look())

    def history(self, tier: int, since_ms: int) -> tuple[list[Session], Iterator[News]]:
        """The sessions of `sessions(since_ms=since_ms)`, and the rows of a coarse tier since then, as news;
        `news` continues with the ticks that are not rolled up yet. Ticks in open windows of the carry are in
        neither; counters need none of them, as they continue from the row before.
        """
        snapshot = self._look()
        self._arrivals.skip_rolled_up(snapshot)
        found = [
            session
            for session in self._each(snapshot, None, since_ms)
            if (session.last_ms or session.start_ms) >= since_ms or session.end is None
        ]
        files = (
            News(view.records(), list(view.all_rows(tier, since_ms - 1)), [])
            for _, view in sorted(snapshot.tiers[tier].items())
        )
        return _sorted(found), files

    def news(self) -> Iterator[News]:
        """The same, journal by journal: many sessions at once."""
        return self._arrivals.news(self._look())

    def _each(self, snapshot: Snapshot, instance: str | None, since_ms: int) -> Iterator[Session]:
        """All sessions of `snapshot`, except those rolled up as ended before `since_ms`."""
        live = {one.key: (number, one) for number, one in _live(snapshot.carry, instance)}
        fresh = {
            key
            for journal in snapshot.not_rolled_up
            for key in journal.records
            if instance is None or key[0] == instance
        }
        keys = [key_of(*key) for key in live.keys() | fresh] if since_ms else []
        found: dict[SessionKey, Session] = {}
        for ended in snapshot.ended.values():
            for entry in ended.descriptions(instance, since_ms, keys):
                key = entry[0], entry[1]
                session = found.get(key)
                if session is None:
                    session = found[key] = Session(snapshot, self.tiers, key, entry[2], entry[3])
                session.take_description(entry)
        for key, (number, one) in live.items():
            session = found.get(key) or self._session(found, snapshot, key, one.interval_ms, one.labels)
            session.take_live(number, one)
        for journal in snapshot.not_rolled_up:
            for key, tally in journal.tallies(None if instance is None else fresh):
                record = journal.records[key]
                session = found.get(key) or self._session(
                    found, snapshot, key, record.interval_ms, record.labels
                )
                session.take_tally(tally, journal.ends.get(record.number, ()))
        yield from found.values()

    def _session(
        self,
        found: dict[SessionKey, Session],
        snapshot: Snapshot,
        key: SessionKey,
        interval_ms: int,
        labels: Labels,
    ) -> Session:
        session = found[key] = Session(snapshot, self.tiers, key, interval_ms, labels)
        return session

    def _look(self) -> Snapshot:
        self._snapshot = self._files.look()
        return self._snapshot


def _sorted(sessions: Iterable[Session]) -> list[Session]:
    return sorted(sessions, key=lambda session: session.key)


def _live(carry: Carry, instance: str | None) -> Iterable[tuple[int, LiveSession]]:
    """The sessions in the carry, of an instance or all, and their numbers in it."""
    if instance is None:
        return carry.sessions.items()
    numbers = [number for number, (name, _) in enumerate(carry.names) if name == instance]
    some = Carry([carry.names[number] for number in numbers], carry.live[numbers], carry.schemas)
    return zip(numbers, some.sessions.values(), strict=True)
