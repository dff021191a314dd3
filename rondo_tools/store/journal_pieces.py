"""A closed journal, read for the roll-up: its rows in pieces, its sessions by slot, its ends.

Strategy: frames are gathered until they have 16 MiB of rows, and yielded together, the rows of each schema in
one array. So the cost for each row is small, and memory is bounded. Damaged data, and rows that do not fit
their declarations, are skipped and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Self

import msgpack
import numpy as np

from rondo_tools.errors import StoreError
from rondo_tools.store.format import frames
from rondo_tools.store.format.frame_file import FrameFile
from rondo_tools.store.format.frames import Frame, Rows
from rondo_tools.store.format.records import EndRecord, SessionRecord, declared_in, ends_in
from rondo_tools.store.format.rollup import Ints
from rondo_tools.store.format.schema import Schema

PIECE = 16 << 20  # bytes of rows
_UNDECODABLE = (ValueError, TypeError, AttributeError, msgpack.UnpackException)


class SlotRows(NamedTuple):
    """Rows in order of arrival, and the slot of each."""

    slots: Ints
    rows: Rows


Piece = Mapping[Schema, SlotRows]


class JournalPieces:
    """The journal at `path`. Raises FileNotFoundError or StoreError as FrameFile does. The owner closes it.

    `slot_of` gives a declared session's slot, or -1 to leave out its rows and ends.
    """

    def __init__(self, path: Path, slot_of: Callable[[SessionRecord], int], piece: int = PIECE) -> None:
        self.file = FrameFile(path)
        self.ends: list[tuple[int, EndRecord]] = []  # (slot, end), in the order of the file
        self._slot_of, self._piece = slot_of, piece
        self._slots = np.empty(0, np.int64)  # by the session's number; -2: not declared

    def pieces(self, after_ms: int = -1) -> Iterator[Piece]:
        """All rows, except of frames without a tick later than `after_ms`."""
        waiting: dict[Schema, list[memoryview]] = {}
        size, end = 0, self.file.size
        for at, head, payload in self._frames(end):
            if head.kind == frames.ROWS:
                if head.greatest_ms <= after_ms:
                    continue
                schema = self.file.schemas.get(head.schema)
                if schema is None or head.entries * frames.row_dtype(schema.width).itemsize != head.length:
                    self.file.damage.add(at, head.size)
                    continue
                waiting.setdefault(schema, []).append(payload)
                size += head.length
                if size >= self._piece:
                    yield self._made(waiting)
                    waiting, size = {}, 0
            elif head.kind in (frames.SESSION, frames.END):
                try:
                    self._take(head.kind, payload, end)
                except _UNDECODABLE:
                    self.file.damage.add(at, head.size)
        if waiting:
            yield self._made(waiting)

    def _frames(self, end: int) -> Iterator[tuple[int, Frame, memoryview]]:
        """The undamaged frames, up to the first read error: the rest of the file counts as damage."""
        at = frames.FILE_SIZE
        try:
            for at, head, payload in self.file.frames(end=end):
                yield at, head, payload
        except StoreError:
            self.file.damage.add(at, end - at)

    def _take(self, kind: int, payload: memoryview, size: int) -> None:
        if kind == frames.END:
            for end in list(ends_in(payload)):
                if 0 <= end.number < self._slots.size and self._slots[end.number] >= 0:
                    self.ends.append((int(self._slots[end.number]), end))
            return
        declared = list(declared_in(payload))
        greatest = max(session.number for session in declared)
        if greatest >= size:
            raise ValueError(f"session {greatest} in a file of {size} bytes")
        if greatest >= self._slots.size:
            more = max(greatest + 1, 2 * self._slots.size) - self._slots.size
            self._slots = np.concatenate((self._slots, np.full(more, -2)))
        for session in declared:
            self._slots[session.number] = -1 if session.is_forgotten else self._slot_of(session)

    def _made(self, waiting: Mapping[Schema, list[memoryview]]) -> Piece:
        piece = {}
        for schema, payloads in waiting.items():
            rows = frames.rows_of(b"".join(payloads), schema.width)
            numbers = rows["session"].astype(np.int64)
            known = numbers < self._slots.size
            if not known.all():
                self._lost(rows[~known])
                rows, numbers = rows[known], numbers[known]
            slots = self._slots[numbers]
            if (slots == -2).any():
                self._lost(rows[slots == -2])
            if (slots < 0).any():
                rows, slots = rows[slots >= 0], slots[slots >= 0]
            if slots.size:
                piece[schema] = SlotRows(slots, rows)
        return piece

    def _lost(self, rows: Rows) -> None:
        """Count rows of sessions whose declaration was damaged."""
        self.file.damage.add(0, rows.nbytes)

    def close(self) -> None:
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
