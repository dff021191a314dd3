"""The frame: the unit of every file of a store, which can be found again after any damage.

A file begins with a header of 40 bytes, little-endian like all that follows:

    magic "rondo" 0 0 0   format u32   number u32   store id 8 bytes   file id 8 bytes
    CRC-32 of these 32 bytes u32   0 u32

Then frames, each at a multiple of 8 bytes:

    at  size
     0     4  length of the payload, at most MAX_PAYLOAD
     4     1  kind
     5     1  0
     6     2  schema: of SCHEMA and ROWS; of an END that of its sessions' last rows, or NO_SCHEMA
     8     4  entries: rows, sessions, ends or descriptions
    12     4  CRC-32 of the payload
    16     8  least t_ms      ROWS only, else 0
    24     8  greatest t_ms   ROWS only, else 0
    32     4  least session number     ROWS only, else 0
    36     4  greatest session number  ROWS only, else 0
    40     4  origin: the number of the journal that a coarse row comes from; else 0
    44     4  CRC-32 of the 44 bytes before
    48        the payload, then zeros up to a multiple of 8

Strategy: both CRCs begin from the CRC-32 of the file id, which is random. So zeros, a block of
another file or a flipped bit never pass as a valid frame. After an invalid header a reader moves on by 8
bytes; a valid header with a damaged payload gives the length to skip. Nothing is ever truncated.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple
from zlib import crc32

import numpy as np
import numpy.typing as npt

from rondo_tools.errors import StoreError

FORMAT = 2
MAGIC = b"rondo\0\0\0"
MAX_PAYLOAD = 1 << 20

SCHEMA, SESSION, ROWS, END, DESCRIPTIONS, INDEX, VOID = range(1, 8)
NO_SCHEMA = 0xFFFF
"""In an END: the schema of the session's last row is not known."""
KINDS = range(SCHEMA, VOID + 1)

_FILE = struct.Struct("<8sII8s8sII")
_FRAME = struct.Struct("<IBBHIIqqIIII")
_SIGNED = struct.Struct("<IBBHIIqqIII")  # the fields that the header's own CRC covers
FILE_SIZE = _FILE.size
HEAD_SIZE = _FRAME.size
_CRC_AT = HEAD_SIZE - 4


class FileHeader(NamedTuple):
    """The identity of a file: its `number` in the folder, its store, and its own random id."""

    number: int
    store_id: bytes
    file_id: bytes

    @property
    def seed(self) -> int:
        """The start value of the CRCs of this file's frames."""
        return crc32(self.file_id)

    def pack(self, magic: bytes = MAGIC) -> bytes:
        head = _FILE.pack(magic, FORMAT, self.number, self.store_id, self.file_id, 0, 0)[:32]
        return head + struct.pack("<II", crc32(head), 0)


class Frame(NamedTuple):
    """A frame's header, with the fields of the file."""

    length: int
    kind: int
    zero: int
    schema: int
    entries: int
    payload_crc: int
    least_ms: int
    greatest_ms: int
    least_session: int
    greatest_session: int
    origin: int
    head_crc: int

    @property
    def size(self) -> int:
        """Bytes from the begin of the frame to that of the next one."""
        return HEAD_SIZE + self.length + -self.length % 8


@dataclass(slots=True)
class Damage:
    """The bytes that a scan skipped: their number, and the offset of the first."""

    bytes: int = 0
    first_at: int = 0

    def add(self, at: int, size: int) -> None:
        if not self.bytes:
            self.first_at = at
        self.bytes += size


def new_file(number: int, store_id: bytes) -> FileHeader:
    """The header of a new file."""
    return FileHeader(number, store_id, os.urandom(8))


def parse_file_header(data: bytes, wanted: bytes = MAGIC) -> FileHeader:
    """The header that a file begins with. Raises StoreError without the file's name."""
    if len(data) < FILE_SIZE:
        raise StoreError("the file is shorter than its header")
    magic, version, number, store_id, file_id, crc, _ = _FILE.unpack_from(data)
    if magic != wanted:
        raise StoreError("not a file of a rondo store" if wanted == MAGIC else "not a dump of a rondo store")
    if crc != crc32(data[:32]):
        raise StoreError("the file's header is damaged")
    if version != FORMAT:
        raise StoreError(f"store format {version}; this rondo reads format {FORMAT}")
    return FileHeader(number, store_id, file_id)


