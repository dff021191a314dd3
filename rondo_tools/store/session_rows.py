"""The rows of one session in the files of a snapshot.

Strategy: each file gives parts of one schema each, in the order of writing. `whole` puts them into the union
of the schemas and in time order, and keeps the last of equal ticks or windows.

The rows of a coarse tier are those in its files, then those of the open windows, folded with the ticks of
journals that are not rolled up by the store's own roll-up. A session that comes back after its end was rolled
up continues its last window: the ticks of that window are its last rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rondo_tools.store.format import frames
from rondo_tools.store.format.records import Description, SessionKey
from rondo_tools.store.format.rollup import Groups, Ticks, Windows, coarse_rows
from rondo_tools.store.format.schema import Schema
from rondo_tools.store.journal_view import JournalView
from rondo_tools.store.snapshot import Snapshot

Times = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


class Rows(NamedTuple):
    """Rows in time order: `t_ms` int64 (n,), `values` float64 (n, columns).

    `skipped` counts the damaged frames and places of files that may have held some.
    """

    t_ms: Times
    values: Values
    skipped: int

    def between(self, after_ms: int, before_ms: int) -> Rows:
        """The rows with after_ms < t_ms < before_ms; copied, so that the others can be freed."""
        first, last = self.t_ms.searchsorted(after_ms, "right"), self.t_ms.searchsorted(before_ms)
        if last - first == self.t_ms.size:
            return self
        return Rows(self.t_ms[first:last].copy(), self.values[first:last].copy(), self.skipped)


class Part(NamedTuple):
    """Rows of one schema."""

    schema: Schema
    t_ms: Times
    values: Values


@dataclass(slots=True)
class Parts:
    """Parts of one session, in the order of writing."""

    parts: list[Part] = field(default_factory=list)
    skipped: int = 0

    def add(self, schema: Schema, rows: frames.Rows) -> None:
        if rows.size:
            self.parts.append(Part(schema, rows["t_ms"], rows["values"]))

    def whole(self, schema: Schema, tier: int, interval_ms: int) -> Rows:
        """The rows in time order, with the columns of `schema` in a tier; one for each interval."""
        t_ms = np.concatenate([np.zeros(0, np.int64), *(part.t_ms for part in self.parts)])
        values = np.full((t_ms.size, schema.width_in(tier)), np.nan)
        at = 0
        for part in self.parts:
            here, there = _columns_in(part.schema, schema, tier)
            values[at : at + part.t_ms.size, there] = part.values[:, here]
            at += part.t_ms.size
        np.copyto(values, np.nan, where=np.isnan(values))  # readers see one NaN, whatever the tick's bits
        window = t_ms // interval_ms
        if (window[1:] <= window[:-1]).any():
            order = np.argsort(window, kind="stable")
            last = np.append(window[order][1:] != window[order][:-1], True)
            t_ms, values = t_ms[order[last]], values[order[last]]
        return Rows(t_ms, values, self.skipped)

    def runs(self) -> Iterator[Part]:
        """The ticks in time order, in parts of one schema; of equal times the last."""
        schemas = list(dict.fromkeys(part.schema for part in self.parts))
        number = {schema: at for at, schema in enumerate(schemas)}
        of_schema = [
            np.concatenate([part.values for part in self.parts if part.schema is schema])
            for schema in schemas
        ]
        parts = sorted(self.parts, key=lambda part: number[part.schema])
        if not parts:
            return
        t_ms = np.concatenate([part.t_ms for part in parts])
        which = np.repeat([number[part.schema] for part in parts], [part.t_ms.size for part in parts])
        place = np.concatenate([np.arange(values.shape[0]) for values in of_schema])
        order = np.argsort(t_ms, kind="stable")
        order = order[np.append(t_ms[order][1:] != t_ms[order][:-1], True)]
        begins = np.flatnonzero(np.append(True, which[order][1:] != which[order][:-1]))
        for run in np.split(order, begins[1:]):
            schema = int(which[run[0]])
            yield Part(schemas[schema], t_ms[run], of_schema[schema][place[run]])


def _columns_in(part: Schema, whole: Schema, tier: int) -> tuple[list[int], list[int]]:
    """The columns of a part, and their places in the whole."""
    if part is whole:
        every = list(range(part.width_in(tier)))
        return every, every
    at = {(one.name, one.labels, one.kind): number for number, one in enumerate(whole.series)}
    columns = {tuple(column): number for number, column in enumerate(whole.columns(tier))}
    here, there = [], []
    for number, column in enumerate(part.columns(tier)):
        one = part.series[column.series]
        series = at.get((one.name, one.labels, one.kind))
        if series is not None:
            here.append(number)
            there.append(columns[series, column.aggregate])
    return here, there


def ticks(snapshot: Snapshot, key: SessionKey, description: Description | None, after_ms: int) -> Parts:
    """The ticks with t_ms > after_ms that are still there."""
    found = Parts()
    if description is not None and description.last_ms > after_ms:
        _add_last_rows(found, snapshot, description, after_ms)
    _add_journals(found, snapshot.whole_journals(), key, after_ms)
    return found


def _add_last_rows(found: Parts, snapshot: Snapshot, description: Description, after_ms: int) -> None:
    for there in last_rows(snapshot, description, after_ms):
        if there is None:
            found.skipped += 1
        else:
            found.add(*there)


def last_rows(
    snapshot: Snapshot, description: Description, after_ms: int
) -> Iterator[tuple[Schema, frames.Rows] | None]:
    """The last rows of an ended session with t_ms > after_ms; None for damaged ones."""
    for place in description.places:
        view = snapshot.last_rows.get(place.file)
        if view is not None:
            there = view.last_rows(place)
            yield None if there is None else (there[0], there[1][there[1]["t_ms"] > after_ms])


def _add_journals(found: Parts, journals: Iterable[JournalView], key: SessionKey, after_ms: int) -> None:
    for journal in journals:
        parts, skipped = journal.rows_of(key, after_ms)
        found.skipped += skipped
        for schema, rows in parts:
            found.add(schema, rows)


def coarse(
    snapshot: Snapshot,
    key: SessionKey,
    description: Description | None,
    number: int | None,
    tier: int,
    interval_ms: int,
    after_ms: int,
) -> Parts:
    """The rows of a coarse tier with t_ms > after_ms; `number` is the session's in the carry."""
    found = Parts()
    for view in snapshot.tiers[tier].values():
        parts, skipped = view.rows_of(key, tier, after_ms)
        found.skipped += skipped
        for schema, rows in parts:
            found.add(schema, rows)
    # Read a window from its begin: it is rolled up from all its ticks.
    begin_ms = after_ms // interval_ms * interval_ms
    fresh = Parts()
    _add_journals(fresh, snapshot.not_rolled_up, key, begin_ms - 1)
    found.skipped += fresh.skipped
    open_windows: dict[Schema, Groups] = {}
    if number is not None:
        for schema, groups in snapshot.carry.windows[tier - 1].items():
            mine = groups.only(groups.session == number)
            if mine.size:
                open_windows[schema] = mine._replace(session=np.zeros(mine.size, np.int64))
    elif description is not None and fresh.parts:
        window = description.last_ms // interval_ms
        if min(int(part.t_ms[0]) for part in fresh.parts) // interval_ms == window:
            before = Parts()
            _add_last_rows(before, snapshot, description, window * interval_ms - 1)
            fresh.parts[:0] = before.parts
    for schema, groups in _rolled_up(fresh.parts, interval_ms, open_windows):
        _, t_ms, values = coarse_rows(groups, schema)
        late = t_ms > after_ms
        if late.any():
            found.parts.append(Part(schema, t_ms[late], values[late]))
    return found


def _rolled_up(
    parts: Sequence[Part], interval_ms: int, open_windows: Mapping[Schema, Groups]
) -> list[tuple[Schema, Groups]]:
    """The windows of one session's ticks, including open ones."""
    some: dict[Schema, list[Part]] = {}
    for part in parts:
        some.setdefault(part.schema, []).append(part)
    windows = Windows(interval_ms, open_windows)
    closed = windows.add(
        {
            schema: Ticks(
                np.zeros(sum(part.t_ms.size for part in of_schema), np.int64),
                np.concatenate([part.t_ms for part in of_schema]),
                np.concatenate([part.values for part in of_schema]),
            )
            for schema, of_schema in some.items()
        }
    )
    return [*closed, *windows.open.items()]
