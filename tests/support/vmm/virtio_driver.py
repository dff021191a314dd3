"""A virtio-mmio block driver in Python, for tests: a good one, and the parts to build a bad one of."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from rondo_tools.vmm.devices.virtio.block import F_FLUSH, FLUSH, GET_ID, IN, OUT, Block
from rondo_tools.vmm.devices.virtio.disk import SECTOR, Disk, temporary_disk
from rondo_tools.vmm.devices.virtio.mmio import VERSION_1, MmioTransport, Register, Status
from rondo_tools.vmm.memory import GuestMemory

MEMORY = 1 << 16
SECTORS = 64
TABLE, AVAILABLE, USED = 0x1000, 0x2000, 0x3000
HEADER, DATA, STATUS = 0x4000, 0x5000, 0x7000
NEXT, WRITE, INDIRECT = 1, 2, 4
READY_STATUS = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK


class Descriptor(NamedTuple):
    address: int
    length: int
    flags: int = 0
    next: int = 0


class Driver:
    """A guest's view of one block device of 64 sectors, with 64 KiB of memory around it."""

    def __init__(self, memory: GuestMemory, disk: Disk) -> None:
        self.memory = memory
        self.disk = disk
        self.completed: list[tuple[str, int, int]] = []
        self.interrupts = 0
        block = Block(disk, memory, lambda *what: self.completed.append(what))
        self.device = MmioTransport(block, memory, self._interrupt)
        self.size = 8

    def _interrupt(self) -> None:
        self.interrupts += 1

    def get(self, register: int) -> int:
        return self.device.read(register, 4)

    def set(self, register: int, value: int) -> None:
        self.device.write(register, 4, value)

    @property
    def needs_reset(self) -> bool:
        return bool(self.get(Register.STATUS) & Status.NEEDS_RESET)

    def set_up(
        self,
        *,
        size: int = 8,
        features: int = VERSION_1 | F_FLUSH,
        areas: tuple[int, int, int] = (TABLE, AVAILABLE, USED),
        ready: bool = True,
        status: int = READY_STATUS,
    ) -> Driver:
        """Initialize as 3.1.1 of the specification says, or nearly so."""
        self.size = size
        self.set(Register.STATUS, 0)
        self.set(Register.STATUS, Status.ACKNOWLEDGE)
        self.set(Register.STATUS, Status.ACKNOWLEDGE | Status.DRIVER)
        for select in (0, 1):
            self.set(Register.DRIVER_FEATURES_SEL, select)
            self.set(Register.DRIVER_FEATURES, features >> 32 * select & 0xFFFFFFFF)
        self.set(Register.STATUS, status & ~Status.DRIVER_OK)
        self.set(Register.QUEUE_SEL, 0)
        self.set(Register.QUEUE_NUM, size)
        for register, address in zip(
            (Register.QUEUE_DESC_LOW, Register.QUEUE_DRIVER_LOW, Register.QUEUE_DEVICE_LOW),
            areas,
            strict=True,
        ):
            self.set(register, address & 0xFFFFFFFF)
            self.set(register + 4, address >> 32)
        if ready:
            self.set(Register.QUEUE_READY, 1)
        self.set(Register.STATUS, status)
        return self

    def describe(self, *descriptors: Descriptor) -> None:
        """Fill the descriptor table from its start."""
        for at, descriptor in enumerate(descriptors):
            self.memory.write(TABLE + 16 * at, struct.pack("<QIHH", *descriptor))

    def offer(self, *heads: int, notify: bool = True) -> None:
        """Make chains available."""
        (index,) = struct.unpack("<H", self.memory.read(AVAILABLE + 2, 2))
        for head in heads:
            self.memory.write(AVAILABLE + 4 + 2 * (index % self.size), struct.pack("<H", head))
            index = index + 1 & 0xFFFF
        self.memory.write(AVAILABLE + 2, struct.pack("<H", index))
        if notify:
            self.set(Register.QUEUE_NOTIFY, 0)

    @property
    def used(self) -> int:
        """How many chains came back, modulo 2^16."""
        return int(struct.unpack("<H", self.memory.read(USED + 2, 2))[0])

    def last_used(self) -> tuple[int, int]:
        """The head and the length written of the chain that came back last."""
        at = (self.used - 1) % self.size
        head, length = struct.unpack("<II", self.memory.read(USED + 4 + 8 * at, 8))
        return head, length

    def request(self, kind: int, sector: int = 0, data: bytes = b"", length: int = 0) -> tuple[int, bytes]:
        """One request with its data in one segment; its status, and what was read."""
        self.memory.write(HEADER, struct.pack("<IIQ", kind, 0, sector))
        self.memory.write(DATA, data or bytes(length))
        self.memory.write(STATUS, b"\xff")
        chain = [Descriptor(HEADER, 16)]
        if data:
            chain.append(Descriptor(DATA, len(data)))
        elif length:
            chain.append(Descriptor(DATA, length, WRITE))
        chain.append(Descriptor(STATUS, 1, WRITE))
        self.describe(*chained(chain))
        self.offer(0)
        return self.memory.read(STATUS, 1)[0], self.memory.read(DATA, length)

    def read(self, sector: int, length: int = SECTOR) -> tuple[int, bytes]:
        return self.request(IN, sector, length=length)

    def write(self, sector: int, data: bytes) -> int:
        return self.request(OUT, sector, data)[0]

    def flush(self) -> int:
        return self.request(FLUSH)[0]

    def identify(self, length: int = 20) -> tuple[int, bytes]:
        return self.request(GET_ID, length=length)


def chained(descriptors: list[Descriptor]) -> list[Descriptor]:
    """Link descriptors one after another."""
    last = len(descriptors) - 1
    return [
        descriptor._replace(flags=descriptor.flags | NEXT, next=at + 1) if at < last else descriptor
        for at, descriptor in enumerate(descriptors)
    ]


@contextmanager
def machine(sectors: int = SECTORS) -> Iterator[Driver]:
    """Memory, disk and device, not yet initialized."""
    with GuestMemory(MEMORY) as memory, temporary_disk(sectors * SECTOR) as disk:
        yield Driver(memory, disk)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the warnings of ten thousand hostile guests to ourselves."""
    log = logging.getLogger("rondo_tools.vmm.devices")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)