def frame(
    seed: int,
    kind: int,
    payload: bytes | memoryview,
    *,
    schema: int = 0,
    entries: int = 1,
    least_ms: int = 0,
    greatest_ms: int = 0,
    least_session: int = 0,
    greatest_session: int = 0,
    origin: int = 0,
) -> bytes:
    """One frame, padded, for a file whose header has this seed."""
    assert len(payload) <= MAX_PAYLOAD, f"a frame of {len(payload)} bytes"
    head = _SIGNED.pack(
        len(payload), kind, 0, schema, entries, crc32(payload, seed), least_ms, greatest_ms,
        least_session, greatest_session, origin,
    )  # fmt: skip
    return b"".join((head, crc32(head, seed).to_bytes(4, "little"), payload, bytes(-len(payload) % 8)))


def copied(seed: int, head: Frame, payload: bytes | memoryview) -> bytes:
    """The same frame for a file with another seed."""
    return frame(
        seed, head.kind, payload, schema=head.schema, entries=head.entries,
        least_ms=head.least_ms, greatest_ms=head.greatest_ms, least_session=head.least_session,
        greatest_session=head.greatest_session, origin=head.origin,
    )  # fmt: skip


def parse_head(data: bytes | bytearray | memoryview, at: int, seed: int) -> Frame | None:
    """The frame header at `at`; None if it is damaged or incomplete."""
    if at + HEAD_SIZE > len(data):
        return None
    found = Frame._make(_FRAME.unpack_from(data, at))
    if found.head_crc != crc32(data[at : at + _CRC_AT], seed) or found.length > MAX_PAYLOAD:
        return None
    return found


def scan(
    data: bytes | memoryview,
    seed: int,
    at: int = FILE_SIZE,
    damage: Damage | None = None,
    *,
    verify: bool = True,
) -> Iterator[tuple[int, Frame, memoryview]]:
    """The undamaged frames of `data` from offset `at` on: (offset, header, payload).

    Damaged bytes are skipped and counted in `damage`. An incomplete frame at the end of the data is no
    damage: the writer may be appending it. `verify=False` does not verify payloads.
    """
    view, end = memoryview(data), len(data)
    while at + HEAD_SIZE <= end:
        head = parse_head(view, at, seed)
        if head is None:
            begin = at
            at += 8
            if damage is not None:
                damage.add(begin, min(8, end - begin))
            continue
        begin_payload = at + HEAD_SIZE
        if begin_payload + head.length > end:
            return
        payload = view[begin_payload : begin_payload + head.length]
        if not verify or crc32(payload, seed) == head.payload_crc:
            yield at, head, payload
        elif damage is not None:
            damage.add(at, head.size)
        at += head.size


# --- rows ---------------------------------------------------------------------------------------------

Rows = npt.NDArray[np.void]
"""Rows in the layout of a ROWS frame: fields `session` u32, `t_ms` i64, `values` f64 (width,)."""


@cache
def row_dtype(width: int) -> np.dtype[np.void]:
    """A row of `width` values: 12 + 8 * width bytes."""
    return np.dtype([("session", "<u4"), ("t_ms", "<i8"), ("values", "<f8", (width,))])


def rows_of(payload: bytes | memoryview, width: int) -> Rows:
    """The rows of a ROWS frame's payload, as a view of it."""
    return np.frombuffer(payload, row_dtype(width))


def rows_frames(seed: int, rows: Rows, schema: int, *, most: int = 0, origin: int = 0) -> Iterator[bytes]:
    """ROWS frames for rows in the order given: as few as MAX_PAYLOAD (and `most` rows each) allow."""
    per_frame = MAX_PAYLOAD // rows.dtype.itemsize
    if most:
        per_frame = min(per_frame, most)
    for at in range(0, len(rows), per_frame):
        part = rows[at : at + per_frame]
        t_ms, session = part["t_ms"], part["session"]
        yield frame(
            seed, ROWS, part.tobytes(), schema=schema, entries=len(part),
            least_ms=int(t_ms.min()), greatest_ms=int(t_ms.max()),
            least_session=int(session.min()), greatest_session=int(session.max()), origin=origin,
        )  # fmt: skip
