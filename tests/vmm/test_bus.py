"""The bus: claimed and unclaimed addresses."""

from __future__ import annotations

import logging
import threading
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rondo_tools.vmm.bus import Bus, Locked, ones


class Recorder:
    """A device that answers with its name's number and records its accesses."""

    def __init__(self, answer: int) -> None:
        self.answer = answer
        self.seen: list[tuple[int, ...]] = []

    def read(self, offset: int, size: int) -> int:
        self.seen.append((offset, size))
        return self.answer

    def write(self, offset: int, size: int, value: int) -> None:
        self.seen.append((offset, size, value))


def test_a_device_sees_offsets() -> None:
    bus, low, high = Bus("ports"), Recorder(1), Recorder(2)
    bus.add(0x3F8, 8, high)
    bus.add(0x60, 5, low)
    assert bus.read(0x60, 1) == 1
    assert bus.read(0x3FD, 1) == 2
    bus.write(0x3F8, 1, 65)
    bus.write(0x64, 1, 0xFE)
    assert low.seen == [(0, 1), (4, 1, 0xFE)]
    assert high.seen == [(5, 1), (0, 1, 65)]
    assert bus.unclaimed == 0


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_unclaimed_reads_are_ones_and_writes_vanish(size: int) -> None:
    bus, device = Bus("ports"), Recorder(0)
    bus.add(0x10, 8, device)
    bus.read(0x10, 1)  # the range that was hit last must not answer for others
    for address in (0x0, 0x18, 0x1000):
        assert bus.read(address, size) == ones(size) == 256**size - 1
        bus.write(address, size, 0)
    assert device.seen == [(0, 1)]
    assert bus.unclaimed == 6


def test_an_access_that_crosses_an_end_is_unclaimed() -> None:
    bus, device, neighbour = Bus("mmio"), Recorder(0), Recorder(0)
    bus.add(0x10, 4, device)
    bus.add(0x14, 4, neighbour)
    assert bus.read(0x12, 4) == 0xFFFFFFFF
    assert bus.read(0x0F, 2) == 0xFFFF
    bus.write(0x13, 2, 0)
    assert (device.seen, neighbour.seen, bus.unclaimed) == ([], [], 3)
    assert bus.read(0x10, 4) == 0


@pytest.mark.parametrize(
    ("base", "length"), [(0x10, 1), (0x13, 1), (0x0F, 2), (0x13, 10), (0, 0x100), (0x11, 1)]
)
def test_overlap_is_refused(base: int, length: int) -> None:
    bus = Bus("ports")
    bus.add(0x10, 4, Recorder(0))
    with pytest.raises(ValueError, match="overlaps"):
        bus.add(base, length, Recorder(0))


@pytest.mark.parametrize(("base", "length"), [(-1, 2), (5, 0), (5, -1)])
def test_an_invalid_range_is_refused(base: int, length: int) -> None:
    with pytest.raises(ValueError, match="is not a range"):
        Bus("ports").add(base, length, Recorder(0))


def test_unclaimed_addresses_are_logged_once_each_up_to_a_limit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus = Bus("ports")
    with caplog.at_level(logging.DEBUG):
        for _ in range(3):
            bus.read(0x70, 1)
        assert [record.getMessage() for record in caplog.records] == ["ports: no device at 0x70 (1 bytes)"]
        for address in range(10_000):
            bus.read(address, 1)
    assert len(caplog.records) <= 64
    assert bus.unclaimed == 10_003


@given(
    st.sets(st.integers(0, 30), max_size=8),
    st.lists(st.tuples(st.integers(0, 35), st.sampled_from([1, 2, 4, 8])), max_size=30),
)
def test_agrees_with_a_map_of_every_address(starts: set[int], accesses: list[tuple[int, int]]) -> None:
    bus = Bus("ports")
    owner: dict[int, int] = {}
    ordered = [*sorted(starts), 33]
    for base, following in pairwise(ordered):
        length = (following - base + 1) // 2  # with holes between
        bus.add(base, length, Recorder(base))
        owner |= dict.fromkeys(range(base, base + length), base)
    for address, size in accesses:
        owners = {owner.get(at) for at in range(address, address + size)}
        (first, *others) = owners
        assert bus.read(address, size) == (ones(size) if others or first is None else first)


def test_a_locked_device_is_used_by_one_thread_at_a_time() -> None:
    class Careful:
        busy = False
        uses = 0

        def read(self, offset: int, size: int) -> int:
            assert not self.busy
            self.busy = True
            time.sleep(0)  # a chance for the others
            self.busy = False
            self.uses += 1
            return 0

        def write(self, offset: int, size: int, value: int) -> None:
            self.read(offset, size)

    device = Careful()
    locked = Locked(device)

    def use() -> None:
        for _ in range(200):
            locked.read(0, 1)
            locked.write(0, 1, 1)
            with locked:
                device.read(0, 1)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert device.uses == 4 * 600
