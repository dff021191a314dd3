"""Derived files as readers see them: coarse rows, descriptions and last rows, up to the lengths in
state.json.

Strategy: an INDEX frame has the offsets of the frames after it, and a closed file ends with an INDEX of all
frames. So a reader of one session skips the frames of the others. If an INDEX is damaged, frames are found
by their headers. When a file has grown, only the new part is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import msgpack
import numpy as np
import numpy.typing as npt

from rondo_tools.store.format.frame_file import FrameFile
from rondo_tools.store.format.frames import (
    DESCRIPTIONS,
    FILE_SIZE,
    HEAD_SIZE,
    INDEX,
    MAX_PAYLOAD,
    ROWS,
    SCHEMA,
    SESSION,
    Frame,
    Rows,
    parse_head,
    row_dtype,
    rows_of,
)
from rondo_tools.store.format.records import INDEX as INDEX_ROW
from rondo_tools.store.format.records import (
    TABLE,
    UNDECODABLE,
    Description,
    Place,
    SessionKey,
    SessionRecord,
    description_table,
    instance_hash,
    packed_description_at,
    packed_descriptions_in,
    sessions_in,
)
from rondo_tools.store.format.rollup import Flags
from rondo_tools.store.format.schema import Schema, unpack_schema
from rondo_tools.store.format.state import DerivedFile

_GUESS = 4 << 10  # bytes of a frame whose size is not known yet
_LARGEST = HEAD_SIZE + MAX_PAYLOAD


class Read(NamedTuple):
    """A frame; its payload is None if it is damaged."""

    head: Frame
    payload: memoryview | None


class DerivedView:
    """A derived file up to `length`. Raises FileNotFoundError or StoreError as FrameFile does. `close` it.

    `bad` has the errors of its frames, by offset.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = int(path.name)
        self.file = FrameFile(path)
        self.length = 0
        self.bad: dict[int, str] = {}

    def update(self, state: DerivedFile) -> None:
        """Read what was appended, up to the length in state.json."""
        self.length = state.length

    def read(self, at: int, size: int = _GUESS) -> Read | None:
        """The frame at `at`, read with `size` bytes at first; None if there is none."""
        data = self.file.read(at, size)
        head = parse_head(data, 0, self.file.seed)
        if head is None or at + HEAD_SIZE + head.length > self.length:
            self.bad.setdefault(at, "no frame, or a damaged header")
            return None
        if HEAD_SIZE + head.length > len(data):
            data += self.file.read(at + len(data), HEAD_SIZE + head.length - len(data))
        payload = memoryview(data)[HEAD_SIZE : HEAD_SIZE + head.length]
        if crc32(payload, self.file.seed) != head.payload_crc:
            self.bad.setdefault(at, "its payload is damaged")
            return Read(head, None)
        return Read(head, payload)

    def close(self) -> None:
        self.file.close()


