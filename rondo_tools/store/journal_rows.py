"""Rows of a journal, picked from very many frames at once.

Strategy: the headers of ROWS frames are a table. A row begins at a multiple of 4 bytes, so frames that are
read together are one array of 32-bit words, and session numbers are picked from it. No Python code runs for
a row, and little for a frame. Each payload is verified.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple
from zlib import crc32

import numpy as np
import numpy.typing as npt

from rondo_tools.store.format.frame_file import FrameFile
from rondo_tools.store.format.frames import HEAD_SIZE, Rows, row_dtype
from rondo_tools.store.format.schema import Schema

_STRETCH = 8 << 20  # bytes read at once
_GAP = 4 << 10  # a smaller gap between two frames is read, too
_RAW = np.dtype(
    {
        "names": ["length", "schema", "entries", "crc", "least_ms", "greatest_ms", "least_session",
                  "greatest_session"],
        "formats": ["<u4", "<u2", "<u4", "<u4", "<i8", "<i8", "<u4", "<u4"],
        "offsets": [0, 6, 8, 12, 16, 24, 32, 36],
        "itemsize": HEAD_SIZE,
    }
)  # fmt: skip
HEADS = np.dtype([("at", "<i8"), *((name, "<i8") for name in _RAW.names or ())])
Heads = npt.NDArray[np.void]
Words = npt.NDArray[np.uint32]
Places = npt.NDArray[np.int64]


class Picked(NamedTuple):
    """Rows of one schema in a piece of a file: its `words`, the indices where rows begin, and the offsets of
    the rows in the file."""

    schema: Schema
    words: Words
    begins: Places
    at: Places

    @property
    def session(self) -> Places:
        return self.words[self.begins].astype(np.int64)

    @property
    def t_ms(self) -> Places:
        high = self.words[self.begins + 2].astype(np.int64) << 32
        return high | self.words[self.begins + 1]

    def of_session(self, number: int) -> Picked:
        mine = self.words[self.begins] == number
        return self._replace(begins=self.begins[mine], at=self.at[mine])

    def values(self, rows: Places, columns: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        """The values of these rows and columns, both given by their places."""
        at = self.begins[rows][:, np.newaxis, np.newaxis] + (3 + 2 * columns)[:, np.newaxis] + np.arange(2)
        values: npt.NDArray[np.float64] = self.words[at].reshape(rows.size, -1).view(np.float64)
        return values

    def rows(self) -> Rows:
        dtype = row_dtype(self.schema.width)
        rows: Rows = self.words[self.begins[:, np.newaxis] + np.arange(dtype.itemsize // 4)].view(dtype)
        return rows.reshape(-1)


def heads_of(offsets: list[int], packed: bytes) -> Heads:
    """The table of frames at these offsets; `packed` are their headers."""
    heads, raw = np.zeros(len(offsets), HEADS), np.frombuffer(packed, _RAW)
    for name in _RAW.names or ():
        heads[name] = raw[name]
    heads["at"] = offsets
    return heads


class RowsReader:
    """Reads frames of `file`; `bad` gets the errors of frames, by offset."""

    def __init__(self, file: FrameFile, bad: dict[int, str]) -> None:
        self._file, self._bad = file, bad

    def pieces(self, heads: Heads) -> Iterator[list[Picked]]:
        """The rows of these frames, some mebibytes at a time; rows of each schema are in order of arrival."""
        at, ends = 0, np.cumsum(heads["length"] + HEAD_SIZE)
        while at < heads.size:
            before = int(ends[at - 1]) if at else 0
            last = max(int(np.searchsorted(ends, before + _STRETCH, "right")), at + 1)
            yield list(self._read(heads[at:last]))
            at = last

    def _read(self, heads: Heads) -> Iterator[Picked]:
        at, end = heads["at"], heads["at"] + HEAD_SIZE + heads["length"] + -heads["length"] % 8
        first = np.flatnonzero(np.append(True, at[1:] - end[:-1] > _GAP))  # frames after a gap
        sizes = end[np.append(first[1:], at.size) - 1] - at[first]
        data = b"".join(
            self._file.read(begin, size).ljust(size, b"\0")
            for begin, size in zip(at[first].tolist(), sizes.tolist(), strict=True)
        )
        moved = np.repeat(at[first] - (np.cumsum(sizes) - sizes), np.diff(first, append=at.size))
        view, seed = memoryview(data), self._file.seed
        payload_at = at - moved + HEAD_SIZE
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
            schema = self._file.schemas.get(number)
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
            begins = np.repeat(payload_at[mine], count) + itemsize * row
            yield Picked(schema, words, begins // 4, begins + np.repeat(moved[mine], count))

    def _note(self, heads: Heads, what: str) -> None:
        for at in heads["at"].tolist():
            self._bad.setdefault(at, what)
