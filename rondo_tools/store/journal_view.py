"""A journal as readers see it: its sessions, and the rows of each.

Strategy: `update` reads what was appended since the last call, and keeps the headers of ROWS frames as a
table; rows are read when they are asked for. A writer may append meanwhile: the next `update` sees a frame
that is not complete yet.

For the first few sessions that are asked for, the frames that may have their rows are searched. For more
sessions the offset of every row is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rondo_tools.store.format.frame_file import FrameFile
from rondo_tools.store.format.frames import (
    END,
    FILE_SIZE,
    SESSION,
    Frame,
    Rows,
    row_dtype,
)
from rondo_tools.store.format.records import (
    UNDECODABLE,
    EndRecord,
    SessionKey,
    SessionRecord,
    declared_in,
    ends_in,
)
from rondo_tools.store.format.schema import Schema
from rondo_tools.store.journal_rows import HEADS, Heads, Picked, Places, RowsReader, heads_of

_FEW, _MUCH = 3, 1 << 18  # sessions to search, and bytes of frames for each, before all rows are located
_NEVER = int(np.iinfo(np.int64).max)


Found = tuple[list[tuple[Schema, Rows]], int]


class Tally(NamedTuple):
    """A session's ticks in a journal: the times of the first and the last, and their number."""

    first_ms: int
    last_ms: int
    ticks: int


