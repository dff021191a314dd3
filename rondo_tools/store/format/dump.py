"""The dump: the content of a store as one stream of frames.

A dump begins with a header of 40 bytes, as a file of the store, with its own magic and the dump's version
instead of the number. Then come frames, in parts:

    PART    msgpack {"part": name, ...}: describes the frames that follow, up to the next PART
    BYTES   a piece of a small file, which may be longer than a frame
    MARK    msgpack [cursor, "from" or "to"]: the position of a cursor

A part is `store` (the description of the store), `cursor`, `carry`, `end`, or the name of a folder: then it
has the frames of one of its files, SCHEMA, SESSION, ROWS, END and DESCRIPTIONS as in the file. The store
comes first, then cursors, carry and `ended`, so that a reader knows the end of each session before its rows;
`end` comes last, and marks a complete dump.

Strategy: the CRCs of PART frames begin from the dump's id, those of the frames of a part from that and
the part's number. So if a PART frame is damaged, no later frame can be taken for one of another file.
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
    """Makes a dump of the store `store_id` with `write`."""

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
        """Add a frame of a file unchanged."""
        self._write(frames.copied(self.seed, head, payload))

    def bytes(self, data: bytes) -> None:
        for at in range(0, len(data), MAX_PAYLOAD):
            self._write(frames.frame(self.seed, BYTES, data[at : at + MAX_PAYLOAD]))

    def mark(self, cursor: str, which: str) -> None:
        self._write(frames.frame(self.seed, MARK, msgpack.packb([cursor, which])))


class DumpReader:
    """Reads a dump from `read(size)`, which gives fewer bytes than asked if no more have arrived, and none
    at the end.

    Raises StoreError if it is no dump. `damage` counts skipped bytes; `at` is the offset of the next frame,
    `frame_at` that of the last yielded one.
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
        """The undamaged frames, with their payloads, without an incomplete one at the end."""
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
