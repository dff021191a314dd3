"""Reading a store, also while it is written: what rondo-push and rondo-query stand on.

Strategy: nothing is locked and nothing is written. `Store.sessions` takes a snapshot of the files;
its sessions read from that snapshot, each only what it is asked for. Which sessions there are say the
descriptions of those that are over, the carry of the last roll-up, and the journals since; their rows
come as `session_rows` has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rondo_tools import stream
from rondo_tools.errors import EX_UNAVAILABLE, StoreError
from rondo_tools.store import session_rows
from rondo_tools.store.carry import Carry, LiveSession
from rondo_tools.store.format.frames import row_dtype
from rondo_tools.store.format.layout import Layout
from rondo_tools.store.format.records import (
    LOST,
    Description,
    EndRecord,
    Labels,
    SessionKey,
    description_of,
    key_of,
)
from rondo_tools.store.format.schema import Column, Schema, schema_of, union
from rondo_tools.store.format.state import Eviction
from rondo_tools.store.format.store_json import StoreJson, parse_store_json
from rondo_tools.store.format.tiers import Tier
from rondo_tools.store.journal_view import Tally
from rondo_tools.store.session_rows import Rows
from rondo_tools.store.snapshot import Files, Snapshot

__all__ = ["Column", "Eviction", "Rows", "Session", "Store", "Tier"]


class Session:
    """One life of an instance, as `Store.sessions` found it; what it reads is of that moment.

    `first_ms` and `last_ms` are the times of its oldest and newest tick ever, 0 if it had none; `ticks`
    is how many there were.
    """

    __slots__ = (
        "_ends", "_header", "_labels", "_live", "_number", "_snapshot", "_told", "first_ms",
        "instance", "interval_ms", "last_ms", "start_ms", "ticks", "tiers",
    )  # fmt: skip

    def __init__(
        self,
        snapshot: Snapshot,
        tiers: tuple[Tier, ...],
        key: SessionKey,
        interval_ms: int,
        labels: Mapping[str, str] | Labels,
    ) -> None:
        self._snapshot = snapshot
        self.tiers = tiers
        self.instance, self.start_ms = key
        self.interval_ms = interval_ms
        self._labels = labels
        self.first_ms = self.last_ms = self.ticks = 0
        self._told: tuple[Any, ...] | None = None  # its description, not decoded
        self._live: LiveSession | None = None
        self._number: int | None = None  # in the carry
        self._ends: tuple[EndRecord, ...] = ()
        self._header: stream.Header | None = None

    @property
    def labels(self) -> Labels:
        """(name, value) pairs by name, beyond instance and job."""
        return tuple(sorted(dict(self._labels).items()))

    @property
    def key(self) -> str:
        """Names it among all sessions of the store."""
        return f"{self.instance}/{self.start_ms}"

    @property
    def header(self) -> stream.Header:
        """As the producer sent it; its series are the union of those of all its headers."""
        if self._header is None:
            series = self._schema().series
            self._header = stream.Header(self.instance, self.start_ms, self.labels, self.interval_ms, series)
        return self._header

    @property
    def end(self) -> stream.End | None:
        """How it ended; None while it has not. A row later than an end `lost` undoes it, wherever it is."""
        ends = [(one.reason, one.t_ms, one.last_ms) for one in self._ends] if self._ends else []
        if self._told is not None:
            ends.insert(0, (self._told[4], self._told[5], self._told[7]))
        found = None
        for reason, t_ms, last_ms in ends:
            if reason != LOST:
                return stream.End(reason, t_ms)
            if last_ms >= self.last_ms:
                found = stream.End(reason, t_ms)
        return found

    @property
    def series(self) -> int:
        """How many series it has."""
        if self._told is not None and self.ticks == self._told[8]:
            return int(self._told[9])
        return len(self.header.series)

    @property
    def bytes(self) -> int:
        """What its ticks take, or took, in the journals."""
        return self.ticks * row_dtype(self.series).itemsize

    def columns(self, tier: int) -> tuple[Column, ...]:
        """What the columns of `rows(tier).values` hold."""
        return schema_of(self.header.series).columns(tier)

    def rows(self, tier: int = 0, after_ms: int = 0) -> Rows:
        """The rows of a tier with t_ms > after_ms, in time order.

        Raises StoreError if a file cannot be read any more.
        """
        schema = schema_of(self.header.series)
        if tier == 0:
            found = session_rows.ticks(self._snapshot, self._identity, self._description, after_ms)
            return found.whole(schema, 0, 1)
        interval_ms = self.tiers[tier].interval_ms
        found = session_rows.coarse(
            self._snapshot, self._identity, self._description, self._number, tier, interval_ms, after_ms
        )
        return found.whole(schema, tier, interval_ms)

    @property
    def _description(self) -> Description | None:
        return None if self._told is None else description_of(self._told)

    @property
    def _identity(self) -> SessionKey:
        return self.instance, self.start_ms

    def _schema(self) -> Schema:
        snapshot = self._snapshot
        found: dict[Schema, None] = {}  # in the order in which they came
        if self._live is not None:
            found[self._live.schema] = None
        elif self._told is not None:
            for file, offset, *_ in self._told[10]:
                view = snapshot.last_rows.get(file)
                schema = None if view is None else view.schema_at(offset)
                if schema is not None:
                    found[schema] = None
            if not found or union(list(found)).width < self._told[9]:
                found = dict.fromkeys([*self._coarse_schemas(), *found])
        for journal in snapshot.not_rolled_up:
            found.update(dict.fromkeys(journal.schemas_of(self._identity)))
        return union(list(found)) if found else schema_of(())

    def _coarse_schemas(self) -> Iterator[Schema]:
        """What it had earlier than its last rows, by its rows in the coarse tiers."""
        for tier, views in self._snapshot.tiers.items():
            for view in views.values():
                parts, _ = view.rows_of(self._identity, tier)
                yield from (schema for schema, _ in parts)

    # What `Store` tells a session that it finds, from the oldest news to the newest.

    def take_description(self, told: tuple[Any, ...]) -> None:
        """An entry in `ended`; the newest stands."""
        self._told = told
        self.first_ms, self.last_ms, self.ticks = told[6:9]

    def take_live(self, number: int, live: LiveSession) -> None:
        """It was live at the last roll-up, and has this number in the carry."""
        self._number, self._live = number, live
        self.first_ms, self.last_ms, self.ticks = live.first_ms, live.last_ms, live.ticks

    def take_tally(self, tally: Tally, ends: Iterable[EndRecord]) -> None:
        """What a journal that is not rolled up has of it."""
        if tally.ticks:
            self.first_ms = min(self.first_ms or tally.first_ms, tally.first_ms)
            self.last_ms = max(self.last_ms, tally.last_ms)
            self.ticks += tally.ticks
        self._ends += tuple(ends)


class Store:
    """A store's folder, open for reading. Raises StoreError if there is none, or of another format."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.tiers = read_store_json(self.path).tiers
        self._files = Files(self.path, len(self.tiers))
        self._evictions: list[Eviction] | None = None

    @property
    def evictions(self) -> list[Eviction]:
        """What had to go for want of room, as of the last look at the sessions; the oldest first."""
        if self._evictions is None:
            self._look()
        return list(self._evictions or ())

    def sessions(self, *, instance: str | None = None, since_ms: int = 0) -> list[Session]:
        """The sessions that there are now, by instance and start: all, or those of an instance, or those
        whose last tick was at or after `since_ms`.

        What cannot be read is logged and left out.
        """
        found = {
            (one.instance, one.start_ms): one
            for one in self.each_session(instance=instance, since_ms=since_ms)
        }
        return [found[key] for key in sorted(found)]

    def each_session(self, *, instance: str | None = None, since_ms: int = 0) -> Iterator[Session]:
        """The same in no order."""
        snapshot = self._look()
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
            for told in ended.descriptions(instance, since_ms, keys):
                key = told[0], told[1]
                session = found.get(key)
                if session is None:
                    session = found[key] = Session(snapshot, self.tiers, key, told[2], told[3])
                session.take_description(told)
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
        for session in found.values():
            if (session.last_ms or session.start_ms) >= since_ms:
                yield session

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
        snapshot = self._files.look()
        self._evictions = snapshot.state.evictions
        return snapshot


def _live(carry: Carry, instance: str | None) -> Iterable[tuple[int, LiveSession]]:
    """The sessions in the carry, of an instance or all, and their numbers in it."""
    if instance is None:
        return carry.sessions.items()
    numbers = [number for number, (name, _) in enumerate(carry.names) if name == instance]
    some = Carry([carry.names[number] for number in numbers], carry.live[numbers], carry.schemas)
    return zip(numbers, some.sessions.values(), strict=True)


def read_store_json(path: Path) -> StoreJson:
    """What describes the store at `path`. Raises StoreError."""
    file = Layout(path).store_json
    try:
        return parse_store_json(file.read_bytes())
    except FileNotFoundError:
        raise StoreError(f"{path}: no store there (no store.json)", exit_code=EX_UNAVAILABLE) from None
    except OSError as exc:
        raise StoreError(f"{file}: {exc.strerror}", exit_code=EX_UNAVAILABLE) from exc
    except StoreError as exc:
        raise StoreError(f"{file}: {exc}") from exc