class JournalView:
    """Raises FileNotFoundError or StoreError as FrameFile does. `close` it.

    `bad` has the errors of frames, by offset; bytes that are no frame are in `file.damage`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = int(path.name)
        self.file = FrameFile(path)
        self.known_to = FILE_SIZE
        self.records: dict[SessionKey, SessionRecord] = {}
        self.forgotten: set[int] = set()  # numbers of forgotten sessions
        self.ends: dict[int, list[EndRecord]] = {}
        self.all_ends: list[EndRecord] = []  # in order of arrival
        self.bad: dict[int, str] = {}
        self._reader = RowsReader(self.file, self.bad)
        self.heads: Heads = np.zeros(0, HEADS)  # of all known ROWS frames
        self._tallied = 0  # frames
        self._asked = 0  # requests for the rows of a session
        self._places: dict[Schema, tuple[Places, Places]] = {}
        self._places_for = -1  # frames
        self._kept: tuple[tuple[SessionKey, int, int], Found] | None = None  # of the last `rows_of`
        self._ticks = self._last = np.zeros(0, np.int64)  # by session number
        self._begins: dict[Schema, npt.NDArray[np.int64]] = {}  # by session number, its first row's time

    @property
    def is_read(self) -> bool:
        """Whether `update` has read anything yet."""
        return self.known_to > FILE_SIZE

    def update(self) -> bool:
        """Read what was appended; False if nothing was."""
        before = self.known_to
        offsets, packed, others = self.file.index(before)
        self.known_to = self.file.scanned_to
        if offsets:
            self.heads = np.concatenate((self.heads, heads_of(offsets, packed)))
        for at, head, payload in others:
            try:
                self._take(head, payload)
            except UNDECODABLE as exc:
                self.bad[at] = f"cannot be decoded ({exc!r:.100})"
        return self.known_to > before

    def _take(self, head: Frame, payload: memoryview) -> None:
        if head.kind == SESSION:
            for record in declared_in(payload):
                if record.is_forgotten:
                    self.forgotten.add(record.number)
                else:
                    self.records[record.key] = record
        elif head.kind == END:
            for end in list(ends_in(payload)):
                self.ends.setdefault(end.number, []).append(end)
                self.all_ends.append(end)

    def greatest_ms(self) -> int:
        """The greatest time of all rows; 0 if there are none."""
        return int(self.heads["greatest_ms"].max(initial=0))

    def rows_of(self, key: SessionKey, after_ms: int = 0) -> Found:
        """A session's rows with t_ms > after_ms, in order of arrival, in parts of one schema; and the number
        of damaged frames and places that may have held some."""
        asked = key, after_ms, self.heads.size
        if self._kept is None or self._kept[0] != asked:
            self._kept = asked, self._read_rows_of(key, after_ms)
        return self._kept[1]

    def _read_rows_of(self, key: SessionKey, after_ms: int) -> Found:
        skipped = int(self.file.damage.bytes > 0)
        record = self.records.get(key)
        if record is None:
            return [], skipped
        number, heads = record.number, self.heads
        wanted = (
            (heads["least_session"] <= number)
            & (number <= heads["greatest_session"])
            & (heads["greatest_ms"] > after_ms)
        )
        heads = heads[wanted]
        self._asked += 1
        if self._asked > _FEW and int(heads["length"].sum()) > _MUCH:
            found = self._located(number, after_ms)
        else:
            found = self._searched(heads, number, after_ms)
        if self.bad:
            skipped += sum(at in self.bad for at in heads["at"].tolist())
        return found, skipped

    def _searched(self, heads: Heads, number: int, after_ms: int) -> list[tuple[Schema, Rows]]:
        """A session's rows in these frames."""
        found = []
        for picked in self._picked(heads):
            rows = picked.of_session(number).rows()
            if rows.size:
                found.append((picked.schema, rows if after_ms < 1 else rows[rows["t_ms"] > after_ms]))
        return found

    def _located(self, number: int, after_ms: int) -> list[tuple[Schema, Rows]]:
        """A session's rows by their offsets: to search the journal for each of a thousand sessions would take
        minutes."""
        if self._places_for != self.heads.size:
            self._places = self._locate()
            self._places_for = self.heads.size
        found = []
        for schema, (session, at) in self._places.items():
            first, last = np.searchsorted(session, [number, number + 1]).tolist()
            if first == last:
                continue
            size = row_dtype(schema.width).itemsize
            rows = np.frombuffer(b"".join(self._pieces_at(at[first:last], size)), row_dtype(schema.width))
            found.append((schema, rows if after_ms < 1 else rows[rows["t_ms"] > after_ms]))
        return found

    def oldest(
        self, at: int, done_at: int, done_ms: int, is_wanted: Callable[[SessionRecord], bool]
    ) -> tuple[int, SessionRecord] | None:
        """The time and the session of the oldest row of wanted sessions, in frames from `at` on. In frames
        before `done_at` only rows later than `done_ms` count.

        Frames are read in order of their least time, so usually only one is.
        """
        heads = self.heads[self.heads["at"] >= at]
        is_begun = heads["at"] < done_at
        left = ~is_begun | (heads["greatest_ms"] > done_ms)
        heads, is_begun = heads[left], is_begun[left]
        least = np.where(is_begun, np.maximum(heads["least_ms"], done_ms + 1), heads["least_ms"])
        wanted = {one.number: one for one in self.records.values() if is_wanted(one)}
        found: tuple[int, SessionRecord] | None = None
        for frame in np.argsort(least, kind="stable").tolist():
            if found is not None and found[0] <= least[frame]:
                break
            for picked in self._picked(heads[frame : frame + 1]):
                t_ms, session = picked.t_ms, picked.session
                mine = np.isin(session, list(wanted)) & (t_ms > (done_ms if is_begun[frame] else -1))
                if mine.any() and (found is None or int(t_ms[mine].min()) < found[0]):
                    first = int(np.flatnonzero(mine)[t_ms[mine].argmin()])
                    found = int(t_ms[first]), wanted[int(session[first])]
        return found

    def pieces(self, since: int = 0) -> Iterator[dict[Schema, Rows]]:
        """All rows, except of the first `since` frames, some mebibytes at a time; rows of each schema are in
        order of arrival."""
        for piece in self._reader.pieces(self.heads[since:]):
            parts: dict[Schema, list[Rows]] = {}
            for picked in piece:
                parts.setdefault(picked.schema, []).append(picked.rows())
            yield {schema: np.concatenate(some) for schema, some in parts.items()}

    def picked(self, after_ms: int, until_ms: int = _NEVER) -> Iterator[Picked]:
        """The rows of all frames that may have some with after_ms < t_ms <= until_ms; rows of each schema are
        in order of arrival."""
        heads = self.heads
        return self._picked(heads[(heads["greatest_ms"] > after_ms) & (heads["least_ms"] <= until_ms)])

    def _picked(self, heads: Heads) -> Iterator[Picked]:
        for piece in self._reader.pieces(heads):
            yield from piece

    def _locate(self) -> dict[Schema, tuple[Places, Places]]:
        """The session and the offset of each row of each schema, by session, then offset."""
        parts: dict[Schema, list[tuple[Places, Places]]] = {}
        for picked in self._picked(self.heads):
            parts.setdefault(picked.schema, []).append((picked.session, picked.at))
        found = {}
        for schema, some in parts.items():
            session, at = (np.concatenate(column) for column in zip(*some, strict=True))
            order = np.argsort(session, kind="stable")
            found[schema] = session[order], at[order]
        return found

    def _pieces_at(self, at: Places, size: int) -> Iterator[bytes]:
        """The rows at these offsets; adjacent rows are read together."""
        first = np.flatnonzero(np.diff(at, prepend=-size) != size)
        for begin, end in zip(first.tolist(), [*first[1:].tolist(), at.size], strict=True):
            yield self.file.read(int(at[begin]), (end - begin) * size)

    def tallies(self, keys: Set[SessionKey] | None = None) -> Iterator[tuple[SessionKey, Tally]]:
        """The tallies of all sessions that the journal declares, or of those in `keys`."""
        if keys is not None and self._tallied < self.heads.size:
            for key in keys & self.records.keys():
                times = [rows["t_ms"] for _, rows in self.rows_of(key)[0]]
                ticks = sum(one.size for one in times)
                first_ms = min((int(one.min()) for one in times), default=0)
                yield key, Tally(first_ms, max((int(one.max()) for one in times), default=0), ticks)
            return
        self._tally()
        first = np.full(self._ticks.size, _NEVER)
        for begins in self._begins.values():
            np.minimum(first[: begins.size], begins, out=first[: begins.size])
        columns = list(zip(first.tolist(), self._last.tolist(), self._ticks.tolist(), strict=True))
        for key in self.records if keys is None else keys & self.records.keys():
            number = self.records[key].number
            tally = columns[number] if number < len(columns) else (0, 0, 0)
            yield key, Tally(*tally) if tally[2] else Tally(0, 0, 0)

    def schemas_of(self, key: SessionKey) -> list[Schema]:
        """The schemas of a session's rows in this journal, in order of arrival."""
        if self._tallied < self.heads.size and self._kept is not None and self._kept[0][0] == key:
            parts = sorted(self.rows_of(key)[0], key=lambda part: int(part[1]["t_ms"][0]))
            return list(dict.fromkeys(schema for schema, _ in parts))
        self._tally()
        record = self.records.get(key)
        if record is None:
            return []
        begins = [
            (int(first_ms[record.number]), schema)
            for schema, first_ms in self._begins.items()
            if record.number < first_ms.size and first_ms[record.number] < _NEVER
        ]
        return [schema for _, schema in sorted(begins, key=lambda pair: pair[0])]

    def _tally(self) -> None:
        heads = self.heads
        fresh, self._tallied = heads[self._tallied :], heads.size
        if not fresh.size:
            return
        self._ticks = self._widened(self._ticks, fresh, 0)
        self._last = self._widened(self._last, fresh, 0)
        for picked in self._picked(fresh):
            session, t_ms = picked.session, picked.t_ms
            inside = session < self._ticks.size
            if not inside.all():
                session, t_ms = session[inside], t_ms[inside]
            self._ticks += np.bincount(session, minlength=self._ticks.size)
            np.maximum.at(self._last, session, t_ms)
            first = self._begins.get(picked.schema, np.zeros(0, np.int64))
            first = self._begins[picked.schema] = self._widened(first, fresh, _NEVER)
            np.minimum.at(first, session, t_ms)

    def _widened(self, column: npt.NDArray[np.int64], heads: Heads, fill: int) -> npt.NDArray[np.int64]:
        """A column by session number, widened for the sessions of these frames."""
        # A number that is too large for the file is damage.
        size = min(int(heads["greatest_session"].max()) + 1, self.known_to)
        return np.append(column, np.full(max(size - column.size, 0), fill, np.int64))

    def close(self) -> None:
        self.file.close()
