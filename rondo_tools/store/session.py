"""A session as readers find it: its facts that need no rows, and its rows on request.

Strategy: `Store` gives it the entries of each file, from the oldest to the newest. Its schema is searched
only for its header: that may be slow, and a list of sessions does not need it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from typing import Any

from rondo_tools import stream
from rondo_tools.store import session_rows
from rondo_tools.store.carry import LiveSession
from rondo_tools.store.derived_view import schemas_in
from rondo_tools.store.format.records import LOST, Description, EndRecord, Labels, SessionKey, description_of
from rondo_tools.store.format.schema import Column, Schema, schema_of, union
from rondo_tools.store.format.tiers import Tier
from rondo_tools.store.journal_view import Tally
from rondo_tools.store.session_rows import Part, Rows
from rondo_tools.store.snapshot import Snapshot

# The places of a description's fields in `Session._entry`.
_REASON, _END_MS, _FIRST_MS, _LAST_MS, _TICKS, _SERIES, _PLACES = range(4, len(Description._fields))


class Session:
    """One life of an instance in the snapshot of `Store.sessions`.

    `first_ms` and `last_ms` are the times of its oldest and newest tick ever, 0 if it had none; `ticks`
    is their number.
    """

    __slots__ = (
        "_ends", "_entry", "_header", "_labels", "_live", "_number", "_snapshot", "first_ms",
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
        self._entry: tuple[Any, ...] | None = None  # its description, not decoded
        self._live: LiveSession | None = None
        self._number: int | None = None  # in the carry
        self._ends: tuple[EndRecord, ...] = ()
        self._header: stream.Header | None = None

    @property
    def labels(self) -> Labels:
        """(name, value) pairs by name, beyond instance and job."""
        return tuple(sorted(dict(self._labels).items()))

    @property
    def key(self) -> SessionKey:
        return self.instance, self.start_ms

    @property
    def header(self) -> stream.Header:
        """As the producer sent it; its series are the union of those of all its headers."""
        if self._header is None:
            series = self._schema().series
            self._header = stream.Header(self.instance, self.start_ms, self.labels, self.interval_ms, series)
        return self._header

    @property
    def end(self) -> stream.End | None:
        """Its end; None if there is none. A row later than an end `lost`, in any file, undoes it."""
        found, entry = None, self._entry
        if entry is not None and (entry[_REASON] != LOST or entry[_LAST_MS] >= self.last_ms):
            found = stream.End(entry[_REASON], entry[_END_MS])
            if found.reason != LOST:
                return found
        for one in self._ends:
            if one.reason != LOST or one.last_ms >= self.last_ms:
                found = stream.End(one.reason, one.t_ms)
                if found.reason != LOST:
                    break
        return found

    @property
    def reason(self) -> str | None:
        """The reason of its end; None if there is none."""
        return None if (end := self.end) is None else end.reason

    @property
    def series(self) -> int:
        """The number of its series."""
        if self._entry is not None and self.ticks == self._entry[_TICKS]:
            return int(self._entry[_SERIES])
        return len(self.header.series)

    def columns(self, tier: int) -> tuple[Column, ...]:
        """The columns of `rows(tier).values`."""
        return schema_of(self.header.series).columns(tier)

    def rows(self, tier: int = 0, after_ms: int = 0) -> Rows:
        """The rows of a tier with t_ms > after_ms, in time order.

        Raises StoreError if a file cannot be read any more.
        """
        schema = schema_of(self.header.series)
        if tier == 0:
            found = session_rows.ticks(self._snapshot, self.key, self.description, after_ms)
            return found.whole(schema, 0, 1)
        return self.coarse(tier, after_ms).whole(schema, tier, self.tiers[tier].interval_ms)

    def coarse(self, tier: int, after_ms: int = 0) -> session_rows.Parts:
        """The rows of a coarse tier as they were written, those of open windows last. Raises StoreError."""
        interval_ms = self.tiers[tier].interval_ms
        return session_rows.coarse(
            self._snapshot, self.key, self.description, self._number, tier, interval_ms, after_ms
        )

    def runs(self, after_ms: int = 0) -> Iterator[Part]:
        """The ticks with t_ms > after_ms, in time order, in parts with the series of one header.

        Raises StoreError as `rows` does.
        """
        return session_rows.ticks(self._snapshot, self.key, self.description, after_ms).runs()

    def whole_since_ms(self, rows: Rows) -> int:
        """The time from which on `rows`, all rows of tier 0, have every tick."""
        held = rows.t_ms.size
        if held == self.ticks or not held:
            return self.first_ms
        if self._entry is not None and self.ticks > self._entry[_TICKS]:
            # It came back. Its last ticks before that may still be there while later ones are gone.
            before = int(rows.t_ms.searchsorted(self._entry[_LAST_MS], "right"))
            if held - before < self.ticks - self._entry[_TICKS]:
                return int(rows.t_ms[before]) if before < held else self.last_ms + 1
        return int(rows.t_ms[0])

    def with_labels(self, labels: Mapping[str, str]) -> Session:
        """The same session with other labels. Raises ValueError if they are invalid."""
        other = copy(self)
        header = self.header._replace(labels=tuple(sorted(labels.items())))
        other._header = stream.header_from_map(stream.header_to_map(header))
        other._labels = other._header.labels
        return other

    @property
    def description(self) -> Description | None:
        """Its entry in `ended`, if it has one."""
        return None if self._entry is None else description_of(self._entry)

    def _schema(self) -> Schema:
        snapshot = self._snapshot
        found: dict[Schema, None] = {}  # in order of arrival
        if self._entry is not None:
            for file, offset, *_ in self._entry[_PLACES]:
                view = snapshot.last_rows.get(file)
                schema = None if view is None else view.schema_at(offset)
                if schema is not None:
                    found[schema] = None
            if not found or union(list(found)).width < self._entry[_SERIES]:
                found = dict.fromkeys([*self._coarse_schemas(), *found])
        if self._live is not None:
            found[self._live.schema] = None
        for journal in snapshot.not_rolled_up:
            found.update(dict.fromkeys(journal.schemas_of(self.key)))
        return union(list(found)) if found else schema_of(())

    def _coarse_schemas(self) -> list[Schema]:
        """The schemas of its rows in the coarse tiers, which may be older than its last rows."""
        views = [(tier, view) for tier, some in self._snapshot.tiers.items() for view in some.values()]
        return schemas_in(views, self.key)

    # `Store` calls these with the entries of each file, from the oldest to the newest.

    def take_description(self, entry: tuple[Any, ...]) -> None:
        """Take its entry in `ended`; the newest is valid."""
        self._entry = entry
        self.first_ms, self.last_ms, self.ticks = entry[_FIRST_MS], entry[_LAST_MS], entry[_TICKS]

    def take_live(self, number: int, live: LiveSession) -> None:
        """Take its state in the carry, where it has this number."""
        self._number, self._live = number, live
        self.first_ms, self.last_ms, self.ticks = live.first_ms, live.last_ms, live.ticks

    def take_tally(self, tally: Tally, ends: Iterable[EndRecord]) -> None:
        """Take its ticks and ends in a journal that is not rolled up."""
        if tally.ticks:
            self.first_ms = min(self.first_ms or tally.first_ms, tally.first_ms)
            self.last_ms = max(self.last_ms, tally.last_ms)
            self.ticks += tally.ticks
        self._ends += tuple(ends)
