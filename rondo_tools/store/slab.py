"""A slab: one ring of rows in one file of fixed size, sparse until it is written.

    header  64 bytes   magic "RNDO", u16 version, u16 zero, u64 interval_ms, u32 slots, u32 columns,
                       36 zero bytes, u32 CRC-32 of the 60 bytes before it
    row     16 + 8 * columns bytes, `slots` times
                       u64 t_ms, float64 * columns, u32 flags (zero), u32 CRC-32 of all before it

Everything is little-endian. The row of a time stands in slot (t_ms // interval_ms) % slots; a row
of zeros was never written. docs/formats.md has the table of bytes.

Strategy: slot-major, so that a tick is one contiguous write and a drain is one contiguous read. A
message with its CRC-32 appended leaves the CRC register in the same state whatever it says; so the
CRC over N rows in sequence depends on N alone, and one `crc32` call verifies a block. Only if it
fails are rows tried one by one: a torn row, or one that raced its writer, costs itself.

Rows are written with pwrite, not through a map: a full disk is then an OSError, not a SIGBUS.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np
import numpy.typing as npt

from rondo_tools.errors import StoreError

MAGIC = b"RNDO"
VERSION = 1
HEADER_SIZE = 64

_HEADER = struct.Struct("<4sHHQII36x")
_CRC = struct.Struct("<I")
# A reader that races the writer sees a bad CRC; a row is written in microseconds, so a second look
# nearly always finds it whole.
_LOOKS = 4


class Rows(NamedTuple):
    """Rows in time order: `t_ms` int64 (n,), `values` float64 (n, columns).

    `skipped` counts slots that hold something, but no whole row.
    """

    t_ms: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    skipped: int

    def between(self, after_ms: int, before_ms: int) -> Rows:
        """The rows with after_ms < t_ms < before_ms; copies, that keep no others in memory."""
        first, last = self.t_ms.searchsorted(after_ms, "right"), self.t_ms.searchsorted(before_ms)
        if last - first == self.t_ms.size:
            return self
        return Rows(self.t_ms[first:last].copy(), self.values[first:last].copy(), self.skipped)


def pack_row(t_ms: int, values: bytes) -> bytes:
    """One row, as it stands in the file; `values` is 8 little-endian bytes a column."""
    body = _row_body(len(values)).pack(t_ms, values)
    return body + _CRC.pack(crc32(body))


def pack_rows(t_ms: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> bytes:
    """Many of them, one after another: `t_ms` (n,), `values` (n, columns)."""
    rows = np.zeros(t_ms.size, row_dtype(values.shape[1]))
    rows["t_ms"], rows["values"] = t_ms, values
    bodies = rows.view(_body_dtype(rows.itemsize))["body"]
    rows["crc"] = [*map(crc32, bodies.tolist())]
    return rows.tobytes()


class Slab:
    """An open slab. The owner closes it (or uses `with`). OSErrors are the caller's to translate."""

    __slots__ = ("_dtype", "_fd", "columns", "interval_ms", "row_size", "slots")

    def __init__(self, fd: int, interval_ms: int, slots: int, columns: int) -> None:
        self.interval_ms = interval_ms
        self.slots = slots
        self.columns = columns
        self.row_size = 16 + 8 * columns
        self._fd = fd
        self._dtype = row_dtype(columns)

    @classmethod
    def create(cls, path: Path, interval_ms: int, slots: int, columns: int) -> Slab:
        """Make an empty slab, complete under its name or not there at all."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            slab = cls(fd, interval_ms, slots, columns)
            header = _HEADER.pack(MAGIC, VERSION, 0, interval_ms, slots, columns)
            _pwrite(fd, header + _CRC.pack(crc32(header)), 0)
            os.ftruncate(fd, slab.size)
            os.fsync(fd)  # a power cut must not leave the name without the header
            temporary.replace(path)
        except BaseException:
            os.close(fd)
            temporary.unlink(missing_ok=True)
            raise
        return slab

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        writable: bool = False,
        dsync: bool = False,
        known_as: tuple[int, int, int] | None = None,
    ) -> Slab:
        """Open and check a slab; with `dsync`, a write returns when it is on the disk.

        One whose header was read before, and will not change, may be `known_as` (interval_ms, slots,
        columns), and is not checked again.
        Raises StoreError if it is not a slab, OSError if it cannot be opened.
        """
        mode = (os.O_RDWR if writable else os.O_RDONLY) | (os.O_DSYNC if dsync else 0)
        fd = os.open(path, mode | os.O_CLOEXEC)
        if known_as is not None:
            return cls(fd, *known_as)
        try:
            header = os.pread(fd, HEADER_SIZE, 0)
            if len(header) < HEADER_SIZE or header[:4] != MAGIC:
                raise StoreError(f"{path}: not a slab (no {MAGIC.decode()} header)")
            if _CRC.unpack_from(header, HEADER_SIZE - 4)[0] != crc32(header[:-4]):
                raise StoreError(f"{path}: the slab's header is damaged")
            _, version, _, interval_ms, slots, columns = _HEADER.unpack_from(header)
            if version != VERSION:
                raise StoreError(f"{path}: slab version {version}; this rondo reads version {VERSION}")
            slab = cls(fd, interval_ms, slots, columns)
            if min(interval_ms, slots, columns) < 1 or os.fstat(fd).st_size != slab.size:
                raise StoreError(f"{path}: the slab's size is not what its header says")
        except BaseException:
            os.close(fd)
            raise
        return slab

    @property
    def size(self) -> int:
        return HEADER_SIZE + self.slots * self.row_size

    def write(self, slot: int, rows: bytes) -> None:
        """Write whole packed rows from `slot` on; they must not run past the last slot."""
        _pwrite(self._fd, rows, HEADER_SIZE + slot * self.row_size)

    def read(self) -> Rows:
        """All rows, in time order; none that was written is missing before one that is there."""
        rows, sure_ms = self._read_twice(0, self.slots)
        return rows if sure_ms is None else rows.between(0, sure_ms + 1)

    def read_between(self, after_ms: int, before_ms: int) -> tuple[Rows, bool]:
        """The rows with after_ms < t_ms < before_ms, as `read` gives them, and whether no later lap
        has taken the place of any; only the slots in which they can be are read.
        """
        first = (after_ms + 1) // self.interval_ms
        count = min(self.slots, max(0, -(-before_ms // self.interval_ms) - first))
        rows, sure_ms = self._read_twice(first % self.slots, count)
        is_whole = before_ms - after_ms - 1 <= self.slots * self.interval_ms and not np.any(
            rows.t_ms >= (first + count) * self.interval_ms
        )
        if sure_ms is not None:
            before_ms = min(before_ms, sure_ms + 1)
        return rows.between(after_ms, before_ms), is_whole

    def read_still(self, first: int, count: int) -> bytes | None:
        """What stands in some slots, as `read_slots` has them; None if it changes while one looks."""
        data = self._pread(first, count)
        return data if data == self._pread(first, count) else None

    def read_slots(self, first: int, count: int) -> Rows:
        """The rows in `count` slots from `first` on, and around the end, in time order."""
        return self._rows(self._pread(first, count), first)

    def _read_twice(self, first: int, count: int) -> tuple[Rows, int | None]:
        """The rows in some slots, and up to which time nothing is missing, if that is in doubt.

        While a read goes up the file, the writer may put a row behind it and the next one before
        it. So there are two: of what the first has seen the last of, the second has seen all.
        """
        data = self._pread(first, count)
        for _ in range(_LOOKS):
            before, data = data, self._pread(first, count)
            rows = self._rows(data, first)
            if data == before:
                return rows, None
            seen = self._rows(before, first).t_ms
            sure_ms = int(seen[-1]) if seen.size else 0
            if not rows.t_ms.size or rows.t_ms[0] <= sure_ms:
                break
            # All was written between the two: the ring has come round, or there was nothing before.
        return rows, sure_ms

    def _rows(self, data: bytes, first: int) -> Rows:
        block = np.frombuffer(data, self._dtype)
        whole, torn = self._verify(block, first)
        for _ in range(_LOOKS):
            if not torn.size:
                break
            # Take another look at the rows that may have been caught in the middle of a write.
            block = block.copy() if not block.flags.writeable else block
            for at in torn.tolist():
                again = self._pread((first + at) % self.slots, 1)
                block[at] = np.frombuffer(again, self._dtype)[0]
            whole, torn = self._verify(block, first)
        t_ms = block["t_ms"][whole].astype(np.int64)
        if np.any(t_ms[1:] < t_ms[:-1]):
            order = np.argsort(t_ms, kind="stable")
            whole, t_ms = whole[order], t_ms[order]
        return Rows(t_ms, block["values"][whole].astype(np.float64, copy=False), int(torn.size))

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Slab:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pread(self, first: int, count: int) -> bytes:
        size, room = count * self.row_size, (self.slots - first) * self.row_size
        data = os.pread(self._fd, min(size, room), HEADER_SIZE + first * self.row_size)
        if size > room:
            data = data.ljust(room, b"\0") + os.pread(self._fd, size - room, HEADER_SIZE)
        return data.ljust(size, b"\0")  # a file cut short behind our back has no rows there

    def _verify(
        self, block: npt.NDArray[np.void], first: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Indices into `block` of the whole rows, and of the slots with something else in them."""
        used = np.flatnonzero(block["t_ms"] | block["crc"])
        # A row in another's slot is a stray write or a copied file: no data either.
        numbers = block["t_ms"][used].astype(np.int64) // self.interval_ms
        good = (numbers - used - first) % self.slots == 0
        data, size = memoryview(block).cast("B"), self.row_size  # type: ignore[arg-type]  # it is a buffer
        for start, stop in _runs(used):
            at, end = int(used[start]) * size, int(used[stop - 1] + 1) * size
            if crc32(data[at:end]) != crc_of_rows(size, stop - start):
                one = crc_of_rows(size, 1)
                good[start:stop] &= [crc32(data[row : row + size]) == one for row in range(at, end, size)]
        return (used, used[:0]) if good.all() else (used[good], used[~good])