class RowsView(DerivedView):
    """A derived file of rows: of a tier, or of last rows."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._known_to = FILE_SIZE
        self._parts = [np.zeros(0, INDEX_ROW)]
        self._schemas: dict[int, Schema | None] = {}
        self._sessions: dict[int, SessionKey] | None = None
        self._last_read: tuple[int, tuple[Schema, Rows] | None] = -1, None
        self._is_closed = self._is_torn = False
        self._schemas_at: dict[int, Schema | None] = {}

    def update(self, state: DerivedFile) -> None:
        super().update(state)
        if self._is_closed or self._known_to >= self.length:
            return
        self._sessions = None
        if state.index_at and (table := self._whole_index(state.index_at)) is not None:
            self._parts, self._known_to, self._is_closed = [table], self.length, True
            return
        self._walk()

    def index(self) -> npt.NDArray[np.void]:
        """The INDEX rows of all known frames, by offset."""
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts)]
        return self._parts[0]

    def _whole_index(self, at: int) -> npt.NDArray[np.void] | None:
        """The INDEX at the end of a closed file, of one or more frames."""
        parts = []
        while at + HEAD_SIZE <= self.length:
            found = self.read(at, MAX_PAYLOAD)
            if found is None or found.payload is None or found.head.kind != INDEX:
                return None
            parts.append(np.frombuffer(found.payload, INDEX_ROW, found.head.entries))
            at += found.head.size
        return np.concatenate(parts) if parts else None

    def _walk(self) -> None:
        """Go from INDEX to INDEX; without one, from frame to frame."""
        at = self._known_to
        while at + HEAD_SIZE <= self.length:
            found = self.read(at)
            if found is None:
                self._is_torn = True
                at += 8
                while at + HEAD_SIZE <= self.length and self._head(at) is None:
                    at += 8
                continue
            head, payload = found
            if head.kind == INDEX and payload is not None and head.entries:
                table = np.frombuffer(payload, INDEX_ROW, head.entries)
                last_at = int(table["offset"][-1])
                last = self._head(last_at) if last_at > at else None
                if last is not None:
                    self._parts.append(table)
                    at = last_at + last.size
                    continue
            elif head.kind in (ROWS, SESSION, SCHEMA):
                least, greatest = head.least_session, head.greatest_session
                if head.kind == SESSION:
                    least, greatest = 0, (1 << 32) - 1
                self._parts.append(np.array([(head.kind, least, greatest, at)], INDEX_ROW))
            at += head.size
        self._known_to = at

    def _head(self, at: int) -> Frame | None:
        return parse_head(self.file.read(at, HEAD_SIZE), 0, self.file.seed)

    def schema(self, number: int) -> Schema | None:
        """A schema of this file; None if it is damaged or missing."""
        if number not in self._schemas:
            index = self.index()
            for at in index["offset"][index["kind"] == SCHEMA].tolist():
                found = self.read(at)
                if found is not None and found.payload is not None:
                    self._schemas[found.head.schema] = unpack_schema(bytes(found.payload))
            self._schemas.setdefault(number, None)
        return self._schemas[number]

    def schema_at(self, at: int) -> Schema | None:
        """The schema of a ROWS frame."""
        if at not in self._schemas_at:
            head = self._head(at)
            self._schemas_at[at] = None if head is None or head.kind != ROWS else self.schema(head.schema)
        return self._schemas_at[at]

    def numbers_of(self, key: SessionKey) -> list[int]:
        """A session's numbers in this file: none, or one for each process that declared it."""
        needle = msgpack.packb(key[0]) + msgpack.packb(key[1])
        index = self.index()
        return [
            record.number
            for at in index["offset"][index["kind"] == SESSION].tolist()
            if (found := self.read(at)) is not None
            and found.payload is not None
            and needle in bytes(found.payload)
            for record in sessions_in(found.payload)
            if record.key == key
        ]

    def rows_of(self, key: SessionKey, tier: int, after_ms: int = 0) -> tuple[list[tuple[Schema, Rows]], int]:
        """A session's rows with t_ms > after_ms, a part for each frame, in the order of the file; and the
        number of damaged frames that may have held some."""
        found, skipped = [], int(self._is_torn)
        index = self.index()
        for number in self.numbers_of(key):
            may_have = (index["least_session"] <= number) & (number <= index["greatest_session"])
            for at, frame in self._frames_of_rows(may_have):
                if frame is not None and frame.head.greatest_ms <= after_ms:
                    continue
                schema_rows = None if frame is None else self.rows(at, frame, tier)
                if schema_rows is None:
                    skipped += 1
                    continue
                schema, rows = schema_rows
                rows = rows[(rows["session"] == number) & (rows["t_ms"] > after_ms)]
                if rows.size:
                    found.append((schema, rows))
        return found, skipped

    def rows(self, at: int, found: Read, tier: int) -> tuple[Schema, Rows] | None:
        """The rows of a ROWS frame; None, and an entry in `bad`, if they are damaged."""
        if found.payload is None:
            return None
        schema = self.schema(found.head.schema)
        if schema is None:
            self.bad.setdefault(at, f"its schema {found.head.schema} is damaged or missing")
            return None
        width = schema.width_in(tier)
        if found.head.kind != ROWS or row_dtype(width).itemsize * found.head.entries != found.head.length:
            self.bad.setdefault(at, f"its rows do not fit schema {found.head.schema}")
            return None
        return schema, rows_of(found.payload, width)

    def last_rows(self, place: Place) -> tuple[Schema, Rows] | None:
        """The rows that a description points at; None if they are missing or damaged."""
        if self._last_read[0] != place.offset:  # a frame usually has rows of many sessions
            frame = self.read(place.offset)
            self._last_read = place.offset, None if frame is None else self.rows(place.offset, frame, 0)
        if self._last_read[1] is None:
            return None
        schema, rows = self._last_read[1]
        rows = rows[place.first : place.first + place.rows]
        return (schema, rows) if rows.size == place.rows > 0 else None

    def sessions(self) -> dict[int, SessionKey]:
        """The keys of the sessions that this file declares, by number."""
        if self._sessions is None:
            self._sessions = {number: record.key for number, record in self.records().items()}
        return self._sessions

    def records(self) -> dict[int, SessionRecord]:
        """The sessions that this file declares, by number."""
        index = self.index()
        frames = map(self.read, index["offset"][index["kind"] == SESSION].tolist())
        return {
            record.number: record
            for frame in frames
            if frame is not None and frame.payload is not None
            for record in sessions_in(frame.payload)
        }

    def all_rows(self, tier: int, after_ms: int = -1) -> Iterator[tuple[Schema, Rows]]:
        """The rows of all undamaged frames that have some with t_ms > after_ms, in the order of the file."""
        for at, frame in self._frames_of_rows():
            if frame is None or frame.head.greatest_ms <= after_ms:
                continue
            found = self.rows(at, frame, tier)
            if found is not None:
                yield found

    def _frames_of_rows(self, wanted: Flags | bool = True) -> Iterator[tuple[int, Read | None]]:
        """The ROWS frames among the `wanted` entries of the index, and their offsets."""
        index = self.index()
        # Frames are in the order of the index: the offset of the next one gives about the size of each.
        sizes = np.diff(index["offset"].astype(np.int64), append=self.length).clip(_GUESS, _LARGEST)
        mine = (index["kind"] == ROWS) & wanted
        for at, size in zip(index["offset"][mine].tolist(), sizes[mine].tolist(), strict=True):
            yield at, self.read(at, size)


