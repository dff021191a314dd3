"""The live sessions, by slot, while a journal is rolled up.

Strategy: it begins with the carry; a session that the journal declares gets the next slot. Sums over ticks
are arrays by slot, so a piece of a journal takes a few array operations, and Python code of its own runs for
a session only at its begin. `keep` makes the next carry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from rondo_tools.store.carry import LIVE, Carry, Live, OpenFile
from rondo_tools.store.format.records import Description, Labels, SessionKey, SessionRecord
from rondo_tools.store.format.rollup import Groups, Ints
from rondo_tools.store.format.schema import Schema, union

Find = Callable[[str, int], Description | None]

_NEVER = np.iinfo(np.int64).max


class Slots:
    """`find` gives the newest description of an ended session.

    `ticks`, `first_ms`, `last_ms` are of journal `number`, by slot. `live` has the columns of LIVE, as of
    the journal before until `advance`. `back` has the sessions that came back and have no tick yet.
    """

    def __init__(self, carry: Carry, number: int, kept_ms: int, find: Find) -> None:
        self.number = number
        self.kept_ms = kept_ms
        self.find = find
        self.names: list[tuple[str, Labels]] = list(carry.names)
        self.live: Live = carry.live
        self.back: dict[int, Description] = {}
        size = carry.live.size
        self.ticks, self.last_ms = np.zeros(size, np.int64), np.zeros(size, np.int64)
        self.first_ms = np.full(size, _NEVER)
        self._schema = carry.live["schema"].astype(np.int64)
        self._schemas = list(carry.schemas)
        self._places = {schema: place for place, schema in enumerate(carry.schemas)}
        starts = carry.live["start_ms"].tolist()
        self._slot_of: dict[SessionKey, int] = {
            (instance, start_ms): slot
            for slot, ((instance, _), start_ms) in enumerate(zip(carry.names, starts, strict=True))
        }
        self._fresh: list[tuple[int, ...]] = []  # rows of LIVE for sessions that begin

    def slot_of(self, record: SessionRecord) -> int:
        """The slot of a session that the journal declares; a new one if it was not live."""
        slot = self._slot_of.get(record.key)
        if slot is not None:
            return slot
        slot = self._slot_of[record.key] = len(self.names)
        self.names.append((record.instance, record.labels))
        first_ms = last_ms = ticks = 0
        if record.last_ms and (description := self.find(*record.key)) is not None:
            first_ms, last_ms, ticks = description.first_ms, description.last_ms, description.ticks
            self.back[slot] = description
        number = self.number
        counted = first_ms, last_ms, ticks, record.before_ms, last_ms
        self._fresh.append((record.start_ms, record.interval_ms, *counted, 0, number, number, number, 0))
        return slot

    def known(self, key: SessionKey) -> int:
        """The slot of a session; -1 if it has none."""
        return self._slot_of.get(key, -1)

    def place_new(self) -> None:
        """Give the sessions that began since the last call their places in the arrays."""
        if not self._fresh:
            return
        more = len(self._fresh)
        self.live = np.concatenate((self.live, np.array(self._fresh, LIVE)))
        self._fresh = []
        none = np.zeros(more, np.int64)
        self.ticks, self.last_ms = np.concatenate((self.ticks, none)), np.concatenate((self.last_ms, none))
        self.first_ms = np.concatenate((self.first_ms, np.full(more, _NEVER)))
        self._schema = np.concatenate((self._schema, none - 1))

    def count(self, schema: Schema, slots: Ints, t_ms: Ints) -> None:
        """Count ticks; a session's times ascend, so of equal slots the last is the newest."""
        size = self.ticks.size
        self.ticks += np.bincount(slots, minlength=size)
        first_ms, last_ms = np.full(size, _NEVER), np.zeros(size, np.int64)
        first_ms[slots[::-1]] = t_ms[::-1]
        last_ms[slots] = t_ms
        np.minimum(self.first_ms, first_ms, out=self.first_ms)
        np.maximum(self.last_ms, last_ms, out=self.last_ms)
        self.has_series(np.unique(slots), schema)

    def has_series(self, slots: Ints, schema: Schema) -> None:
        """Add the series of a schema to those of some sessions."""
        before = self._schema[slots]
        for place in np.unique(before).tolist():
            whole = schema if place < 0 else union((self._schemas[place], schema))
            self._schema[slots[before == place]] = self._place(whole)

    def had(self, slot: int, schemas: Sequence[Schema]) -> None:
        """Add the earlier schemas of a session that came back; it has a tick in this journal."""
        self._schema[slot] = self._place(union((*schemas, self._schemas[int(self._schema[slot])])))

    def _place(self, schema: Schema) -> int:
        if schema not in self._places:
            self._places[schema] = len(self._schemas)
            self._schemas.append(schema)
        return self._places[schema]

    def origins(self, groups: Groups) -> Ints:
        """The journals of the windows' last ticks, which may be long before. Call it before `advance`."""
        live = self.live[groups.session]
        return np.where(groups.t_ms > live["last_ms"], self.number, live["journal"].astype(np.int64))

    def advance(self) -> None:
        """Add this journal's ticks to `live`."""
        live, has = self.live, self.ticks > 0
        before_ms = live["last_ms"].copy()
        live["ticks"] += self.ticks
        begins = has & (live["first_ms"] == 0)
        live["first_ms"][begins] = self.first_ms[begins]
        live["last_ms"] = np.maximum(live["last_ms"], self.last_ms)
        live["schema"] = np.maximum(self._schema, 0)
        live["journal"][has] = self.number
        # The last rows are in `from_journal` and later. A mark is a journal, and the session's last tick
        # before it: once that tick is old enough, all last rows are in that journal or later.
        since_ms = live["last_ms"] - self.kept_ms
        passed = has & (live["mark_ms"] <= since_ms)
        live["from_journal"][passed] = live["mark_journal"][passed]
        live["mark_journal"][passed] = self.number
        live["mark_ms"][passed] = before_ms[passed]
        live["from_journal"][has & (before_ms <= since_ms)] = self.number

    def describe(self, slots: Ints, numbers: Ints, last_ms: Ints) -> list[SessionRecord]:
        """The declarations of sessions in a derived file, with their numbers there."""
        live = self.live[slots]
        columns = slots, numbers, live["start_ms"], live["interval_ms"], last_ms, live["before_ms"]
        records = []
        for slot, number, start_ms, *rest in zip(*(column.tolist() for column in columns), strict=True):
            instance, labels = self.names[slot]
            interval_ms, last, before_ms = rest
            records.append(SessionRecord(number, instance, start_ms, interval_ms, labels, last, before_ms))
        return records

    def series(self, slot: int) -> int:
        """The number of series of a session; 0 if it had no tick."""
        if slot in self.back:
            return self.back[slot].series
        if not self.live["ticks"][slot]:
            return 0
        return self._schemas[int(self._schema[slot])].width

    def keep(
        self, over: Iterable[int], windows: list[dict[Schema, Groups]], open_files: dict[str, OpenFile]
    ) -> Carry:
        """The carry of the live sessions, in slots without gaps."""
        is_kept = self.live["ticks"] > 0  # a declaration alone leaves nothing
        is_kept[list(over)] = False
        is_kept[list(self.back)] = False  # declared again, without a tick
        kept = np.flatnonzero(is_kept)
        slot_of = np.full(is_kept.size, -1)
        slot_of[kept] = np.arange(kept.size)
        for file in open_files.values():
            more = np.zeros(max(is_kept.size - file.numbers.size, 0), np.int64)
            file.numbers = np.concatenate((file.numbers, more - 1))[kept]
            file.row_ms = np.concatenate((file.row_ms, more))[kept]
        live = self.live[kept]
        is_used = np.bincount(live["schema"], minlength=len(self._schemas)) > 0
        live["schema"] = (np.cumsum(is_used) - 1)[live["schema"]]
        return Carry(
            [self.names[slot] for slot in kept.tolist()],
            live,
            [schema for schema, used in zip(self._schemas, is_used.tolist(), strict=True) if used],
            [
                {schema: groups._replace(session=slot_of[groups.session]) for schema, groups in tier.items()}
                for tier in windows
            ],
            open_files,
        )
