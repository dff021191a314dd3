"""The dump: all that a store holds as one stream of frames.

A dump begins with 40 bytes as a file of the store does, with a magic of its own and the dump's version
in place of the number. Then come frames, in parts:

    PART    msgpack {"part": name, ...}: what the frames behind it are, up to the next PART
    BYTES   a piece of a small file, which may be longer than a frame
    MARK    msgpack [cursor, "from" or "to"]: here a cursor stands

A part is `store` (what the store is), `cursor`, `carry`, `end`, or the name of a folder: then it has the
frames of one file in it, SCHEMA, SESSION, ROWS, END and DESCRIPTIONS as in the file. The store comes
first, then cursors, carry and `ended`, so that who reads on knows of each session what becomes of it;
`end` comes last, and tells a whole dump from one that was cut.

Strategy: the CRCs of PART frames begin from the dump's id, those of the frames of a part from that and
the part's place. So where a PART frame is damaged, no frame behind it can be taken for another file's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from zlib import crc32

import msgpack

from rondo_tools import foreign
from rondo_tools.errors import StoreError
from rondo_tools.store.format import frames
from rondo_tools.store.format.frames import FILE_SIZE, HEAD_SIZE, MAX_PAYLOAD, Frame

MAGIC = b"rondodmp"
VERSION = 1
PART, BYTES, MARK = range(frames.VOID + 1, frames.VOID + 4)
STORE, CURSOR, CARRY, END = "store", "cursor", "carry", "end"

_PIECE = 1 << 20


def _seed_of(file_id: bytes, part: int) -> int:
    return crc32(part.to_bytes(4, "little"), crc32(file_id))


class DumpWriter:
    """Makes a dump of the store `store_id`, and gives it to `write`."""

    def __init__(self, write: Callable[[bytes], object], store_id: bytes) -> None:
        self._write = write
        self._header = frames.new_file(VERSION, store_id)
        self._parts = 0
        self.seed = 0
        write(self._header.pack(MAGIC))

    def part(self, name: str, **facts: Any) -> None:
        payload = msgpack.packb({"part": name, **facts})
        self._parts += 1
        self._write(frames.frame(self._header.seed, PART, payload, origin=self._parts))
        self.seed = _seed_of(self._header.file_id, self._parts)

    def frame(self, frame: bytes) -> None:
        """Add a frame that was made with `seed`."""
        self._write(frame)

    def copy(self, head: Frame, payload: bytes | memoryview) -> None:
        """Add a frame of a file as it is."""
        self._write(frames.copied(self.seed, head, payload))

    def bytes(self, data: bytes) -> None:
        for at in range(0, len(data), MAX_PAYLOAD):
            self._write(frames.frame(self.seed, BYTES, data[at : at + MAX_PAYLOAD]))

    def mark(self, cursor: str, which: str) -> None:
        self._write(frames.frame(self.seed, MARK, msgpack.packb([cursor, which])))


class DumpReader:
    """Reads a dump from `read(size)`, which gives fewer bytes than asked only when there are no more yet,
    and none at the end.

    Raises StoreError for what is no dump. `damage` counts what is stepped over; `at` is how far it has
    been read, `frame_at` where the frame that was given last began.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._data = bytearray()
        self._begin = 0  # where `_data` begins in the dump
        self.at = self.frame_at = 0
        self.damage = frames.Damage()
        if not self._has(FILE_SIZE):
            raise StoreError(
                "standard input ended before the header of a dump"
                if self._data
                else "standard input is empty"
            )
        header = bytes(self._data[:FILE_SIZE])
        kind = foreign.kind_of(header)
        if foreign.is_packed(kind):
            raise StoreError(f"standard input is compressed; give it through {kind} -dc")
        try:
            self.header = frames.parse_file_header(header, MAGIC)
        except StoreError as exc:
            is_else = kind and kind != foreign.DUMP
            hint = ": leave --restore out" if kind == foreign.STREAM else ""
            this = f"; this is {kind}{hint}" if is_else else ""
            raise StoreError(f"standard input: {exc}{this}") from exc
        if self.header.number != VERSION:
            raise StoreError(
                f"standard input: version {self.header.number} of a dump; this rondo reads version {VERSION}"
            )
        self.at = FILE_SIZE
        self._seed = self.header.seed

    def __iter__(self) -> Iterator[tuple[Frame, bytes]]:
        """The right frames, with their payloads. Of a frame that is cut there is nothing."""
        while self._has(HEAD_SIZE):
            head = self._head()
            if head is None:
                self.damage.add(self.at, 8)
                self.at += 8
                continue
            if not self._has(HEAD_SIZE + head.length):
                break
            begin = self.at - self._begin + HEAD_SIZE
            payload = bytes(memoryview(self._data)[begin : begin + head.length])
            self.frame_at = self.at
            self._has(head.size)
            self.at += head.size
            if crc32(payload, self._seed_for(head.kind)) != head.payload_crc:
                self.damage.add(self.frame_at, head.size)
                continue
            if head.kind == PART:
                self._seed = _seed_of(self.header.file_id, head.origin)
            yield head, payload

    def _seed_for(self, kind: int) -> int:
        return self.header.seed if kind == PART else self._seed

    def _head(self) -> Frame | None:
        at = self.at - self._begin
        kind = self._data[at + 4]
        if self._data[at + 5] or not frames.SCHEMA <= kind <= MARK:
            return None
        return frames.parse_head(self._data, at, self._seed_for(kind))

    def _has(self, size: int) -> bool:
        """Whether there are so many bytes from `at` on."""
        if self.at + size <= self._begin + len(self._data):
            return True
        del self._data[: self.at - self._begin]
        self._begin = self.at
        while len(self._data) < size:
            more = self._read(_PIECE)
            if not more:
                return False
            self._data += more
        return True
