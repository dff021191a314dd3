"""A journal as readers see it: which sessions it has, and the rows of one of them.

Strategy: `update` takes up what was appended since it looked last, and keeps the headers of ROWS
frames as a table; rows are read when they are asked for. A writer may append meanwhile: what is not
whole yet is seen by the next `update`.

Rows are picked from many small frames at once: a row begins at a multiple of 4 bytes, so the frames
of a stretch of the file are one array of 32-bit words, and session numbers are gathered from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np
import numpy.typing as npt

from rondo_tools.store.format.frames import (
    END,
    FILE_SIZE,
    HEAD_SIZE,
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
    ends_in,
    sessions_in,
)
from rondo_tools.store.format.schema import Schema
from rondo_tools.store.frame_file import FrameFile

_STRETCH = 8 << 20  # bytes read at once
_NEVER = int(np.iinfo(np.int64).max)
_RAW = np.dtype(
    {
        "names": ["length", "schema", "entries", "crc", "least_ms", "greatest_ms", "least_session",
                  "greatest_session"],
        "formats": ["<u4", "<u2", "<u4", "<u4", "<i8", "<i8", "<u4", "<u4"],
        "offsets": [0, 6, 8, 12, 16, 24, 32, 36],
        "itemsize": HEAD_SIZE,
    }
)  # fmt: skip
_HEADS = np.dtype([("at", "<i8"), *((name, "<i8") for name in _RAW.names or ())])
Heads = npt.NDArray[np.void]


Found = tuple[list[tuple[Schema, Rows]], int]


class Tally(NamedTuple):
    """What a journal has of a session: times of its first and last tick there, and how many."""

    first_ms: int
    last_ms: int
    ticks: int


class JournalView:
    """Raises FileNotFoundError or StoreError as FrameFile does. `close` it.

    `bad` says, by offset, which frames are not what they should be; what is no frame at all is in
    `file.damage`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = int(path.name)
        self.file = FrameFile(path)
        self.known_to = FILE_SIZE
        self.records: dict[SessionKey, SessionRecord] = {}
        self.ends: dict[int, list[EndRecord]] = {}
        self.bad: dict[int, str] = {}
        self.heads: Heads = np.zeros(0, _HEADS)  # of all ROWS frames that are known
        self._tallied = 0  # frames
        self._kept: tuple[tuple[SessionKey, int, int], Found] | None = None  # of the last `rows_of`
        self._ticks = self._last = np.zeros(0, np.int64)  # by session number
        self._begins: dict[Schema, npt.NDArray[np.int64]] = {}  # by session number, its first row's time

    def update(self) -> bool:
        """Take up what was appended; says whether anything was."""
        before = self.known_to
        offsets, packed, others = self.file.index(before)
        self.known_to = self.file.scanned_to
        if offsets:
            heads = np.zeros(len(offsets), _HEADS)
            raw = np.frombuffer(packed, _RAW)
            for name in _RAW.names or ():
                heads[name] = raw[name]
            heads["at"] = offsets
            self.heads = np.concatenate((self.heads, heads))
        for at, head, payload in others:
            try:
                self._take(head, payload)
            except UNDECODABLE as exc:
                self.bad[at] = f"cannot be decoded ({exc!r:.100})"
        return self.known_to > before

    def _take(self, head: Frame, payload: memoryview) -> None:
        if head.kind == SESSION:
            self.records.update([(record.key, record) for record in sessions_in(payload)])
        elif head.kind == END:
            for end in list(ends_in(payload)):
                self.ends.setdefault(end.number, []).append(end)

    def greatest_ms(self) -> int:
        """The greatest time of all rows; 0 if there are none."""
        return int(self.heads["greatest_ms"].max(initial=0))

    def rows_of(self, key: SessionKey, after_ms: int = 0) -> Found:
        """A session's rows with t_ms > after_ms, in the order in which they came, a part for each stretch
        and schema; and how many damaged frames and stretches may have held some."""
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
        found = []
        for schema, words, begins in self._stretches(heads):
            begins = begins[words[begins] == number]
            if begins.size:
                rows = _gather(words, begins, schema.width)
                found.append((schema, rows if after_ms < 1 else rows[rows["t_ms"] > after_ms]))
        if self.bad:
            skipped += sum(at in self.bad for at in heads["at"].tolist())
        return found, skipped

    def pieces(self) -> Iterator[dict[Schema, Rows]]:
        """All rows, some mebibytes at a time, in the order in which they came within each schema."""
        for heads in self._cut(self.heads):
            yield {
                schema: _gather(words, begins, schema.width) for schema, words, begins in self._read(heads)
            }

    def tallies(self, keys: Set[SessionKey] | None = None) -> Iterator[tuple[SessionKey, Tally]]:
        """Of each session that is declared here, or of those of `keys`, what there is of it."""
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
        """The schemas of a session's rows here, in the order in which they came."""
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
        for schema, words, begins in self._stretches(fresh):
            session = words[begins]
            inside = session < self._ticks.size
            if not inside.all():
                session, begins = session[inside], begins[inside]
            t_ms = (words[begins + 2].astype(np.int64) << 32) | words[begins + 1]
            self._ticks += np.bincount(session, minlength=self._ticks.size)
            np.maximum.at(self._last, session, t_ms)
            first = self._widened(self._begins.get(schema, np.zeros(0, np.int64)), fresh, _NEVER)
            np.minimum.at(first, session, t_ms)
            self._begins[schema] = first

    def _widened(self, column: npt.NDArray[np.int64], heads: Heads, fill: int) -> npt.NDArray[np.int64]:
        """A column by session number that has room for the sessions of these frames."""
        # A number that the file has no room to declare is damage.
        size = min(int(heads["greatest_session"].max()) + 1, self.known_to)
        return np.append(column, np.full(max(size - column.size, 0), fill, np.int64))

    def _stretches(self, heads: Heads) -> Iterator[tuple[Schema, Words, Places]]:
        """Read frames: for each piece of the file and schema, its words, and where rows begin in it."""
        for some in self._cut(heads):
            yield from self._read(some)

    def _cut(self, heads: Heads) -> Iterator[Heads]:
        at, ends = 0, heads["at"] + heads["length"]
        while at < heads.size:
            last = max(int(np.searchsorted(ends, heads["at"][at] + _STRETCH, "right")), at + 1)
            yield heads[at:last]
            at = last

    def _read(self, heads: Heads) -> Iterator[tuple[Schema, Words, Places]]:
        begin = int(heads["at"][0])
        size = int(heads["at"][-1] + HEAD_SIZE + heads["length"][-1]) - begin
        data = self.file.read(begin, size)
        view, seed = memoryview(data), self.file.seed
        payload_at = heads["at"] - begin + HEAD_SIZE
        right = np.fromiter(
            (
                crc32(view[at : at + length], seed) == crc
                for at, length, crc in zip(
                    payload_at.tolist(), heads["length"].tolist(), heads["crc"].tolist(), strict=True
                )
            ),
            np.bool_,
            heads.size,
        )
        self._note(heads[~right], "its payload is damaged")
        words = np.frombuffer(data, "<u4", len(data) // 4)
        for number in np.unique(heads["schema"][right]).tolist():
            mine = right & (heads["schema"] == number)
            schema = self.file.schemas.get(number)
            if schema is None:
                self._note(heads[mine], f"its schema {number} is damaged or missing")
                continue
            itemsize = row_dtype(schema.width).itemsize
            fits = heads["entries"] * itemsize == heads["length"]
            self._note(heads[mine & ~fits], f"its rows do not fit schema {number}")
            mine &= fits
            count = heads["entries"][mine]
            before = np.cumsum(count) - count
            row = np.arange(int(count.sum())) - np.repeat(before, count)
            yield schema, words, (np.repeat(payload_at[mine], count) + itemsize * row) // 4

    def _note(self, heads: Heads, what: str) -> None:
        for at in heads["at"].tolist():
            self.bad.setdefault(at, what)

    def close(self) -> None:
        self.file.close()


Words = npt.NDArray[np.uint32]
Places = npt.NDArray[np.int64]


def _gather(words: Words, begins: Places, width: int) -> Rows:
    dtype = row_dtype(width)
    rows: Rows = words[begins[:, np.newaxis] + np.arange(dtype.itemsize // 4)].view(dtype).reshape(-1)
    return rows
