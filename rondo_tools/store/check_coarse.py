"""Checks coarse rows: do they equal, to the bit, the roll-up of the ticks that are still there?

Strategy: a window can be checked if it was rolled up and all its ticks are there. The whole journals, from
the newest back to the first missing or damaged one, have all ticks of a session later than its `last_ms` in
the oldest of them that declares it. A session without such a journal has its last rows: they are complete
from the first of them on. All sessions are rolled up together, as the store does, and compared with the rows
of the tiers; of rows with the same session and window the last is valid.

Rows are compared by a hash of their bits: the rows of ten thousand sessions would not fit in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from rondo_tools.store.format.frames import Rows
from rondo_tools.store.format.layout import tier_name
from rondo_tools.store.format.records import Description, SessionKey
from rondo_tools.store.format.rollup import Floats, Groups, Ints, Ticks, Windows, coarse_rows, concatenated
from rondo_tools.store.format.schema import Schema
from rondo_tools.store.format.tiers import Tier
from rondo_tools.store.journal_view import JournalView
from rondo_tools.store.snapshot import Snapshot

Key = tuple[int, int]  # the number of a session here, and of a window
_SESSIONS = 4096  # whose last rows are rolled up at once


class Comparison:
    """`sound` are the undamaged journals, `descriptions` those with sound last rows."""

    def __init__(
        self,
        snapshot: Snapshot,
        tiers: tuple[Tier, ...],
        sound: Collection[int],
        descriptions: Iterable[Description],
    ) -> None:
        self._snapshot, self._tiers = snapshot, tiers
        self._numbers: dict[SessionKey, int] = {}
        self._since: list[int] = []  # by number: windows that begin later are complete
        self._descriptions = list(descriptions)
        self._journals = self._whole_journals(sound)
        for journal in self._journals:
            for record in journal.records.values():
                self._number(record.key, record.last_ms)

    def differences(self, damaged: Collection[int]) -> Iterator[tuple[Path, str]]:
        """(file, its error); in `damaged` tiers missing rows are no error."""
        only_described = self._only_described()
        for tier in range(1, len(self._tiers)):
            expected = dict(self._of_journals(tier))
            missed = set(expected) if tier not in damaged and self._misses(tier) else set()
            expected |= self._of_last_rows(tier, only_described)
            found = self._stored(tier)
            names = list(self._numbers)
            for key, row in expected.items():
                (instance, start_ms), window_ms = names[key[0]], key[1] * self._tiers[tier].interval_ms
                what = f"of {instance}/{start_ms} for the window from {window_ms} on"
                if key in found:
                    path, there = found[key]
                    if there != row:
                        yield path, f"the row {what} is not the roll-up of its ticks"
                elif key in missed:
                    yield self._snapshot.layout.folder(tier_name(tier)), f"there is no row {what}"

    def _whole_journals(self, sound: Collection[int]) -> list[JournalView]:
        """The rolled-up journals, from the newest back to the first missing or damaged one."""
        found: list[JournalView] = []
        number = self._snapshot.state.rolled_up
        while number in sound:
            found.append(self._snapshot.journals[number])
            number -= 1
        return found[::-1]

    def _number(self, key: SessionKey, since_ms: int) -> int:
        number = self._numbers.setdefault(key, len(self._numbers))
        if number == len(self._since):
            self._since.append(since_ms)
        return number

    def _only_described(self) -> list[tuple[int, list[tuple[Schema, Rows]]]]:
        """The sessions that have last rows only, with these rows."""
        found = []
        # The last window of a session that came back has ticks that its description lacks.
        back = {one.key for one in self._snapshot.carry.sessions.values()}
        for description in self._descriptions:
            if description.key in self._numbers or description.key in back or not description.places:
                continue
            parts = [
                part
                for place in description.places
                if place.file in self._snapshot.last_rows
                and (part := self._snapshot.last_rows[place.file].last_rows(place)) is not None
            ]
            if len(parts) < len(description.places):
                continue
            is_all = sum(rows.size for _, rows in parts) == description.ticks
            first_ms = min(int(rows["t_ms"].min()) for _, rows in parts)
            found.append((self._number(description.key, 0 if is_all else first_ms - 1), parts))
        return found

    def _misses(self, tier: int) -> bool:
        """Whether the rows of all these journals must still be there: the oldest files are removed first."""
        state = self._snapshot.state
        oldest = min((file.begun_ms for file in state.files.get(tier_name(tier), {}).values()), default=None)
        closed_ms = state.journals.get(self._journals[0].number) if self._journals else None
        return oldest is not None and closed_ms is not None and oldest <= closed_ms

    def _of_journals(self, tier: int) -> Iterator[tuple[Key, int]]:
        windows = Windows(self._tiers[tier].interval_ms)
        for journal in self._journals:
            numbers = _by_number({one.number: self._numbers[one.key] for one in journal.records.values()})
            for piece in journal.pieces():
                ticks = {}
                for schema, some in piece.items():
                    rows = some[~np.isin(some["session"], list(journal.forgotten))]
                    if rows.size:
                        ticks[schema] = _ticks(numbers[rows["session"]], rows)
                yield from self._hashed(tier, windows.add(ticks))
        carry = self._snapshot.carry
        if len(carry.windows) < len(self._tiers) - 1:
            return  # it could not be read, so it is not known which sessions have ended
        live = {one.key for one in carry.sessions.values()}
        over = [number for key, number in self._numbers.items() if key not in live]
        yield from self._hashed(tier, windows.close(np.array(over, np.int64)))

    def _of_last_rows(
        self, tier: int, only_described: Sequence[tuple[int, list[tuple[Schema, Rows]]]]
    ) -> dict[Key, int]:
        found: dict[Key, int] = {}
        for at in range(0, len(only_described), _SESSIONS):
            of_schema: dict[Schema, list[Ticks]] = {}
            for number, parts in only_described[at : at + _SESSIONS]:
                for schema, rows in parts:
                    some = _ticks(np.full(rows.size, number), rows)
                    of_schema.setdefault(schema, []).append(some)
            windows = Windows(self._tiers[tier].interval_ms)
            closed = windows.add({schema: concatenated(some) for schema, some in of_schema.items()})
            found.update(self._hashed(tier, [*closed, *windows.open.items()]))
        return found

    def _hashed(self, tier: int, closed: Iterable[tuple[Schema, Groups]]) -> Iterator[tuple[Key, int]]:
        for schema, groups in closed:
            session, t_ms, values = coarse_rows(groups, schema)
            yield from self._judged(tier, schema, session, t_ms, values)

    def _judged(
        self, tier: int, schema: Schema, session: Ints, t_ms: Ints, values: Floats
    ) -> Iterator[tuple[Key, int]]:
        """(session, window) and a hash of the row, for each row of a complete window."""
        interval_ms = self._tiers[tier].interval_ms
        window = t_ms // interval_ms
        whole = np.flatnonzero(window * interval_ms > np.array(self._since, np.int64)[session])
        for place in whole.tolist():
            row = hash((int(t_ms[place]), schema.packed, values[place].tobytes()))
            yield (int(session[place]), int(window[place])), row

    def _stored(self, tier: int) -> dict[Key, tuple[Path, int]]:
        found: dict[Key, tuple[Path, int]] = {}
        for view in self._snapshot.tiers[tier].values():
            sessions = view.sessions()
            numbers = _by_number({local: self._numbers.get(key, -1) for local, key in sessions.items()})
            for schema, rows in view.all_rows(tier):
                rows = rows[rows["session"] < numbers.size]
                session = numbers[rows["session"]]
                ticks = _ticks(session[session >= 0], rows[session >= 0])
                for key, row in self._judged(tier, schema, *ticks):
                    found[key] = view.path, row
        return found


def _ticks(session: Ints, rows: Rows) -> Ticks:
    return Ticks(session, rows["t_ms"].astype(np.int64), rows["values"].astype(np.float64))


def _by_number(numbers: Mapping[int, int]) -> Ints:
    """An array for look-ups by a session's number in a file; -1 is none."""
    found = np.full(max(numbers, default=-1) + 1, -1, np.int64)
    found[list(numbers)] = list(numbers.values())
    return found
