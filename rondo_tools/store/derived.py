"""Derived files: roll-ups append to them. Each folder has one open file.

Strategy: a file that state.json does not name is no data, nor are bytes beyond the length in it. So an
append counts only when the roll-up commits. The open file is continued if it is exactly as long as
state.json says, else a new one begins. Nothing is ever truncated.

An append of rows begins with an INDEX frame: the offsets of the frames that follow, and their sessions. A
closed file ends with an index of all its frames. So a reader of one session skips the others. In an append
rows are ordered by origin, then by session.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple
from zlib import crc32

import numpy as np
import numpy.typing as npt

from rondo_tools import files
from rondo_tools.errors import StoreError
from rondo_tools.store.carry import OpenFile
from rondo_tools.store.coarse_ends import Ends, end_frames
from rondo_tools.store.format import frames, records
from rondo_tools.store.format.frame_file import FrameFile
from rondo_tools.store.format.frames import FILE_SIZE, HEAD_SIZE, MAX_PAYLOAD, Rows
from rondo_tools.store.format.layout import Layout
from rondo_tools.store.format.records import SessionRecord
from rondo_tools.store.format.rollup import Ints
from rondo_tools.store.format.schema import Schema
from rondo_tools.store.format.state import DerivedFile, State
from rondo_tools.store.frame_writer import FrameWriter

log = logging.getLogger(__name__)

FILES_A_SPAN = 8  # a file is closed once it is an eighth of its tier's span old
MAX_FILE = 1 << 28  # bytes: an open file cannot be evicted, and offsets have 32 bits
MAX_SCHEMAS = 1 << 16  # of a file: their numbers have 16 bits
SESSIONS_A_FRAME = 64
_DECLARED_A_FRAME = 256  # of at most 64 KiB each, usually 100 bytes
_INDEXED = MAX_PAYLOAD // records.INDEX.itemsize

Index = npt.NDArray[np.void]
Describe = Callable[[Ints, Ints, Ints], list[SessionRecord]]
"""Gives the records of sessions with these slots, numbers in the file, and `last_ms`."""


class Part(NamedTuple):
    """Rows of one schema to append, in time order of each session.

    `rows["session"]` is set by the file; `slots` and `origins` (the journal of the last tick; 0 for
    ticks) belong to the rows, one each.
    """

    schema: Schema
    slots: Ints
    origins: Ints
    rows: Rows


class Appended(NamedTuple):
    """A ROWS frame at `offset` of file `number`, with the slot and the time of each row."""

    number: int
    offset: int
    slots: Ints
    t_ms: Ints


class _New(NamedTuple):
    """A frame to append, and its entry in the INDEX."""

    kind: int
    least_session: int
    greatest_session: int
    frame: bytes


class Derived:
    """The open file of `folder`. `state` is changed in place; commit it after `sync`.

    `known` is what the open file declares; None if that is not known. Methods raise OSError.
    """

    def __init__(
        self,
        layout: Layout,
        folder: str,
        state: State,
        known: OpenFile | None,
        store_id: bytes,
        now_ms: int,
        span_ms: int,
        max_file: int = MAX_FILE,
    ) -> None:
        self._layout, self._folder, self._store_id = layout, folder, store_id
        self._state, self._now_ms, self._span_ms, self._max_file = state, now_ms, span_ms, max_file
        self._files = state.files.setdefault(folder, {})
        self._writers: list[FrameWriter] = []  # the last is the open one
        self._made: list[FrameWriter] = []
        self._is_open = False
        self.known = known or OpenFile(0)
        self._begin()

    @property
    def number(self) -> int:
        return self.known.number

    def append(self, parts: list[Part], describe: Describe, ends: Ends | None = None) -> list[Appended]:
        """Append rows: first the declarations of their sessions and schemas, then the rows, then the `ends`
        of sessions whose last row is among them."""
        if not any(part.slots.size for part in parts):
            return []
        writer = self._open(len({part.schema for part in parts}))
        found: list[_New] = []
        self._declare(parts, describe, writer.seed, found)
        placed: list[tuple[int, Ints, Ints]] = []  # the frame's place in `found`, its slots and times
        numbers = {schema: number for number, schema in enumerate(self.known.schemas)}
        for part in parts:
            number = numbers[part.schema]
            local = self.known.numbers[part.slots]
            order = np.lexsort((local, part.origins))  # stable
            rows, slots, origins = part.rows[order], part.slots[order], part.origins[order]
            rows["session"] = local[order]
            for begin, end in _frames_of(rows, origins):
                some = rows[begin:end]
                least, greatest = int(some["session"][0]), int(some["session"][-1])
                for frame in frames.rows_frames(writer.seed, some, number, origin=int(origins[begin])):
                    placed.append((len(found), slots[begin:end], some["t_ms"]))
                    found.append(_New(frames.ROWS, least, greatest, frame))
        if ends is not None:
            for part in parts:
                of_rows = numbers[part.schema], part.slots, part.rows["t_ms"], self.known.numbers
                found += (_New(frames.END, 0, 0, one) for one in end_frames(writer.seed, *of_rows, ends))
        offsets = self._write_indexed(writer, found)
        return [Appended(self.number, offsets[place], *columns) for place, *columns in placed]

    def append_frames(self, make: Callable[[int], list[bytes]]) -> tuple[int, int, int]:
        """Append the frames of `make(seed)`, without an INDEX; gives (file, from, to)."""
        writer = self._open(0)
        begin = writer.end
        for frame in make(writer.seed):
            writer.add(frame)
        self._write(writer)
        return self.number, begin, writer.size

    def sync(self) -> None:
        """Force the appended frames to the disk."""
        for writer in self._writers:
            writer.sync()

    def close(self) -> None:
        """Close the descriptors."""
        for writer in self._writers:
            writer.close()

    def undo(self) -> None:
        """Remove the new files, because the roll-up failed."""
        self.close()
        for writer in self._made:
            try:
                writer.path.unlink()
            except OSError as exc:
                log.warning("%s: cannot be removed: %s", writer.path, exc.strerror)

    def _begin(self) -> None:
        """Find the open file; end it if it is too old."""
        newest = max(self._files, default=0)
        file = self._files.get(newest)
        if file is None or file.closed_ms:
            return
        writer = self._continued(newest, file) if self.known.number == newest else None
        if writer is None:
            file.closed_ms = self._now_ms  # it cannot be continued
            return
        self._writers.append(writer)
        self._is_open = True
        if not 0 <= self._now_ms - file.begun_ms < self._span_ms:
            self._end_file(writer)

    def _continued(self, number: int, file: DerivedFile) -> FrameWriter | None:
        path = self._layout.file(self._folder, number)
        try:
            with FrameFile(path) as found:
                if found.size != file.length or found.header[:2] != (number, self._store_id):
                    return None
                return FrameWriter(path, found.header, file.length)
        except (OSError, StoreError) as exc:
            log.warning("%s: cannot be continued (%s); another file begins", path, exc)
            return None

    def _open(self, schemas: int) -> FrameWriter:
        """The file to append to; it can declare so many more schemas."""
        known = self.known
        if self._is_open and (
            self._writers[-1].size >= self._max_file or len(known.schemas) + schemas > MAX_SCHEMAS
        ):
            self._end_file(self._writers[-1])
        if not self._is_open:
            folder = self._layout.folder(self._folder)
            files.make_folder(folder)
            there = self._layout.numbers(self._folder)
            number = max(self._state.next.get(self._folder, 1), *(one + 1 for one in there), 1)
            header = frames.new_file(number, self._store_id)
            writer = FrameWriter(self._layout.file(self._folder, number), header)
            self._writers.append(writer)
            self._made.append(writer)
            self._is_open = True
            self._state.next[self._folder] = number + 1
            self._files[number] = DerivedFile(0, self._now_ms)
            known.number, known.sessions, known.schemas = number, 0, []
            known.numbers = np.full(known.numbers.size, -1)
        return self._writers[-1]

    def _end_file(self, writer: FrameWriter) -> None:
        """Write the index of the whole file, and close it. A file without INDEX frames gets none."""
        file = self._files[self.number]
        with FrameFile(writer.path) as found:
            tables = list(index_tables(found, writer.size))
        if tables:
            whole, file.index_at = np.concatenate(tables), writer.end
            for at in range(0, whole.size, _INDEXED):
                some = whole[at : at + _INDEXED]
                writer.add(frames.frame(writer.seed, frames.INDEX, some.tobytes(), entries=some.size))
            self._write(writer)
        file.closed_ms = self._now_ms
        self._is_open = False

    def _declare(
        self,
        parts: list[Part],
        describe: Describe,
        seed: int,
        found: list[_New],
    ) -> None:
        known = self.known
        declared = set(known.schemas)
        for part in parts:
            if part.schema not in declared:
                declared.add(part.schema)
                number = len(known.schemas)
                frame = frames.frame(seed, frames.SCHEMA, part.schema.packed, schema=number)
                found.append(_New(frames.SCHEMA, 0, 0, frame))
                known.schemas.append(part.schema)
        size = max(int(part.slots.max(initial=-1)) for part in parts) + 1
        if known.numbers.size < size:
            more = size - known.numbers.size
            known.numbers = np.concatenate((known.numbers, np.full(more, -1)))
            known.row_ms = np.concatenate((known.row_ms, np.zeros(more, np.int64)))
        is_new = np.zeros(known.numbers.size, np.bool_)
        for part in parts:
            is_new[part.slots] = True
        slots = np.flatnonzero(is_new & (known.numbers < 0))
        first = known.sessions
        known.numbers[slots] = first + np.arange(slots.size)
        known.sessions += slots.size
        new = describe(slots, known.numbers[slots], known.row_ms[slots])
        for payload, some in _packed_sessions(new):
            frame = frames.frame(seed, frames.SESSION, payload, entries=len(some))
            found.append(_New(frames.SESSION, some[0].number, some[-1].number, frame))
        for part in parts:
            np.maximum.at(known.row_ms, part.slots, part.rows["t_ms"])

    def _write_indexed(self, writer: FrameWriter, found: list[_New]) -> list[int]:
        """Write frames, after an INDEX of them; gives the offset of each."""
        offsets: list[int] = []
        for begin in range(0, len(found), _INDEXED):
            some = found[begin : begin + _INDEXED]
            index = np.zeros(len(some), records.INDEX)
            sizes = np.array([len(one.frame) for one in some])
            index["kind"] = [one.kind for one in some]
            index["least_session"] = [one.least_session for one in some]
            index["greatest_session"] = [one.greatest_session for one in some]
            index["offset"] = writer.end + HEAD_SIZE + index.nbytes + np.cumsum(sizes) - sizes
            offsets += index["offset"].tolist()
            writer.add(frames.frame(writer.seed, frames.INDEX, index.tobytes(), entries=index.size))
            for one in some:
                writer.add(one.frame)
        self._write(writer)
        return offsets

    def _write(self, writer: FrameWriter) -> None:
        end = writer.end
        writer.write()
        if writer.size != end:
            raise OSError(f"{writer.path}: wrote {end - writer.size} bytes less than asked")
        self._files[self.number].length = writer.size


def index_tables(file: FrameFile, end: int) -> Iterator[Index]:
    """The INDEX frames of a file up to `end`, from one to the next; stops at any other frame."""
    at = FILE_SIZE
    while at + HEAD_SIZE <= end:
        head = frames.parse_head(file.read(at, HEAD_SIZE), 0, file.seed)
        if head is None or head.kind != frames.INDEX or not head.entries:
            return
        payload = file.read(at + HEAD_SIZE, head.length)
        if crc32(payload, file.seed) != head.payload_crc:
            return
        table = np.frombuffer(payload, records.INDEX)
        yield table
        last_at = int(table["offset"][-1])
        last = frames.parse_head(file.read(last_at, HEAD_SIZE), 0, file.seed)
        if last is None or last_at < at:
            return
        at = last_at + last.size


def _frames_of(rows: Rows, origins: Ints) -> Iterator[tuple[int, int]]:
    """Split rows, ordered by origin and session, into frames: [begin, end) of each."""
    session = rows["session"]
    is_new = np.ones(len(rows), np.bool_)
    is_new[1:] = (session[1:] != session[:-1]) | (origins[1:] != origins[:-1])
    first = np.flatnonzero(is_new)
    runs = np.flatnonzero(np.diff(origins[first], prepend=-1))
    begins: list[int] = []
    for begin, end in pairwise((*runs.tolist(), first.size)):
        begins += first[begin:end:SESSIONS_A_FRAME].tolist()
    per_frame = MAX_PAYLOAD // rows.dtype.itemsize
    for begin, end in pairwise((*begins, len(rows))):
        for at in range(begin, end, per_frame):
            yield at, min(at + per_frame, end)


def _packed_sessions(new: list[SessionRecord]) -> Iterator[tuple[bytes, list[SessionRecord]]]:
    """Payloads of SESSION frames, each small enough."""
    for begin in range(0, len(new), _DECLARED_A_FRAME):
        some = new[begin : begin + _DECLARED_A_FRAME]
        payload = records.pack_sessions(some)
        if len(payload) <= MAX_PAYLOAD:
            yield payload, some
        else:
            yield from ((records.pack_sessions([one]), [one]) for one in some)
