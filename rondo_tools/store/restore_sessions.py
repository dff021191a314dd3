"""The sessions of a restore: what the store has of each, and what of the dump is later.

Strategy: a session is looked up when the dump names it first, before anything of it is taken; it gets a
slot when something of it is new. The dump's carry and descriptions come before all rows, so what the
session becomes is known by then: live, as the dump's carry has it, or over, as its description says.
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
    """What the store has of a session: what is later than (`last_ms`, `rank`) is new.

    Of a session of which a restore had a part only, coarse rows later than `rows_ms` are, and ticks of
    journals that are rolled up if they are later than `ticks_ms`.
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
    is_new: bool = False  # something of it was taken

    @property
    def coarse_ms(self) -> int:
        """Coarse rows that are later are new: the last window of a live session has none yet."""
        return self.rows_ms - (self.rank == _LIVE)


class RestoredSessions:
    """`slots` are the store's, and those of sessions of which something is new.

    `find` gives the description of a session that is over. `incomplete` has those of which a restore had
    a part only, by `key_of`: the last tick before it, and the last one that is in journals.
    `live` has, by slot, the place in the dump's carry of sessions that it makes live; `told` the
    descriptions that are new.
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
        self.told: dict[int, Description] = {}
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
        elif (told := self._find(*key)) is not None:
            known.last_ms, known.rank = told.last_ms, _rank(told.reason)
            known.first_ms, known.ticks, known.series = told.first_ms, told.ticks, told.series
        known.rows_ms = known.ticks_ms = known.last_ms
        if (hashed := key_of(*key)) in self._incomplete:
            known.is_incomplete = True
            known.rows_ms, known.ticks_ms = self._incomplete[hashed]
        return known

    @property
    def new(self) -> int:
        """Of how many sessions something is new."""
        return sum(one.is_new for one in self._known.values())

    def slot(self, key: SessionKey, interval_ms: int, labels: Labels, before_ms: int = 0) -> int:
        """The slot of a session of which something is new."""
        known = self.known(key)
        known.is_new = True
        if known.slot < 0:
            known.slot = self.slots.slot_of(SessionRecord(0, *key, interval_ms, labels, 0, before_ms))
        return known.slot

    # --- what the dump says -------------------------------------------------------------------------

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

    def take_description(self, told: Description) -> None:
        known = self.known(told.key)
        if (told.last_ms, _rank(told.reason) + known.is_incomplete) > (known.last_ms, known.rank):
            self.told[self.slot(told.key, told.interval_ms, told.labels)] = told
        else:
            self.passed_over += 1

    def is_new_end(self, key: SessionKey, end: EndRecord) -> bool:
        known = self.known(key)
        is_new = (end.last_ms, _rank(end.reason)) > (known.last_ms, known.rank)
        known.is_new |= is_new
        return is_new

    def new_rows(self, part: Part, rows: Rows, since_ms: Callable[[Known], int]) -> tuple[Rows, Ints]:
        """The rows that are later than their session's `since_ms`, and their slots."""
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
        """By file and offset of a frame in the dump, the last rows in it that are wanted, and whose."""
        found: dict[tuple[int, int], list[tuple[int, Place]]] = {}
        for slot, told in self.told.items():
            for place in told.places:
                found.setdefault((place.file, place.offset), []).append((slot, place))
            self.told[slot] = told._replace(places=())
        return found

    def key(self, slot: int) -> SessionKey:
        self.slots.settle()
        return self.slots.names[slot][0], int(self.slots.live["start_ms"][slot])

    # --- what becomes of it -------------------------------------------------------------------------

    def merge(self, moved: Callable[[int], int]) -> list[int]:
        """Take over into `slots` what the dump's carry has of sessions; gives those that are over.

        `moved` gives the number here of a journal of the dump, or 0.
        """
        slots, source = self.slots, self.carry
        slots.settle()
        for slot, place in self.live.items():
            row, live = source.live[place], slots.live
            known = self.known((source.names[place][0], int(row["start_ms"])))
            before_ms = int(live["before_ms"][slot])
            live[slot] = row
            live["first_ms"][slot] = _first(int(row["first_ms"]), known.first_ms)
            live["ticks"][slot] = max(int(row["ticks"]), known.ticks)
            live["before_ms"][slot] = max(int(row["before_ms"]), before_ms)
            described_ms = known.last_ms if known.rank > _LIVE else 0
            if slot in self.told:
                described_ms = max(described_ms, self.told[slot].last_ms)
            live["described_ms"][slot] = max(int(row["described_ms"]), described_ms)
            for column in ("journal", "from_journal", "mark_journal"):
                live[column][slot] = moved(int(row[column])) or slots.number
            slots.has_series(np.array([slot]), source.schemas[int(row["schema"])])
        slots.advance()
        return [slot for slot in self.told if slot not in self.live]

    def windows(self, tier: int) -> dict[Schema, Groups]:
        """The open windows of tier `tier` of the dump, by the slots that its sessions have here."""
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
        for slot, told in self.told.items():
            known = self.known(told.key)
            made.append(
                told._replace(
                    first_ms=_first(told.first_ms, known.first_ms),
                    ticks=max(told.ticks, known.ticks),
                    series=max(told.series, known.series),
                    places=tuple(place for _, place in sorted(places.get(slot, ()))),
                )
            )
        return made

    def still_incomplete(self, *, is_whole: bool) -> dict[int, int]:
        """Of which sessions a part only is here, after a dump that was whole, or not: their last tick before
        it."""
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
