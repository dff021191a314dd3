"""The split virtqueue, device side (virtio 1.2, 2.7). The driver is not trusted.

Strategy: every value from guest memory is checked before it is used: an index against the queue's size,
an extent against guest memory. A walk takes at most as many steps as the queue has descriptors, and one
notification serves at most as many chains as the queue has entries. An invalid value raises an
exception, and the transport then asks the driver for a reset.

    descriptor table   size x  { le64 address; le32 length; le16 flags; le16 next }
    driver area        le16 flags; le16 index; le16 ring[size]
    device area        le16 flags; le16 index; { le32 head; le32 length } ring[size]

No feature is offered that changes this layout: no indirect descriptors, event index or packed queue.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from struct import Struct
from typing import NamedTuple

from rondo_tools.vmm.memory import GuestMemory

_DESCRIPTOR = Struct("<QIHH")
_USED = Struct("<II")
_U16 = Struct("<H")

_F_NEXT = 1
_F_WRITE = 2
_F_INDIRECT = 4
_F_NO_INTERRUPT = 1  # in the driver area's flags

Segment = tuple[int, int]  # guest-physical address, length; inside guest memory, not empty


class QueueError(Exception):
    """The driver violated the queue's rules; it must reset the device."""


class Chain(NamedTuple):
    """A buffer: the segments that the device may read, then those that it may write."""

    head: int
    readable: list[Segment]
    writable: list[Segment]


class Queue:
    """One virtqueue. The driver's settings are plain fields; `enable` checks them."""

    def __init__(self, memory: GuestMemory, size_max: int) -> None:
        self._memory = memory
        self.size_max = size_max
        self.reset()

    def reset(self) -> None:
        """Return to the state after power-on."""
        self.ready = False
        self.size = 0
        self.descriptors = 0  # addresses of the three areas
        self.driver = 0
        self.device = 0
        self._next = 0  # index of the next available entry, modulo 2^16
        self._done = 0  # index of the next used entry

    def enable(self) -> None:
        """Make the queue ready. Raises QueueError or MemoryFault if its settings are invalid."""
        size = self.size
        if not 0 < size <= self.size_max or size & (size - 1):
            raise QueueError(f"a queue of {size} entries (a power of 2 up to {self.size_max} is allowed)")
        areas = (
            (self.descriptors, 16 * size, 16),
            (self.driver, 6 + 2 * size, 2),
            (self.device, 6 + 8 * size, 4),
        )
        for address, length, alignment in areas:
            self._memory.check(address, length)
            if address % alignment:
                raise QueueError(f"a queue area at {address:#x}, which is not a multiple of {alignment}")
        ordered = sorted(areas)
        for (low, length, _), (high, _, _) in pairwise(ordered):
            if low + length > high:
                raise QueueError(f"queue areas overlap at {high:#x}")
        self.ready = True

    def chains(self) -> Iterator[Chain]:
        """The chains that the driver has made available, in order; each is walked when it is yielded.

        Raises QueueError or MemoryFault at the first invalid one.
        """
        size = self.size
        (index,) = self._memory.unpack(_U16, self.driver + 2)
        # Read the index once: requests write to guest memory, and could advance it without end.
        count = (index - self._next) & 0xFFFF
        if count > size:
            raise QueueError(f"{count} chains made available at once in a queue of {size}")
        for _ in range(count):
            (head,) = self._memory.unpack(_U16, self.driver + 4 + 2 * (self._next % size))
            self._next = (self._next + 1) & 0xFFFF
            yield self._walk(head)

    def complete(self, head: int, length: int) -> None:
        """Return a chain to the driver; `length` is the number of bytes written to it."""
        self._memory.pack(_USED, self.device + 4 + 8 * (self._done % self.size), head, length)
        self._done = (self._done + 1) & 0xFFFF
        self._memory.pack(_U16, self.device + 2, self._done)

    def interrupt_wanted(self) -> bool:
        """Whether the driver wants an interrupt for completed chains."""
        (flags,) = self._memory.unpack(_U16, self.driver)
        return not flags & _F_NO_INTERRUPT

    def _walk(self, head: int) -> Chain:
        memory, table, size = self._memory, self.descriptors, self.size
        readable: list[Segment] = []
        writable: list[Segment] = []
        index = head
        for _ in range(size):
            if index >= size:
                raise QueueError(f"descriptor {index} in a queue of {size}")
            address, length, flags, following = memory.unpack(_DESCRIPTOR, table + 16 * index)
            if flags & _F_INDIRECT:
                raise QueueError("an indirect descriptor, which was not offered")
            if not length:
                raise QueueError("a descriptor of 0 bytes")
            memory.check(address, length)
            if flags & _F_WRITE:
                writable.append((address, length))
            elif writable:
                raise QueueError("a readable descriptor after a writable one")
            else:
                readable.append((address, length))
            if not flags & _F_NEXT:
                return Chain(head, readable, writable)
            index = following
        raise QueueError("a loop of descriptors")
