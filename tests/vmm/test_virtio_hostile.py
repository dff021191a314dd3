"""A hostile guest: everything it does ends in a failed request or a device that needs a reset.

Never in an exception, in unbounded work, or in a byte changed outside what the guest named.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rondo_tools.vmm.devices.virtio.block import FLUSH, IN, IOERR, MAX_REQUEST, OUT, Block
from rondo_tools.vmm.devices.virtio.disk import SECTOR, Disk
from rondo_tools.vmm.devices.virtio.mmio import MmioTransport, Register
from rondo_tools.vmm.memory import GuestMemory
from tests.support.vmm.virtio_driver import (
    AVAILABLE,
    DATA,
    HEADER,
    INDIRECT,
    MEMORY,
    NEXT,
    SECTORS,
    STATUS,
    TABLE,
    USED,
    WRITE,
    Descriptor,
    Driver,
    machine,
    quiet,
)


@pytest.fixture
def driver() -> Iterator[Driver]:
    with machine() as driver, quiet():
        yield driver.set_up()


header = Descriptor(HEADER, 16, NEXT, 1)
status = Descriptor(STATUS, 1, WRITE)

BROKEN = {
    "loop of one": [Descriptor(HEADER, 16, NEXT, 0)],
    "loop of two": [header, Descriptor(DATA, 512, NEXT, 0)],
    "loop of writable ones": [header, Descriptor(DATA, 512, NEXT | WRITE, 1)],
    "next beyond the table": [Descriptor(HEADER, 16, NEXT, 8), status],
    "next far beyond the table": [Descriptor(HEADER, 16, NEXT, 65535), status],
    "indirect": [Descriptor(HEADER, 16, INDIRECT)],
    "indirect and next": [Descriptor(HEADER, 16, INDIRECT | NEXT, 1), status],
    "empty header": [Descriptor(HEADER, 0, NEXT, 1), status],
    "empty data": [header, Descriptor(DATA, 0, NEXT | WRITE, 2), status],
    "empty status": [header, Descriptor(STATUS, 0, WRITE)],
    "header at the end of memory": [Descriptor(MEMORY - 15, 16, NEXT, 1), status],
    "header beyond memory": [Descriptor(MEMORY, 16, NEXT, 1), status],
    "header that wraps around": [Descriptor(2**64 - 8, 16, NEXT, 1), status],
    "data of 4 GiB": [header, Descriptor(DATA, 2**32 - 1, NEXT | WRITE, 2), status],
    "data in the device": [header, Descriptor(0xD000_0000, 512, NEXT | WRITE, 2), status],
    "status beyond memory": [header, Descriptor(MEMORY, 1, WRITE)],
    "status at 2^63": [header, Descriptor(2**63, 1, WRITE)],
    "readable after writable": [Descriptor(STATUS, 1, NEXT | WRITE, 1), Descriptor(HEADER, 16)],
    "no status": [Descriptor(HEADER, 16)],
    "no header": [Descriptor(STATUS, 17, WRITE)],
    "half a header": [Descriptor(HEADER, 15, NEXT, 1), status],
}


@pytest.mark.parametrize("chain", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("kind", [IN, OUT, FLUSH])
def test_an_invalid_chain_needs_a_reset(driver: Driver, chain: list[Descriptor], kind: int) -> None:
    driver.memory.write(HEADER, struct.pack("<IIQ", kind, 0, 0))
    nothing = [Descriptor(0, 0)] * (8 - len(chain))
    driver.describe(*chain, *nothing, status)  # one beyond the end, which would do as an end
    before = bytearray(driver.memory.read(0, MEMORY))
    driver.offer(0)
    assert driver.needs_reset
    assert driver.get(Register.INTERRUPT_STATUS) == 2
    before[AVAILABLE : AVAILABLE + 22] = driver.memory.read(AVAILABLE, 22)
    assert driver.memory.read(0, MEMORY) == before, "nothing but what the driver wrote has changed"
    assert driver.completed == []

    driver.describe(header, status)
    driver.offer(0)
    assert driver.used == 0, "nothing is served until the reset"
    driver.memory.write(AVAILABLE, bytes(64))
    assert driver.set_up().flush() == 0, "and all is well after it"


@pytest.mark.parametrize("head", [8, 9, 255, 65535])
def test_a_head_beyond_the_table_needs_a_reset(driver: Driver, head: int) -> None:
    driver.describe(*[Descriptor(0, 0)] * 8, header._replace(next=9), status)
    driver.offer(head)
    assert driver.needs_reset


@pytest.mark.parametrize("jump", [9, 16, 32768, 65535])
def test_an_index_that_jumps_needs_a_reset(driver: Driver, jump: int) -> None:
    driver.flush()
    driver.memory.write(AVAILABLE + 2, struct.pack("<H", 1 + jump & 0xFFFF))
    driver.set(Register.QUEUE_NOTIFY, 0)
    assert driver.needs_reset
    assert driver.used == 1


def test_the_same_head_may_come_twice(driver: Driver) -> None:
    driver.flush()
    driver.offer(0, 0, 0)
    assert (driver.used, driver.needs_reset) == (4, False)


def test_a_read_over_the_rings_and_its_own_chain_ends(driver: Driver) -> None:
    """Each read overwrites the available ring with one that offers more reads."""
    offers = struct.pack("<HH8H", 0, 5, *[0] * 8).ljust(SECTOR, b"\0")
    assert driver.write(0, offers) == 0
    driver.memory.write(HEADER, struct.pack("<IIQ", IN, 0, 0))
    driver.describe(header, Descriptor(AVAILABLE, 512, NEXT | WRITE, 2), status)
    driver.offer(0)
    assert driver.used == 2
    driver.memory.write(HEADER, struct.pack("<IIQ", IN, 0, 0))
    driver.describe(header, Descriptor(TABLE, 512, NEXT | WRITE, 2), status)
    driver.set(Register.QUEUE_NOTIFY, 0)  # the three that were offered: the table is zeros after the first
    assert driver.used == 3
    assert driver.needs_reset


def test_header_data_and_status_may_overlap(driver: Driver) -> None:
    driver.memory.write(HEADER, struct.pack("<IIQ", IN, 0, 0))
    driver.describe(header, Descriptor(HEADER, 512, NEXT | WRITE, 2), Descriptor(HEADER, 1, WRITE))
    driver.offer(0)
    assert (driver.used, driver.needs_reset) == (1, False)


def test_a_request_has_a_limit() -> None:
    with machine(sectors=1 << 20) as small, quiet(), GuestMemory(32 << 20) as memory:
        driver = Driver(memory, small.disk).set_up()
        driver.memory.write(HEADER, struct.pack("<IIQ", IN, 0, 0))
        for length, expected in ((MAX_REQUEST, 0), (MAX_REQUEST + SECTOR, IOERR)):
            driver.describe(header, Descriptor(1 << 20, length, NEXT | WRITE, 2), status)
            driver.offer(0)
            assert driver.memory.read(STATUS, 1)[0] == expected
        # Many segments over the same memory: more than there is memory, still over the limit.
        table = [header, *(Descriptor(1 << 20, 30 << 20, NEXT | WRITE, at) for at in range(2, 7)), status]
        driver.describe(*table)
        driver.offer(0)
        assert driver.memory.read(STATUS, 1)[0] == IOERR
        assert driver.completed[1:] == []


class WatchedDisk(Disk):
    """Counts its accesses, and checks that none passes its end."""

    work = 0

    def read_into(self, views: list[memoryview], sector: int) -> None:
        self._watch(views, sector)
        super().read_into(views, sector)

    def write_from(self, views: list[memoryview], sector: int) -> None:
        self._watch(views, sector)
        super().write_from(views, sector)

    def flush(self) -> None:
        self.work += 1  # without the wait for a real disk

    def _watch(self, views: list[memoryview], sector: int) -> None:
        self.work += 1
        assert 0 < sum(len(view) for view in views) <= (self.sectors - sector) * SECTOR


places = st.sampled_from([0, TABLE, AVAILABLE, USED, HEADER, DATA, STATUS, MEMORY - 512, MEMORY - 1, MEMORY])
addresses = st.one_of(
    places,
    st.builds(lambda place, by: max(place + by, 0), places, st.integers(-600, 600)),
    st.sampled_from([2**32 - 1, 2**32, 2**63, 2**64 - 16, 2**64 - 1, 0xD0000000]),
    st.integers(0, 2**64 - 1),
)
lengths = st.one_of(
    st.sampled_from([0, 1, 15, 16, 17, 511, 512, 513, 1024, 4096, MEMORY, 2**31, 2**32 - 1]),
    st.integers(0, 2**32 - 1),
)
flags = st.one_of(st.sampled_from([0, NEXT, NEXT, WRITE, NEXT | WRITE, NEXT | WRITE]), st.integers(0, 65535))
small = st.one_of(st.integers(0, 9), st.sampled_from([255, 32768, 65535]))
descriptors = st.builds(Descriptor, addresses, lengths, flags, small)
good_chains = st.sampled_from(
    [
        [header, Descriptor(DATA, 1024, NEXT | WRITE, 2), status],
        [header, Descriptor(DATA, 1024, NEXT, 2), status],
        [header, status],
    ]
)
tables = st.builds(
    lambda good, bad, at: [*good[:at], *bad, *good[at:]][:8],
    good_chains,
    st.lists(descriptors, max_size=8),
    st.integers(0, 3),
)
headers = st.builds(
    struct.pack,
    st.just("<IIQ"),
    st.one_of(st.sampled_from([IN, OUT, FLUSH, 8]), st.integers(0, 2**32 - 1)),
    st.just(0),
    st.one_of(st.integers(0, SECTORS + 1), st.sampled_from([2**55, 2**63, 2**64 - 1])),
)
heads = st.lists(small, min_size=1, max_size=8)


@pytest.mark.heavy
@given(
    st.lists(st.tuples(tables, headers, heads, small), min_size=1, max_size=4), st.sampled_from([1, 8, 128])
)
@settings(max_examples=400, deadline=None)
def test_random_rings(rounds: list[tuple[list[Descriptor], bytes, list[int], int]], size: int) -> None:
    with machine() as plain, quiet(), WatchedDisk(os.dup(plain.disk._fd), SECTORS) as disk:
        driver = Driver(plain.memory, disk).set_up(size=size)
        for table, request, chosen, jump in rounds:
            driver.memory.write(HEADER, request)
            driver.memory.write(AVAILABLE + 4, struct.pack(f"<{len(chosen)}H", *chosen))
            driver.describe(*table)
            driver.memory.write(AVAILABLE + 2, struct.pack("<H", driver.used + jump & 0xFFFF))
            check_notification(driver, disk)
        assert os.fstat(disk._fd).st_size == SECTORS * SECTOR


def check_notification(driver: Driver, disk: WatchedDisk) -> None:
    size, used, work = driver.size, driver.used, disk.work
    before = bytearray(driver.memory.read(0, MEMORY))
    driver.set(Register.QUEUE_NOTIFY, 0)
    assert disk.work - work <= size
    after = driver.memory.read(0, MEMORY)
    if before[TABLE : TABLE + 16 * size] != after[TABLE : TABLE + 16 * size]:
        return  # a request has rewritten the table, which then no longer says what later ones may touch
    writable = writable_extents(after, size)
    if all(end <= USED + 2 or start >= USED + 4 for start, end in writable):
        assert driver.used - used & 0xFFFF <= size
    for start, end in (*writable, (USED, USED + 4 + 8 * size)):
        before[start:end] = after[start:end]
    assert before == after, "what no descriptor names has changed"


def writable_extents(memory: bytes, size: int) -> list[tuple[int, int]]:
    """The extents that the descriptors in the table let the device write."""
    found = []
    for at in range(size):
        address, length, flag, _ = struct.unpack_from("<QIHH", memory, TABLE + 16 * at)
        if flag & WRITE and address + length <= MEMORY:
            found.append((address, address + length))
    return found


registers = st.one_of(
    st.sampled_from([value for name, value in vars(Register).items() if not name.startswith("_")]),
    st.integers(0, 0xFFF),
)
values = st.one_of(
    st.sampled_from([0, 1, 3, 8, 11, 15, 64, 128, 65535, 2**32 - 1, TABLE, AVAILABLE, USED]),
    st.integers(0, 2**32 - 1),
)
sizes = st.sampled_from([4, 4, 4, 4, 1, 2, 8])
operations = st.one_of(
    st.tuples(st.just("read"), registers, sizes),
    st.tuples(st.just("write"), registers, sizes, values),
    st.tuples(st.just("poke"), addresses.filter(lambda at: at < MEMORY - 64), st.binary(max_size=64)),
    st.just(("set up",)),
    st.just(("request",)),
    st.just(("notify",)),
)


@pytest.mark.heavy
@given(st.lists(operations, max_size=60))
@settings(max_examples=300, deadline=None)
def test_random_operations(steps: list[tuple[Any, ...]]) -> None:
    with machine() as plain, quiet(), WatchedDisk(os.dup(plain.disk._fd), SECTORS) as disk:
        driver = Driver(plain.memory, disk)
        for what, *how in steps:
            work = disk.work
            match what:
                case "read":
                    value = driver.device.read(*how)
                    assert 0 <= value < 256 ** how[1]
                case "write":
                    register, size, value = how
                    driver.device.write(register, size, value % 256**size)
                case "poke":
                    driver.memory.write(*how)
                case "set up":
                    driver.set_up()
                case "request":
                    driver.memory.write(HEADER, struct.pack("<IIQ", OUT, 0, 1))
                    driver.describe(header, Descriptor(DATA, 512, NEXT, 2), status)
                    driver.memory.write(AVAILABLE + 2, struct.pack("<H", driver.used + 1 & 0xFFFF))
                    driver.memory.write(AVAILABLE + 4, bytes(16))
                case "notify":
                    driver.set(Register.QUEUE_NOTIFY, 0)
            assert disk.work - work <= 128
        assert os.fstat(disk._fd).st_size == SECTORS * SECTOR


def test_the_device_alone_survives_random_registers() -> None:
    """No initialization at all: every register, every size, extreme values."""
    with machine() as driver, quiet():
        device = MmioTransport(Block(driver.disk, driver.memory), driver.memory)
        for offset in range(0x120):
            for size in (1, 2, 4, 8):
                for value in (0, 1, 256**size - 1):
                    device.write(offset, size, value)
                    assert 0 <= device.read(offset, size) < 256**size