def schemas_in(views: Iterable[tuple[int, RowsView]], key: SessionKey) -> list[Schema]:
    """The schemas of a session's rows in these files (tier, view), by the time of their first rows."""
    parts = [part for tier, view in views for part in view.rows_of(key, tier)[0]]
    return [schema for schema, _ in sorted(parts, key=lambda part: int(part[1]["t_ms"][0]))]


class EndedView(DerivedView):
    """A file of descriptions: keeps the offset, the key and the last time of each."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._known_to = FILE_SIZE
        self._frames: list[tuple[int, Frame, npt.NDArray[np.void]]] = []

    def update(self, state: DerivedFile) -> None:
        super().update(state)
        if self._known_to >= self.length:
            return
        for at, head, payload in self.file.frames(self._known_to, self.length, (DESCRIPTIONS,)):
            if head.kind != DESCRIPTIONS:
                continue
            if head.entries * TABLE.itemsize > head.length:
                self.bad.setdefault(at, "its table is longer than the frame")
                continue
            self._frames.append(
                (at, head, description_table(bytes(payload[: head.entries * TABLE.itemsize]), head.entries))
            )
        self._known_to = self.length

    def descriptions(
        self, instance: str | None = None, since_ms: int = 0, keys: Sequence[int] = ()
    ) -> Iterator[tuple[Any, ...]]:
        """The arrays of descriptions (see `records.description_of`), in the order of the file; only those
        of `instance`, whose last tick is at or after `since_ms` or which have none, or those with one of
        `keys`. Others are not decoded."""
        for at, head, table in self._frames:
            wanted = table["last_ms"] >= since_ms
            if since_ms:
                wanted |= (table["last_ms"] == 0) | np.isin(table["key"], np.array(keys, np.uint64))
            if instance is not None:
                wanted &= (table["key"] >> 32) == instance_hash(instance)
            places = np.flatnonzero(wanted)
            if not places.size:
                continue
            found = self.read(at, head.size)
            if found is None or found.payload is None:
                continue
            try:
                if places.size == head.entries:
                    some = list(packed_descriptions_in(found.payload, head.entries))
                else:
                    some = [
                        packed_description_at(found.payload, head.entries, place) for place in places.tolist()
                    ]
                if set(map(len, some)) != {len(Description._fields)}:
                    raise ValueError("not a description")
            except UNDECODABLE as exc:
                self.bad.setdefault(at, f"cannot be decoded ({exc!r:.100})")
                continue
            yield from some if instance is None else (array for array in some if array[0] == instance)
