"""The virtio block device (virtio 1.2, 5.2): a driver's requests to one disk. The driver is not trusted.

Strategy: a chain is two byte streams, however the driver divides them into segments:

    to read    header { le32 type; le32 reserved; le64 sector }, then the data of a write
    to write   the data of a read, then one byte of status

Everything is checked before the disk is accessed. Data moves directly between disk and guest memory, in
one system call per request, so that a request needs no memory of the host. An invalid request gets an
error in its status byte; only a chain too short for header and status is an error of the queue.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from struct import Struct

from rondo_tools.ratelimit import RateLimit
from rondo_tools.vmm.devices.virtio.disk import SECTOR, Disk
from rondo_tools.vmm.devices.virtio.queue import Chain, QueueError, Segment
from rondo_tools.vmm.memory import GuestMemory

_log = logging.getLogger(__name__)

DEVICE_ID = 2
QUEUE_MAX = 128
MAX_REQUEST = 16 << 20  # bytes of data; bounds the time that one request takes

# Features (5.2.3), as bits.
F_SIZE_MAX = 1 << 1
F_SEG_MAX = 1 << 2
F_RO = 1 << 5
F_FLUSH = 1 << 9

_HEADER = Struct("<I4xQ")
_CONFIG = Struct("<QII44x")  # capacity, size_max, seg_max; the rest is for features that are not offered
_STATUS = Struct("<B")

# Request types and status values (5.2.6).
IN, OUT, FLUSH, GET_ID = 0, 1, 4, 8
OK, IOERR, UNSUPP = 0, 1, 2

_OPS = {IN: "read", OUT: "write", FLUSH: "flush"}
_ID_LENGTH = 20


class _RequestError(Exception):
    """A request fails with IOERR."""


class Block:
    """Serves the requests of one queue.

    `completed(op, bytes, ns)` is called for each read, write and flush that succeeded. `name` is the
    disk's serial number, 20 letters at most.
    """

    device_id = DEVICE_ID
    queue_max = QUEUE_MAX

    def __init__(
        self,
        disk: Disk,
        memory: GuestMemory,
        completed: Callable[[str, int, int], None] = lambda op, moved, ns: None,  # noqa: ARG005
        clock: Callable[[], int] = time.perf_counter_ns,
        name: str = "rondo",
    ) -> None:
        self.features = F_SIZE_MAX | F_SEG_MAX | F_FLUSH | (F_RO if disk.read_only else 0)
        segments = QUEUE_MAX - 2  # all but header and status
        self.config = _CONFIG.pack(disk.sectors, MAX_REQUEST // QUEUE_MAX, segments)
        self._disk = disk
        self._memory = memory
        self._completed = completed
        self._clock = clock
        self._limit = RateLimit(_log, burst=5, window_s=10.0)
        self._write_through = True
        self._name = name.encode("ascii").ljust(_ID_LENGTH, b"\0")

    def accept(self, features: int) -> None:
        # 5.2.5.2: without flush, a driver may rely on a completed write being stable.
        self._write_through = not features & F_FLUSH

    def handle(self, chain: Chain) -> int:
        began = self._clock()
        header, outgoing = self._take(chain.readable, _HEADER.size)
        if len(header) < _HEADER.size or not chain.writable:
            raise QueueError("a block request too short for header and status")
        kind, sector = _HEADER.unpack(header)
        *incoming, (address, length) = chain.writable
        status_at = address + length - 1
        if length > 1:
            incoming.append((address, length - 1))

        written = moved = 0
        status = OK
        try:
            if kind == IN:
                moved = written = self._read(sector, incoming)
            elif kind == OUT:
                moved = self._write(sector, outgoing)
            elif kind == FLUSH:
                self._disk.flush()
            elif kind == GET_ID:
                written = self._identify(incoming)
            else:
                status = UNSUPP
        except (_RequestError, OSError) as exc:
            status = IOERR
            # As text: a log record that keeps the exception would keep views of guest memory.
            why = exc.strerror if isinstance(exc, OSError) else str(exc)
            self._limit.warn("disk", "disk: a %s failed: %s", _OPS.get(kind, "request"), why)
        self._memory.pack(_STATUS, status_at, status)
        if status == OK and kind in _OPS:
            self._completed(_OPS[kind], moved, self._clock() - began)
        # The used length counts from the chain's start without a gap; the status is the last byte.
        return written + 1 if written == _total(incoming) else written

    def _read(self, sector: int, segments: list[Segment]) -> int:
        length = self._check(sector, segments)
        self._disk.read_into([self._memory.view(*segment) for segment in segments], sector)
        return length

    def _write(self, sector: int, segments: list[Segment]) -> int:
        if self._disk.read_only:
            raise _RequestError("the disk is read-only")
        length = self._check(sector, segments)
        self._disk.write_from([self._memory.view(*segment) for segment in segments], sector)
        if self._write_through:
            self._disk.flush()
        return length

    def _identify(self, segments: list[Segment]) -> int:
        if _total(segments) < _ID_LENGTH:
            raise _RequestError(f"the disk's name needs {_ID_LENGTH} bytes")
        name = self._name
        for address, length in segments:
            piece, name = name[:length], name[length:]
            self._memory.write(address, piece)
        return _ID_LENGTH

    def _check(self, sector: int, segments: list[Segment]) -> int:
        """The length of the data. Raises _RequestError if it is invalid or passes the disk's end."""
        length = _total(segments)
        if not length or length % SECTOR or length > MAX_REQUEST:
            raise _RequestError(f"{length} bytes are not 1 to {MAX_REQUEST // SECTOR} sectors")
        if sector + length // SECTOR > self._disk.sectors:
            raise _RequestError(f"sector {sector} and {length} bytes pass the end at {self._disk.sectors}")
        return length

    def _take(self, segments: list[Segment], size: int) -> tuple[bytes, list[Segment]]:
        """The first `size` bytes of the segments, and the remaining segments."""
        taken = b""
        rest = []
        for address, length in segments:
            part = min(length, size - len(taken))
            taken += self._memory.read(address, part)
            if part < length:
                rest.append((address + part, length - part))
        return taken, rest


def _total(segments: list[Segment]) -> int:
    return sum(length for _, length in segments)
