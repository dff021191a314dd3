"""The sessions of a restore: the data of each in the store, and the later data in the dump.

Strategy: a session is looked up when the dump names it first, before its data is taken; it gets a slot for
its first new data. The dump's carry and descriptions come before all rows, so it is known by then whether
the session will be live, with the state in the dump's carry, or ended, with the dump's description.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rondo_tools.store.carry import Carry
from rondo_tools.store.dump_parts import Part
from rondo_tools.store.ended import Places
from rondo_tools.store.format.frames import Rows
from rondo_tools.store.format.records import (
    LOST,
    Description,
    EndRecord,
    Labels,
    Place,
    SessionKey,
    SessionRecord,
    key_of,
)
from rondo_tools.store.format.rollup import Groups, Ints
from rondo_tools.store.format.schema import Schema
from rondo_tools.store.slots import Slots

_UNKNOWN, _LIVE, _LOST, _ENDED = -1, 0, 1, 2


@dataclass(slots=True)
class Known:
    """The store's data of a session: anything later than (`last_ms`, `rank`) is new.

    For a session that was restored only in part, coarse rows are new if they are later than `rows_ms`, and
    ticks of rolled-up journals if they are later than `ticks_ms`.
    """

    last_ms: int = 0
    rank: int = _UNKNOWN
    rows_ms: int = 0
    ticks_ms: int = 0
    is_incomplete: bool = False
    first_ms: int = 0
    ticks: int = 0
    series: int = 0
    slot: int = -1
    is_new: bool = False  # new data of it was taken

    @property
    def coarse_ms(self) -> int:
        """Later coarse rows are new; the last window of a live session has no row yet."""
        return self.rows_ms - (self.rank == _LIVE)


class RestoredSessions:
    """`slots` are the store's slots, and those of sessions with new data.

    `find` gives the description of an ended session. `incomplete` has the sessions that were restored only
    in part, by `key_of`: the last tick before the restore, and the last one in journals. `live` has the
    place in the dump's carry of each session that it makes live, by slot; `described` has new descriptions.
    """

    def __init__(
        self,
        slots: Slots,
        find: Callable[[str, int], Description | None],
        incomplete: dict[int, tuple[int, int]],
    ) -> None:
        self.slots = slots
        self.carry = Carry()
        self.live: dict[int, int] = {}
        self.described: dict[int, Description] = {}
        self.passed_over = 0  # rows and descriptions
        self._find, self._incomplete = find, incomplete
        self._known: dict[SessionKey, Known] = {}

    def known(self, key: SessionKey) -> Known:
        known = self._known.get(key)
        if known is not None:
            return known
        known = self._known[key] = Known(slot=self.slots.known(key))
        if known.slot >= 0:
            live = self.slots.live[known.slot]
            known.last_ms, known.rank = int(live["last_ms"]), _LIVE
            known.first_ms, known.ticks = int(live["first_ms"]), int(live["ticks"])
        elif (found := self._find(*key)) is not None:
            known.last_ms, known.rank = found.last_ms, _rank(found.reason)
            known.first_ms, known.ticks, known.series = found.first_ms, found.ticks, found.series
        known.rows_ms = known.ticks_ms = known.last_ms
        if (hashed := key_of(*key)) in self._incomplete:
            known.is_incomplete = True
            known.rows_ms, known.ticks_ms = self._incomplete[hashed]
        return known

    @property
    def new(self) -> int:
        """The number of sessions with new data."""
        return sum(one.is_new for one in self._known.values())

    def slot(self, key: SessionKey, interval_ms: int, labels: Labels, before_ms: int = 0) -> int:
        """The slot of a session with new data."""
        known = self.known(key)
        known.is_new = True
        if known.slot < 0:
            known.slot = self.slots.slot_of(SessionRecord(0, *key, interval_ms, labels, 0, before_ms))
        return known.slot

    # --- the dump's data ----------------------------------------------------------------------------

    def take_carry(self, carry: Carry) -> None:
        """Raises ValueError for a second one."""
        if self.live:
            raise ValueError("two carries in a dump")
        self.carry = carry
        for place, (instance, labels) in enumerate(carry.names):
            row = carry.live[place]
            key = instance, int(row["start_ms"])
            known = self.known(key)
            if (int(row["last_ms"]), _LIVE) > (known.last_ms, known.rank):
                slot = self.slot(key, int(row["interval_ms"]), labels, int(row["before_ms"]))
                self.live[slot] = place

    def take_description(self, one: Description) -> None:
        known = self.known(one.key)
        if (one.last_ms, _rank(one.reason) + known.is_incomplete) > (known.last_ms, known.rank):
            self.described[self.slot(one.key, one.interval_ms, one.labels)] = one
        else:
            self.passed_over += 1

    def is_new_end(self, key: SessionKey, end: EndRecord) -> bool:
        known = self.known(key)
        is_new = (end.last_ms, _rank(end.reason)) > (known.last_ms, known.rank)
        known.is_new |= is_new
        return is_new

    def new_rows(self, part: Part, rows: Rows, since_ms: Callable[[Known], int]) -> tuple[Rows, Ints]:
        """The rows later than their session's `since_ms`, and their slots."""
        numbers, place = np.unique(rows["session"], return_inverse=True)
        records = [part.sessions[number] for number in numbers.tolist()]
        is_new = rows["t_ms"] > np.array([since_ms(self.known(one.key)) for one in records])[place]
        self.passed_over += int(rows.size - is_new.sum())
        rows, place = rows[is_new], place[is_new]
        has = set(np.unique(place).tolist())
        slots = [
            self.slot(one.key, one.interval_ms, one.labels, one.before_ms) if n in has else -1
            for n, one in enumerate(records)
        ]
        return rows, np.array(slots, np.int64)[place]

    def last_rows(self) -> dict[tuple[int, int], list[tuple[int, Place]]]:
        """The slots and places of the wanted last rows, by the file and offset of their frame in the dump."""
        found: dict[tuple[int, int], list[tuple[int, Place]]] = {}
        for slot, description in self.described.items():
            for place in description.places:
                found.setdefault((place.file, place.offset), []).append((slot, place))
            self.described[slot] = description._replace(places=())
        return found

    def key(self, slot: int) -> SessionKey:
        self.slots.place_new()
        return self.slots.names[slot][0], int(self.slots.live["start_ms"][slot])

    # --- the result ---------------------------------------------------------------------------------

    def merge(self, moved: Callable[[int], int]) -> list[int]:
        """Merge the sessions of the dump's carry into `slots`; gives the slots of ended sessions.

        `moved` gives the number in this store of a journal of the dump, or 0.
        """
        slots, source = self.slots, self.carry
        slots.place_new()
        for slot, place in self.live.items():
            row, live = source.live[place], slots.live
            known = self.known((source.names[place][0], int(row["start_ms"])))
            before_ms = int(live["before_ms"][slot])
            live[slot] = row
            live["first_ms"][slot] = _first(int(row["first_ms"]), known.first_ms)
            live["ticks"][slot] = max(int(row["ticks"]), known.ticks)
            live["before_ms"][slot] = max(int(row["before_ms"]), before_ms)
            described_ms = known.last_ms if known.rank > _LIVE else 0
            if slot in self.described:
                described_ms = max(described_ms, self.described[slot].last_ms)
            live["described_ms"][slot] = max(int(row["described_ms"]), described_ms)
            for column in ("journal", "from_journal", "mark_journal"):
                live[column][slot] = moved(int(row[column])) or slots.number
            slots.has_series(np.array([slot]), source.schemas[int(row["schema"])])
        slots.advance()
        return [slot for slot in self.described if slot not in self.live]

    def windows(self, tier: int) -> dict[Schema, Groups]:
        """The open windows of a tier of the dump, with the slots of its sessions in this store."""
        slot_of = np.full(self.carry.live.size, -1)
        slot_of[list(self.live.values())] = list(self.live)
        found = {}
        for schema, groups in self.carry.windows[tier - 1].items() if tier <= len(self.carry.windows) else ():
            mine = groups.only(slot_of[groups.session] >= 0)
            found[schema] = mine._replace(session=slot_of[mine.session])
        return found

    def descriptions(self, places: Places) -> list[Description]:
        """The new descriptions, with the `places` of their last rows."""
        made = []
        for slot, description in self.described.items():
            known = self.known(description.key)
            made.append(
                description._replace(
                    first_ms=_first(description.first_ms, known.first_ms),
                    ticks=max(description.ticks, known.ticks),
                    series=max(description.series, known.series),
                    places=tuple(place for _, place in sorted(places.get(slot, ()))),
                )
            )
        return made

    def still_incomplete(self, *, is_whole: bool) -> dict[int, int]:
        """The sessions that are restored only in part after this dump, and their last tick before it."""
        left = {key: last_ms for key, (last_ms, _) in self._incomplete.items()}
        for key, known in self._known.items():
            if is_whole:
                left.pop(key_of(*key), None)
            elif known.is_new:
                left[key_of(*key)] = known.rows_ms
        return left


def _rank(reason: str) -> int:
    return _LOST if reason == LOST else _ENDED


def _first(*times_ms: int) -> int:
    return min((one for one in times_ms if one), default=0)
