"""Checks a store: are all files undamaged, and do they agree?

Strategy: it checks a snapshot, like a reader; so the store may be written meanwhile. Every frame of every
file is read. Descriptions are compared with the rows that they point at, and coarse rows with the ticks that
are still there (`check_coarse`). A file that cannot be read is a finding, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rondo_tools.store import check_coarse
from rondo_tools.store.derived_view import DerivedView, RowsView
from rondo_tools.store.format.frames import (
    DESCRIPTIONS,
    END,
    FILE_SIZE,
    INDEX,
    ROWS,
    SCHEMA,
    SESSION,
    Damage,
    Frame,
)
from rondo_tools.store.format.opened import read_store_json
from rondo_tools.store.format.records import INDEX as INDEX_ROW
from rondo_tools.store.format.records import (
    UNDECODABLE,
    Description,
    SessionKey,
    declared_in,
    description_of,
    description_table,
    descriptions_in,
    ends_in,
    key_of,
)
from rondo_tools.store.journal_view import JournalView
from rondo_tools.store.snapshot import Files, Snapshot


class Finding(NamedTuple):
    """An error in a file."""

    path: Path
    what: str


class Checker:
    """Checks the store at `path`; `files` and `sessions` count what was checked.

    Raises StoreError if there is none, or its store.json or state.json cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.tiers = read_store_json(self.path).tiers
        self.files = self.sessions = 0

    def findings(self) -> Iterator[Finding]:
        files = Files(self.path, len(self.tiers))
        snapshot = files.look()
        for path, why in files.unread.items():
            yield Finding(path, why.removeprefix(f"{path}: "))
        for path in snapshot.missing:
            yield Finding(path, "is missing, though state.json names it")
        sound = set()
        for journal in snapshot.whole_journals():
            found = list(_journal(journal))
            yield from found
            if not found:
                sound.add(journal.number)
        damaged = set()
        for tier, views in ((0, snapshot.last_rows), *snapshot.tiers.items()):
            for view in views.values():
                for finding in _derived(view, tier):
                    damaged.add(tier)
                    yield finding
        for ended in snapshot.ended.values():
            yield from _derived(ended, 0)
        descriptions = [
            one for ended in snapshot.ended.values() for one in map(description_of, ended.descriptions())
        ]
        newest = {one.key: one for one in descriptions}
        whole = []
        for one in newest.values():
            wrong = _places(snapshot, one)
            if wrong is None:
                whole.append(one)
            else:
                yield wrong
        comparison = check_coarse.Comparison(snapshot, self.tiers, sound, whole)
        for path, what in comparison.differences(damaged):
            yield Finding(path, what)
        self.files = len(snapshot.journals) + len(snapshot.ended) + len(snapshot.last_rows)
        self.files += sum(map(len, snapshot.tiers.values()))
        live = {one.key for one in snapshot.carry.sessions.values()}
        self.sessions = len(newest.keys() | live.union(*(one.records for one in snapshot.not_rolled_up)))


def _journal(view: JournalView) -> Iterator[Finding]:
    declared = {record.number for record in view.records.values()} | view.forgotten
    undeclared = 0
    for piece in view.pieces():
        for rows in piece.values():
            undeclared += int((~np.isin(rows["session"], list(declared))).sum())
    yield from _damage(view.path, view.file.damage)
    for at, what in sorted(view.bad.items()):
        yield Finding(view.path, f"byte {at}: {what}")
    if undeclared:
        yield Finding(view.path, f"{undeclared} rows of sessions that it does not declare")


def _damage(path: Path, damage: Damage) -> Iterator[Finding]:
    if damage.bytes:
        yield Finding(path, f"byte {damage.first_at}: damaged; {damage.bytes} bytes of the file are no data")