def _runs(numbers: npt.NDArray[np.int64]) -> Iterable[tuple[int, int]]:
    """Where each run of consecutive numbers, which ascend, begins and ends."""
    if not numbers.size or numbers[-1] - numbers[0] == numbers.size - 1:
        return [(0, numbers.size)] if numbers.size else []
    return pairwise([0, *(np.flatnonzero(np.diff(numbers) != 1) + 1).tolist(), numbers.size])


@lru_cache(maxsize=256)
def row_dtype(columns: int) -> np.dtype[np.void]:
    return np.dtype([("t_ms", "<u8"), ("values", "<f8", (columns,)), ("flags", "<u4"), ("crc", "<u4")])


@lru_cache(maxsize=256)
def _body_dtype(row_size: int) -> np.dtype[np.void]:
    """A row seen as what its CRC is over."""
    return np.dtype({"names": ["body"], "formats": [f"V{row_size - 4}"], "itemsize": row_size})


@lru_cache(maxsize=256)
def _row_body(width: int) -> struct.Struct:
    return struct.Struct(f"<Q{width}s4x")


def crc_of_rows(row_size: int, count: int) -> int:
    """CRC-32 over `count` whole rows in sequence: the same for any rows of this size."""
    row, chain = _chain(row_size)
    while len(chain) <= count:
        chain.append(crc32(row, chain[-1]))
    return chain[count]


@cache
def _chain(row_size: int) -> tuple[bytes, list[int]]:
    """A whole row, and the CRCs over 0, 1, 2, ... of it as far as they were needed yet."""
    return pack_row(0, bytes(row_size - 16)), [0]


def _pwrite(fd: int, data: bytes, offset: int) -> None:
    written = os.pwrite(fd, data, offset)
    while written < len(data):
        written += os.pwrite(fd, memoryview(data)[written:], offset + written)
