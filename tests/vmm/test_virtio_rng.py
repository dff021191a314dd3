"""The entropy device: it fills writable segments, up to a limit, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rondo_tools.vmm.devices.virtio.queue import Chain
from rondo_tools.vmm.devices.virtio.rng import MAX_REQUEST, Rng
from rondo_tools.vmm.memory import GuestMemory

SIZE = 1 << 20


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with GuestMemory(SIZE) as memory:
        yield memory


def test_every_segment_is_filled_and_nothing_else(memory: GuestMemory) -> None:
    segments = [(0x1000, 300), (0x3000, 200)]
    assert Rng(memory).handle(Chain(0, [], segments)) == 500
    data = memory.read(0, SIZE)
    for at, length in segments:
        piece = data[at : at + length]
        assert len(set(piece)) > 50
        assert data[at - 16 : at] == data[at + length : at + length + 16] == bytes(16)
    before = memory.read(0x1000, 300)
    Rng(memory).handle(Chain(0, [], segments))
    assert memory.read(0x1000, 300) != before


def test_a_request_has_a_limit(memory: GuestMemory) -> None:
    segments = [(0, MAX_REQUEST - 10), (0x8_0000, 100)]
    assert Rng(memory).handle(Chain(0, [], segments)) == MAX_REQUEST
    assert any(memory.read(0x8_0000, 10))
    assert memory.read(0x8_000A, 90) == bytes(90)


def test_readable_segments_are_not_written(memory: GuestMemory) -> None:
    assert Rng(memory).handle(Chain(0, [(0x1000, 100)], [])) == 0
    assert memory.read(0, SIZE) == bytes(SIZE)
