"""A session as readers find it: what is known of it without reading rows, and its rows when asked for.

Strategy: `Store` tells it what each file has of it, from the oldest news to the newest. Its schema is
looked for when somebody wants its header: it may be far to seek, and a list does not need it.
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
        if self._told is not None:
            reason, t_ms, _, last_ms = self._told[4:8]
            if reason != LOST or (not self._ends and last_ms >= self.last_ms):
                return stream.End(reason, t_ms)
        found = None
        for one in self._ends:
            if one.reason != LOST:
                return stream.End(one.reason, one.t_ms)
            if one.last_ms >= self.last_ms:
                found = stream.End(one.reason, one.t_ms)
        if found is None and self._told is not None and self._told[7] >= self.last_ms:
            found = stream.End(*self._told[4:6])
        return found

    @property
    def reason(self) -> str | None:
        """How it ended, in a word; None while it has not."""
        told = self._told
        if told is not None and (told[4] != LOST or (told[7] >= self.last_ms and not self._ends)):
            reason: str = told[4]
            return reason
        return None if (end := self.end) is None else end.reason

    @property
    def series(self) -> int:
        """How many series it has."""
        if self._told is not None and self.ticks == self._told[8]:
            return int(self._told[9])
        return len(self.header.series)

    def columns(self, tier: int) -> tuple[Column, ...]:
        """What the columns of `rows(tier).values` hold."""
        return schema_of(self.header.series).columns(tier)

    def rows(self, tier: int = 0, after_ms: int = 0) -> Rows:
        """The rows of a tier with t_ms > after_ms, in time order.

        Raises StoreError if a file cannot be read any more.
        """
        schema = schema_of(self.header.series)
        if tier == 0:
            found = session_rows.ticks(self._snapshot, self._identity, self.description, after_ms)
            return found.whole(schema, 0, 1)
        return self.coarse(tier, after_ms).whole(schema, tier, self.tiers[tier].interval_ms)

    def coarse(self, tier: int, after_ms: int = 0) -> session_rows.Parts:
        """The rows of a coarse tier as they were written, those of open windows last. Raises StoreError."""
        interval_ms = self.tiers[tier].interval_ms
        return session_rows.coarse(
            self._snapshot, self._identity, self.description, self._number, tier, interval_ms, after_ms
        )

    def runs(self, after_ms: int = 0) -> Iterator[Part]:
        """The ticks with t_ms > after_ms as they came, in time order, a part for each stretch of one
        header's series.

        Raises StoreError as `rows` does.
        """
        return session_rows.ticks(self._snapshot, self._identity, self.description, after_ms).runs()

    def whole_since_ms(self, rows: Rows) -> int:
        """From which time on `rows`, which are all of tier 0, lack none of its ticks."""
        held = rows.t_ms.size
        if held == self.ticks or not held:
            return self.first_ms
        if self._told is not None and self.ticks > self._told[8]:
            # It came back. The last ticks of before may still be there, and later ones be gone.
            before = int(rows.t_ms.searchsorted(self._told[7], "right"))
            if held - before < self.ticks - self._told[8]:
                return int(rows.t_ms[before]) if before < held else self.last_ms + 1
        return int(rows.t_ms[0])

    def with_labels(self, labels: Mapping[str, str]) -> Session:
        """The same with other labels. Raises ValueError if they cannot be."""
        other = copy(self)
        header = self.header._replace(labels=tuple(sorted(labels.items())))
        other._header = stream.header_from_map(stream.header_to_map(header))
        other._labels = other._header.labels
        return other

    @property
    def description(self) -> Description | None:
        """Its entry in `ended`, if it has one."""
        return None if self._told is None else description_of(self._told)

    @property
    def _identity(self) -> SessionKey:
        return self.instance, self.start_ms

    def _schema(self) -> Schema:
        snapshot = self._snapshot
        found: dict[Schema, None] = {}  # in the order in which they came
        if self._told is not None:
            for file, offset, *_ in self._told[10]:
                view = snapshot.last_rows.get(file)
                schema = None if view is None else view.schema_at(offset)
                if schema is not None:
                    found[schema] = None
            if not found or union(list(found)).width < self._told[9]:
                found = dict.fromkeys([*self._coarse_schemas(), *found])
        if self._live is not None:
            found[self._live.schema] = None
        for journal in snapshot.not_rolled_up:
            found.update(dict.fromkeys(journal.schemas_of(self._identity)))
        return union(list(found)) if found else schema_of(())

    def _coarse_schemas(self) -> list[Schema]:
        """What it had earlier than its last rows, by its rows in the coarse tiers."""
        views = [(tier, view) for tier, some in self._snapshot.tiers.items() for view in some.values()]
        return schemas_in(views, self._identity)

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
