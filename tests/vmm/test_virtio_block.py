"""The block device: the requests of the specification, in any segmentation."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rondo_tools.vmm.devices.virtio.block import IN, IOERR, OK, OUT, UNSUPP, Block
from rondo_tools.vmm.devices.virtio.disk import SECTOR, Disk
from rondo_tools.vmm.devices.virtio.mmio import VERSION_1, Register
from tests.support.vmm.virtio_driver import (
    AVAILABLE,
    DATA,
    HEADER,
    SECTORS,
    STATUS,
    WRITE,
    Descriptor,
    Driver,
    chained,
    machine,
)


@pytest.fixture
def driver() -> Iterator[Driver]:
    with machine() as driver:
        yield driver.set_up()


def test_written_data_is_read_back(driver: Driver) -> None:
    data = os.urandom(3 * SECTOR)
    assert driver.write(5, data) == OK
    assert driver.last_used() == (0, 1)
    assert driver.read(5, 3 * SECTOR) == (OK, data)
    assert driver.last_used() == (0, 3 * SECTOR + 1)
    assert driver.read(6) == (OK, data[SECTOR : 2 * SECTOR])
    assert driver.read(4) == (OK, bytes(SECTOR))
    assert driver.flush() == OK
    assert driver.last_used() == (0, 1)


def test_each_successful_request_is_reported(driver: Driver) -> None:
    driver.write(0, bytes(1024))
    driver.read(1)
    driver.flush()
    driver.identify()
    driver.read(SECTORS)
    assert [(op, moved) for op, moved, _ in driver.completed] == [
        ("write", 1024),
        ("read", 512),
        ("flush", 0),
    ]
    assert all(ns > 0 for _, _, ns in driver.completed)


def test_a_request_is_timed_by_the_given_clock() -> None:
    with machine() as driver:
        times = iter([1000, 1250])
        completed: list[tuple[str, int, int]] = []
        driver.device._device = Block(
            driver.disk, driver.memory, lambda *what: completed.append(what), clock=lambda: next(times)
        )
        driver.set_up().flush()
        assert completed == [("flush", 0, 250)]


def test_the_disk_has_a_name(driver: Driver) -> None:
    assert driver.identify() == (OK, b"rondo".ljust(20, b"\0"))
    assert driver.last_used() == (0, 21)
    assert driver.identify(19)[0] == IOERR


@pytest.mark.parametrize("kind", [2, 3, 5, 11, 13, 0x80000000, 0xFFFFFFFF])
def test_other_requests_are_not_supported(driver: Driver, kind: int) -> None:
    assert driver.request(kind)[0] == UNSUPP
    assert not driver.needs_reset
    assert driver.completed == []


@pytest.mark.parametrize(
    ("sector", "length"),
    [
        (SECTORS, SECTOR),
        (SECTORS - 1, 2 * SECTOR),
        (2**55, SECTOR),
        (2**63, SECTOR),
        (2**64 - 1, SECTOR),
        (2**64 - 1, 2 * SECTOR),  # wraps around to sector 0
        (0, 1),
        (0, 511),
        (0, 513),
        (0, 0),
    ],
)
def test_a_request_past_the_end_of_the_disk_is_an_error(driver: Driver, sector: int, length: int) -> None:
    driver.write(0, b"\x11" * SECTOR)
    driver.write(SECTORS - 1, b"\x22" * SECTOR)
    assert driver.read(sector, length) == (IOERR, bytes(length))
    assert driver.write(sector, b"\x33" * length) == IOERR
    assert not driver.needs_reset
    assert driver.read(0) == (OK, b"\x11" * SECTOR)
    assert driver.read(SECTORS - 1) == (OK, b"\x22" * SECTOR)


cuts = st.lists(st.integers(1, 700), min_size=1, max_size=5)


def cut(address: int, length: int, lengths: list[int], flags: int) -> list[Descriptor]:
    """The extent in segments of these lengths, the last one taking the rest."""
    pieces = []
    for piece in lengths:
        if piece < length:
            pieces.append(Descriptor(address, piece, flags))
            address, length = address + piece, length - piece
    return [*pieces, Descriptor(address, length, flags)]


@given(cuts, st.integers(1, 4), st.booleans())
def test_a_request_may_be_split_anywhere(lengths: list[int], sectors: int, status_apart: bool) -> None:
    with machine() as driver:
        driver.set_up(size=16)
        data = os.urandom(sectors * SECTOR)
        # Header and data in one stream, cut without regard to where one ends.
        driver.memory.write(HEADER, struct.pack("<IIQ", OUT, 0, 7) + data)
        driver.describe(*chained([*cut(HEADER, 16 + len(data), lengths, 0), Descriptor(STATUS, 1, WRITE)]))
        driver.offer(0)
        assert driver.memory.read(STATUS, 1) == b"\0"
        assert driver.completed[-1][:2] == ("write", len(data))

        driver.memory.write(HEADER, struct.pack("<IIQ", IN, 0, 7))
        if status_apart:
            into = [*cut(DATA, len(data), lengths, WRITE), Descriptor(STATUS, 1, WRITE)]
            status_at = STATUS
        else:
            into = cut(DATA, len(data) + 1, lengths, WRITE)
            status_at = DATA + len(data)
        driver.memory.write(status_at, b"\xff")
        driver.describe(*chained([*cut(HEADER, 16, [n % 16 or 1 for n in lengths], 0), *into]))
        driver.offer(0)
        assert driver.memory.read(status_at, 1) == b"\0"
        assert driver.memory.read(DATA, len(data)) == data
        assert driver.last_used() == (0, len(data) + 1)


def test_several_chains_at_one_notification(driver: Driver) -> None:
    driver.write(3, b"\x55" * SECTOR)
    driver.memory.write(HEADER, struct.pack("<IIQ", IN, 0, 3))
    driver.describe(
        *chained([Descriptor(HEADER, 16), Descriptor(DATA, 513, WRITE)]),
        Descriptor(HEADER, 16, 1, 3),
        Descriptor(DATA + 1024, 513, WRITE),
    )
    before = driver.interrupts
    driver.offer(2, 0)
    assert driver.used == 3
    assert driver.last_used() == (0, 513)
    assert driver.memory.read(DATA, 513) == driver.memory.read(DATA + 1024, 513) == b"\x55" * 512 + b"\0"
    assert driver.interrupts == before + 1


class SickDisk(Disk):
    """A disk that fails on request."""

    def __init__(self, code: int) -> None:
        super().__init__(-1, SECTORS)
        self._code = code

    def _fail(self, *_: object) -> None:
        raise OSError(self._code, os.strerror(self._code))

    read_into = write_from = flush = _fail  # type: ignore[assignment]  # of any arguments


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_an_error_of_the_disk_is_an_error_of_the_request(code: int, caplog: pytest.LogCaptureFixture) -> None:
    with machine() as healthy:
        driver = Driver(healthy.memory, SickDisk(code)).set_up()
        assert driver.read(0)[0] == IOERR
        assert driver.last_used() == (0, 0)
        assert driver.write(0, bytes(SECTOR)) == IOERR
        assert driver.flush() == IOERR
        for _ in range(100):
            driver.write(0, bytes(SECTOR))
        assert (driver.needs_reset, driver.completed) == (False, [])
        assert os.strerror(code) in caplog.text
        assert len(caplog.records) <= 5


class CountingDisk(Disk):
    """Remembers flushes."""

    flushes = 0

    def flush(self) -> None:
        self.flushes += 1


@pytest.mark.heavy
def test_the_indexes_wrap_around() -> None:
    with machine() as plain, CountingDisk(os.dup(plain.disk._fd), SECTORS) as disk:
        driver = Driver(plain.memory, disk).set_up()
        driver.flush()
        driver.memory.write(AVAILABLE + 4, bytes(16))  # every entry offers the flush at descriptor 0
        for done in range(9, 66_000, 8):
            driver.memory.write(AVAILABLE + 2, (done & 0xFFFF).to_bytes(2, "little"))
            driver.set(Register.QUEUE_NOTIFY, 0)
        assert not driver.needs_reset
        assert driver.used == done - 65_536
        assert disk.flushes == len(driver.completed) == done


@pytest.mark.parametrize(("features", "flushes"), [(VERSION_1, 1), (VERSION_1 | 1 << 9, 0)])
def test_without_flush_writes_are_stable_at_once(features: int, flushes: int) -> None:
    with machine() as plain:
        disk = CountingDisk(os.dup(plain.disk._fd), SECTORS)
        with disk:
            driver = Driver(plain.memory, disk).set_up(features=features)
            assert driver.write(0, bytes(SECTOR)) == OK
            assert disk.flushes == flushes


def test_features_are_negotiated_once() -> None:
    with machine() as plain, CountingDisk(os.dup(plain.disk._fd), SECTORS) as disk:
        driver = Driver(plain.memory, disk).set_up(features=VERSION_1)
        driver.set(Register.DRIVER_FEATURES_SEL, 0)
        driver.set(Register.DRIVER_FEATURES, 1 << 9)
        driver.set(Register.STATUS, driver.get(Register.STATUS))
        assert driver.write(0, bytes(SECTOR)) == OK
        assert disk.flushes == 1, "still a driver without flush"


def test_a_read_only_disk_has_the_feature_and_refuses_writes() -> None:
    with machine() as plain:
        plain.set_up().write(0, b"\x77" * SECTOR)
        with Disk(os.dup(plain.disk._fd), SECTORS, read_only=True) as disk:
            plain.memory.write(0, bytes(plain.memory.size))
            driver = Driver(plain.memory, disk).set_up(features=VERSION_1 | 1 << 5 | 1 << 9)
            assert driver.write(0, bytes(SECTOR)) == IOERR
            assert driver.read(0) == (OK, b"\x77" * SECTOR)