def _derived(view: DerivedView, tier: int) -> Iterator[Finding]:
    """Check all frames of a derived file, and whether they agree."""
    path, file, length = view.path, view.file, view.length
    if file.size < length:
        yield Finding(path, f"is {file.size} bytes long, not {length} as state.json says")
        length = file.size
    file.damage = Damage()
    end = FILE_SIZE
    contents = _Contents(view, tier)
    for at, head, payload in file.frames(FILE_SIZE, length):
        end = at + head.size
        try:
            contents.take(at, head, payload)
        except UNDECODABLE as exc:
            yield Finding(path, f"byte {at}: cannot be decoded ({exc!r:.100})")
    yield from _damage(path, file.damage)
    if not file.damage.bytes:
        if end < length:
            yield Finding(path, f"byte {end}: no whole frame up to the length in state.json")
        contents.check_indexes()
    for at, what in sorted(contents.wrong.items()):
        yield Finding(path, f"byte {at}: {what}")


class _Contents:
    """The declarations and indexes of a derived file; `wrong` has the errors by offset."""

    def __init__(self, view: DerivedView, tier: int) -> None:
        self.wrong: dict[int, str] = {}
        self._file, self._tier = view.file, tier
        self._declared: set[int] = set()
        self._seen: dict[int, tuple[int, int, int]] = {}
        self._indexes: list[tuple[int, list[tuple[int, int, int, int]]]] = []

    def take(self, at: int, head: Frame, payload: memoryview) -> None:
        least = greatest = 0
        if head.kind == SESSION:
            numbers = [record.number for record in declared_in(payload)]
            least, greatest = min(numbers), max(numbers)
            self._declared.update(numbers)
        elif head.kind == ROWS:
            least, greatest = head.least_session, head.greatest_session
            self._take_rows(at, head, payload)
        elif head.kind == END:
            if not {end.number for end in ends_in(payload)} <= self._declared:
                self.wrong[at] = "it has ends of sessions that were not declared before"
        elif head.kind == INDEX:
            self._indexes.append((at, np.frombuffer(payload, INDEX_ROW, head.entries).tolist()))
        elif head.kind == DESCRIPTIONS:
            table = description_table(payload, head.entries)
            described = [(key_of(*one.key), one.last_ms) for one in descriptions_in(payload, head.entries)]
            if described != list(zip(table["key"].tolist(), table["last_ms"].tolist(), strict=True)):
                self.wrong[at] = "its table does not fit its descriptions"
        if head.kind in (SCHEMA, SESSION, ROWS, END):
            self._seen[at] = head.kind, least, greatest

    def _take_rows(self, at: int, head: Frame, payload: memoryview) -> None:
        rows = self._file.rows(head, payload, self._tier)
        if rows is None or rows.size != head.entries:
            self.wrong[at] = f"its rows do not fit schema {head.schema}"
        elif not set(rows["session"].tolist()) <= self._declared:
            self.wrong[at] = "it has rows of sessions that were not declared before"

    def check_indexes(self) -> None:
        """Check that the frames in each INDEX exist."""
        for at, entries in self._indexes:
            for kind, least, greatest, offset in entries:
                if self._seen.get(offset) != (kind, least, greatest):
                    self.wrong[at] = f"its entry for byte {offset} is not a frame that is there"
                    break


def _places(snapshot: Snapshot, one: Description) -> Finding | None:
    """Check that the rows that a description points at exist, and belong to its session. Rows of removed
    files are not missed."""
    key: SessionKey = one.key
    newest_ms = 0
    for place in one.places:
        view: RowsView | None = snapshot.last_rows.get(place.file)
        if view is None:
            return None
        found = view.last_rows(place)
        where = f"byte {place.offset}: "
        if found is None:
            return Finding(view.path, f"{where}no such rows, though {one.instance}/{one.start_ms} has some")
        _, rows = found
        if {view.sessions().get(number) for number in rows["session"].tolist()} != {key}:
            return Finding(view.path, f"{where}not the rows of {one.instance}/{one.start_ms} alone")
        newest_ms = max(newest_ms, int(rows["t_ms"].max()))
    if newest_ms != one.last_ms and one.places:
        path = snapshot.last_rows[one.places[-1].file].path
        return Finding(path, f"the last tick of {one.instance}/{one.start_ms} is not among its last rows")
    return None
