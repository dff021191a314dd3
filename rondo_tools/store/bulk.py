"""Rows of many sessions: for a thousand sessions, one pass over the files instead of a thousand.

Strategy: the relevant frames of each file are read once, the rows of the wanted sessions are picked by
number, and only their wanted columns are copied. Then follows one stable sort by session. The result equals
`rows` and `runs` of each session; the open windows of coarse tiers are rolled up for all sessions together.
A session that came back after its end is rare, and read by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rondo_tools.catalog import Series
from rondo_tools.store import session_rows
from rondo_tools.store.format.frames import Rows as FrameRows
from rondo_tools.store.format.records import SessionKey
from rondo_tools.store.format.rollup import Groups, Ticks, Windows, coarse_rows
from rondo_tools.store.format.schema import LAST, Schema
from rondo_tools.store.format.tiers import Tier
from rondo_tools.store.session import Session
from rondo_tools.store.session_rows import Times, Values
from rondo_tools.store.snapshot import Snapshot

Ints = npt.NDArray[np.int64]
_FEW = 4  # sessions: fewer are read one by one, which is cheaper in a journal with thousands


class Wanted(NamedTuple):
    """A session, and `pick(series)`: the places of the wanted series; called once for each schema.

    If no series is picked, the result has the times of the rows."""

    session: Session
    pick: Callable[[tuple[Series, ...]], tuple[int, ...]]


class Piece(NamedTuple):
    """Rows of a session: `t_ms` (n,) strictly ascending; `values` (n, len(numbers)) of the series of `schema`
    at these places."""

    schema: Schema
    numbers: tuple[int, ...]
    t_ms: Times
    values: Values

    @property
    def series(self) -> tuple[Series, ...]:
        return tuple(self.schema.series[number] for number in self.numbers)


class TooMuchError(Exception):
    """The result would have more than `max_values` values."""


class Question(NamedTuple):
    """Asks for rows of a tier with after_ms < t_ms <= until_ms; in a coarse tier for `aggregate` of gauges.

    More than `max_values` values raise TooMuchError, before they take much memory.
    """

    tier: int
    after_ms: int
    until_ms: int
    aggregate: str = "avg"
    max_values: int = 1 << 62


def read(
    snapshot: Snapshot, tiers: Sequence[Tier], wanted: Sequence[Wanted], question: Question
) -> list[list[Piece]]:
    """The pieces of each session in time order: one for each run of rows with one schema.

    Raises StoreError if a file cannot be read any more, and TooMuchError.
    """
    window_ms = tiers[question.tier].interval_ms if question.tier else 1
    gathered = _Gathered(wanted, question, window_ms)
    if question.tier == 0:
        _ticks(snapshot, gathered)
    else:
        _coarse(snapshot, gathered)
    return gathered.pieces()


class _Gathered:
    """The found rows: for each schema the places of their sessions, their times and picked columns."""

    def __init__(self, wanted: Sequence[Wanted], question: Question, window_ms: int) -> None:
        self.wanted, self.question, self.window_ms = wanted, question, window_ms
        self.keys = {one.session.key: place for place, one in enumerate(wanted)}
        # Sessions with the same `pick` are handled together.
        pickers = list(dict.fromkeys(one.pick for one in wanted))
        number = {pick: at for at, pick in enumerate(pickers)}
        self._pickers = pickers
        self._picker_of = np.array([number[one.pick] for one in wanted], np.int64)
        self._columns: dict[tuple[Schema, int], tuple[tuple[int, ...], npt.NDArray[np.intp]]] = {}
        self._found: dict[tuple[Schema, int], list[tuple[Ints, Times, Values]]] = {}
        self._values = 0

    def add(
        self, schema: Schema, place: Ints, t_ms: Times, values: Callable[[Ints, npt.NDArray[np.intp]], Values]
    ) -> None:
        """Add rows of sessions at these places in `wanted`; `values(rows, columns)` copies some of them."""
        inside = (t_ms > self.question.after_ms) & (t_ms <= self.question.until_ms) & (place >= 0)
        rows = np.flatnonzero(inside)
        if not rows.size:
            return
        place, t_ms = place[rows], t_ms[rows]
        for picker in range(len(self._pickers)) if len(self._pickers) > 1 else (0,):
            _, columns = self._picked(schema, picker)
            mine = slice(None) if len(self._pickers) == 1 else self._picker_of[place] == picker
            some = rows[mine]
            if not some.size:
                continue
            self._values += some.size * columns.size
            if self._values > self.question.max_values:
                raise TooMuchError
            found = self._found.setdefault((schema, picker), [])
            found.append((place[mine], t_ms[mine], values(some, columns)))

    def _picked(self, schema: Schema, picker: int) -> tuple[tuple[int, ...], npt.NDArray[np.intp]]:
        key = schema, picker
        if key not in self._columns:
            numbers = self._pickers[picker](schema.series)
            kinds = (LAST, self.question.aggregate)
            columns = {
                column.series: at
                for at, column in enumerate(schema.columns(self.question.tier))
                if column.aggregate in kinds
            }
            self._columns[key] = (
                numbers,
                np.array([columns[number] for number in numbers], np.intp),
            )
        return self._columns[key]

    def pieces(self) -> list[list[Piece]]:
        found: list[list[Piece]] = [[] for _ in self.wanted]
        for (schema, picker), parts in self._found.items():
            numbers, _ = self._picked(schema, picker)
            place, t_ms, values = (np.concatenate(column) for column in zip(*parts, strict=True))
            parts.clear()
            order = np.argsort(place, kind="stable")
            place, t_ms, values = place[order], t_ms[order], values[order]
            begins = np.flatnonzero(np.append(True, place[1:] != place[:-1])).tolist()
            for first, last in zip(begins, [*begins[1:], place.size], strict=True):
                found[int(place[first])].append(Piece(schema, numbers, t_ms[first:last], values[first:last]))
        return [_in_order(pieces, self.window_ms) for pieces in found]


def _in_order(pieces: list[Piece], window_ms: int) -> list[Piece]:
    """The pieces of one session in time order; if a window has several rows, the last is valid."""
    if len(pieces) == 1 and (np.diff(pieces[0].t_ms // window_ms) > 0).all():
        return pieces
    which = np.repeat(np.arange(len(pieces)), [piece.t_ms.size for piece in pieces])
    t_ms = np.concatenate([np.zeros(0, np.int64), *(piece.t_ms for piece in pieces)])
    row = np.concatenate([np.zeros(0, np.int64), *(np.arange(piece.t_ms.size) for piece in pieces)])
    window = t_ms // window_ms
    order = np.argsort(window, kind="stable")
    order = order[np.append(window[order][1:] != window[order][:-1], True)] if order.size else order
    begins = np.flatnonzero(np.append(True, which[order][1:] != which[order][:-1]))
    found = []
    for run in np.split(order, begins[1:]):
        if run.size:
            piece = pieces[int(which[run[0]])]
            found.append(piece._replace(t_ms=t_ms[run], values=piece.values[row[run]]))
    return found


def _ticks(snapshot: Snapshot, gathered: _Gathered) -> None:
    question = gathered.question
    for place, one in enumerate(gathered.wanted):
        description = one.session.description
        if description is not None and description.last_ms > question.after_ms:
            for there in session_rows.last_rows(snapshot, description, question.after_ms):
                if there is not None:
                    _add_rows(gathered, there[0], np.full(there[1].size, place), there[1])
    _journal_rows(snapshot, gathered, question.after_ms)


def _journal_rows(snapshot: Snapshot, gathered: _Gathered, after_ms: int) -> None:
    for view in snapshot.whole_journals():
        if len(gathered.wanted) <= _FEW:
            for key, place in gathered.keys.items():
                for schema, rows in view.rows_of(key, after_ms)[0]:
                    _add_rows(gathered, schema, np.full(rows.size, place), rows)
            continue
        places = _places(gathered.keys, ((record.number, key) for key, record in view.records.items()))
        if not places.size:
            continue
        for picked in view.picked(after_ms, gathered.question.until_ms):
            of_rows = places[np.minimum(picked.session, places.size - 1)]
            gathered.add(picked.schema, of_rows, picked.t_ms, picked.values)


def _add_rows(gathered: _Gathered, schema: Schema, place: Ints, rows: FrameRows) -> None:
    _add_values(gathered, schema, place, rows["t_ms"], rows["values"])


def _places(keys: dict[SessionKey, int], numbers: Iterator[tuple[int, SessionKey]]) -> Ints:
    """The place in `keys` of each session, by its number in a file, or -1; the last entry is -1."""
    pairs = [(number, keys[key]) for number, key in numbers if key in keys]
    if not pairs:
        return np.zeros(0, np.int64)
    places = np.full(max(number for number, _ in pairs) + 2, -1, np.int64)
    for number, place in pairs:
        places[number] = place
    return places


def _coarse(snapshot: Snapshot, gathered: _Gathered) -> None:
    question = gathered.question
    came_back = _came_back(snapshot, gathered)
    for place in came_back:
        for part in gathered.wanted[place].session.coarse(question.tier, question.after_ms).parts:
            _add_values(gathered, part.schema, np.full(part.t_ms.size, place), part.t_ms, part.values)
    keys = {key: place for key, place in gathered.keys.items() if place not in came_back}
    for view in snapshot.tiers[question.tier].values():
        if len(keys) <= _FEW:
            for key, place in keys.items():
                for schema, rows in view.rows_of(key, question.tier, question.after_ms)[0]:
                    _add_rows(gathered, schema, np.full(rows.size, place), rows)
            continue
        places = _places(keys, iter(view.sessions().items()))
        if places.size:
            for schema, rows in view.all_rows(question.tier, question.after_ms):
                number = rows["session"].astype(np.int64)
                _add_rows(gathered, schema, places[np.minimum(number, places.size - 1)], rows)
    _open_windows(snapshot, gathered, keys)


def _came_back(snapshot: Snapshot, gathered: _Gathered) -> set[int]:
    """Sessions with a description and later rows: their last window begins with their last rows."""
    return {
        place
        for key, place in gathered.keys.items()
        if gathered.wanted[place].session.description is not None
        and any(key in view.records for view in snapshot.not_rolled_up)
    }


def _open_windows(snapshot: Snapshot, gathered: _Gathered, keys: dict[SessionKey, int]) -> None:
    """Add the open windows of the carry, folded with the ticks of journals that are not rolled up."""
    question, interval_ms = gathered.question, gathered.window_ms
    slots = np.full(len(snapshot.carry.names) + 1, -1, np.int64)
    for slot, ((instance, _), start_ms) in enumerate(
        zip(snapshot.carry.names, snapshot.carry.live["start_ms"].tolist(), strict=True)
    ):
        slots[slot] = keys.get((instance, start_ms), -1)
    windows = Windows(interval_ms)
    carried = snapshot.carry.windows[question.tier - 1] if snapshot.carry.windows else {}
    for schema, groups in carried.items():
        slot_place = slots[groups.session]
        mine: Groups = groups._replace(session=slot_place).only(slot_place >= 0)
        if mine.size:
            windows.open[schema] = mine
    begin_ms = question.after_ms // interval_ms * interval_ms
    fresh = _Fresh(keys, begin_ms - 1)
    fresh.read(snapshot)
    for schema, groups in [*windows.add(fresh.ticks()), *windows.open.items()]:
        session, t_ms, values = coarse_rows(groups, schema)
        _add_values(gathered, schema, session, t_ms, values)


def _add_values(gathered: _Gathered, schema: Schema, place: Ints, t_ms: Times, values: Values) -> None:
    gathered.add(schema, place, t_ms, lambda some, columns: values[some[:, np.newaxis], columns])


class _Fresh:
    """The ticks of wanted sessions that are not rolled up, with all columns."""

    def __init__(self, keys: dict[SessionKey, int], after_ms: int) -> None:
        self._keys, self._after_ms = keys, after_ms
        self._found: dict[Schema, list[tuple[Ints, Times, Values]]] = {}

    def read(self, snapshot: Snapshot) -> None:
        for view in snapshot.not_rolled_up:
            places = _places(self._keys, ((one.number, key) for key, one in view.records.items()))
            if not places.size:
                continue
            for picked in view.picked(self._after_ms):
                place = places[np.minimum(picked.session, places.size - 1)]
                rows = np.flatnonzero((place >= 0) & (picked.t_ms > self._after_ms))
                if rows.size:
                    every = np.arange(picked.schema.width)
                    self._found.setdefault(picked.schema, []).append(
                        (place[rows], picked.t_ms[rows], picked.values(rows, every))
                    )

    def ticks(self) -> dict[Schema, Ticks]:
        found = {}
        for schema, parts in self._found.items():
            place, t_ms, values = (np.concatenate(column) for column in zip(*parts, strict=True))
            order = np.lexsort((t_ms, place))
            found[schema] = Ticks(place[order], t_ms[order], values[order])
        return found
