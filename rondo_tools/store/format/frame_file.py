"""A file of frames, open for reading while another process may append to it.

Strategy: `pread`, never `mmap`: a mapped file that is truncated kills its reader. Frames are read in
pieces of a mebibyte; unwanted payloads are skipped by the length in their headers.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Self
from zlib import crc32

from rondo_tools.errors import EX_UNAVAILABLE, StoreError
from rondo_tools.store.format.frames import (
    END,
    FILE_SIZE,
    HEAD_SIZE,
    KINDS,
    MAX_PAYLOAD,
    ROWS,
    SCHEMA,
    SESSION,
    Damage,
    FileHeader,
    Frame,
    Rows,
    parse_file_header,
    parse_head,
    row_dtype,
    rows_of,
)
from rondo_tools.store.format.schema import Schema, unpack_schema

_PIECE = 1 << 20
_LARGE = 1 << 12
_SKETCH = struct.Struct("<IB39xI")  # of a frame's header: length, kind, its CRC
_DECLARING = (SCHEMA, SESSION, END)


def has_no_header(path: Path) -> bool:
    """Whether a file is empty: it was just made, or its writer was killed before the first row."""
    try:
        return path.stat().st_size < FILE_SIZE
    except OSError:
        return False


def _header_of(path: Path, data: bytes) -> FileHeader:
    try:
        return parse_file_header(data)
    except StoreError as exc:
        raise StoreError(f"{path}: {exc}", exit_code=exc.exit_code) from exc


class FrameFile:
    """Raises FileNotFoundError if there is none, StoreError if it is no such file or cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise StoreError(f"{path}: {exc.strerror}", exit_code=EX_UNAVAILABLE) from exc
        self.damage = Damage()
        self.scanned_to = FILE_SIZE
        self.schemas: dict[int, Schema] = {}
        try:
            self.header = _header_of(path, self.read(0, FILE_SIZE))
        except StoreError:
            self.close()
            raise
        self.seed = self.header.seed

    @property
    def size(self) -> int:
        """Bytes in the file now."""
        return os.fstat(self._fd).st_size

    def read(self, at: int, size: int) -> bytes:
        """The bytes at `at`; less than `size` only at the end of the file."""
        try:
            data = os.pread(self._fd, size, at)
            while (
                data and len(data) < size and (more := os.pread(self._fd, size - len(data), at + len(data)))
            ):
                data += more
        except OSError as exc:
            raise StoreError(f"{self.path}: {exc.strerror}", exit_code=EX_UNAVAILABLE) from exc
        return data

    def frames(
        self,
        at: int = FILE_SIZE,
        end: int | None = None,
        kinds: Collection[int] = KINDS,
        *,
        verify: bool = True,
    ) -> Iterator[tuple[int, Frame, memoryview]]:
        """The undamaged frames that begin and end in [at, end): (offset, header, payload).

        Frames of other kinds than `kinds` have an empty payload, which is neither read nor verified. Damaged
        bytes are skipped, and counted in `damage`. Schemas are added to `schemas`.
        """
        end = self.size if end is None else end
        begin, piece = at, memoryview(b"")
        while at + HEAD_SIZE <= end:
            if at < begin or at + HEAD_SIZE > begin + len(piece):
                begin, piece = at, memoryview(self.read(at, min(_PIECE, end - at)))
                if len(piece) < HEAD_SIZE:
                    return
            head = parse_head(piece, at - begin, self.seed)
            if head is None:
                self.damage.add(at, 8)
                at += 8
                continue
            if at + HEAD_SIZE + head.length > end:
                return
            if head.kind not in kinds:
                yield at, head, memoryview(b"")
                at += head.size
                continue
            if at + HEAD_SIZE + head.length > begin + len(piece):
                begin, piece = at, memoryview(self.read(at, min(max(_PIECE, head.size), end - at)))
            payload = piece[at - begin + HEAD_SIZE : at - begin + HEAD_SIZE + head.length]
            if (verify and crc32(payload, self.seed) != head.payload_crc) or (
                head.kind == SCHEMA and not self._note_schema(head, payload)
            ):
                self.damage.add(at, head.size)
            else:
                yield at, head, payload
            at += head.size

    def index(self, at: int) -> tuple[list[int], bytes, list[tuple[int, Frame, memoryview]]]:
        """The frames from `at` on: the offsets of ROWS frames, their joined headers, and all other frames as
        `frames` yields them.

        For files with very many small frames: it makes no object for a ROWS frame.
        """
        offsets: list[int] = []
        heads: list[bytes] = []
        others: list[tuple[int, Frame, memoryview]] = []
        seed, end = self.seed, self.size
        begin, piece, size = at, b"", 0
        while at + HEAD_SIZE <= end:
            place = at - begin
            if place + HEAD_SIZE > size:
                # After a large frame there usually is another one: read its header only.
                begin, piece = at, self.read(at, _PIECE if place - size < _LARGE else _LARGE)
                place, size = 0, len(piece)
                if size < HEAD_SIZE:
                    break
            head = piece[place : place + HEAD_SIZE]
            length, kind, crc = _SKETCH.unpack(head)
            if crc32(head[:-4], seed) != crc or length > MAX_PAYLOAD:
                self.damage.add(at, 8)
                at += 8
                continue
            if at + HEAD_SIZE + length > end:
                break
            if kind == ROWS:
                offsets.append(at)
                heads.append(head)
            else:
                others += self.frames(at, at + HEAD_SIZE + length, _DECLARING)
            at += HEAD_SIZE + length + -length % 8
        self.scanned_to = at
        return offsets, b"".join(heads), others

    def _note_schema(self, head: Frame, payload: memoryview) -> bool:
        """Add a schema; False if it is invalid."""
        try:
            self.schemas[head.schema] = unpack_schema(bytes(payload))
        except StoreError:
            return False
        return True

    def read_rows(self, at: int, head: Frame, tier: int = 0) -> Rows | None:
        """The rows of the ROWS frame at `at`; None if they or their schema are damaged."""
        payload = self.read(at + HEAD_SIZE, head.length)
        if crc32(payload, self.seed) != head.payload_crc:
            self.damage.add(at, head.size)
            return None
        return self.rows(head, payload, tier)

    def rows(self, head: Frame, payload: bytes | memoryview, tier: int = 0) -> Rows | None:
        """The rows in a verified payload; None if its schema was damaged, or they do not fit it."""
        schema = self.schemas.get(head.schema)
        if schema is None or len(payload) % row_dtype(schema.width_in(tier)).itemsize:
            return None
        return rows_of(payload, schema.width_in(tier))

    def end_of_frames(self, at: int = FILE_SIZE) -> int:
        """The end of the last whole frame from `at` on, where a frame must begin; `at` if there is none."""
        for begin, head, _ in self.frames(at, kinds=()):
            at = begin + head.size
        return at

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        # Sessions of an earlier look may still read a removed file: the last of them closes it.
        if hasattr(self, "_fd"):
            self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
