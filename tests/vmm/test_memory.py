"""Guest memory: nothing reaches outside."""

from __future__ import annotations

from struct import Struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rondo_tools.vmm.memory import GuestMemory, MemoryFault

SIZE = 8192
PAIR = Struct("<IH")
anywhere = st.one_of(
    st.integers(-20, SIZE + 20), st.sampled_from([2**31, 2**32 - 1, 2**32, 2**64 - 1, -(2**63)])
)


def test_memory_starts_as_zeros_and_keeps_writes() -> None:
    with GuestMemory(SIZE) as memory:
        assert memory.read(0, SIZE) == bytes(SIZE)
        memory.write(SIZE - 3, b"end")
        assert memory.read(SIZE - 3, 3) == b"end"
        assert memory.mapping[SIZE - 3 :] == b"end"
        memory.pack(PAIR, 16, 0x01020304, 0x0506)
        assert memory.read(16, 6) == bytes([4, 3, 2, 1, 6, 5])
        assert memory.unpack(PAIR, 16) == (0x01020304, 0x0506)
        with memory.view(16, 2) as view:
            view[:] = b"ab"
        assert memory.read(16, 2) == b"ab"


@example(100, -1)
@example(SIZE - 8, 8)
@example(SIZE - 8, 9)
@example(SIZE, 0)
@example(-8, 8)
@given(anywhere, st.one_of(st.integers(-5, 40), st.sampled_from([SIZE, 2**32 - 1, 2**64])))
def test_an_access_is_completely_inside_or_faults(address: int, size: int) -> None:
    inside = size >= 0 and address >= 0 and address + size <= SIZE
    with GuestMemory(SIZE) as memory:
        for access in (memory.check, memory.read, memory.view):
            if inside:
                access(address, size)
            else:
                with pytest.raises(MemoryFault):
                    access(address, size)


@example(SIZE - PAIR.size)
@example(SIZE - PAIR.size + 1)
@example(-1)
@given(anywhere)
def test_a_structure_is_completely_inside_or_faults(address: int) -> None:
    with GuestMemory(SIZE) as memory:
        if 0 <= address <= SIZE - PAIR.size:
            memory.pack(PAIR, address, 1, 2)
            assert memory.unpack(PAIR, address) == (1, 2)
        else:
            with pytest.raises(MemoryFault):
                memory.pack(PAIR, address, 1, 2)
            with pytest.raises(MemoryFault):
                memory.unpack(PAIR, address)
            with pytest.raises(MemoryFault):
                memory.write(address, b"123456")
            assert memory.read(0, SIZE) == bytes(SIZE)


@pytest.mark.parametrize("size", [0, -4096, 1, 4097])
def test_a_size_that_is_not_whole_pages_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="multiple"):
        GuestMemory(size)


def test_close_frees_the_mapping() -> None:
    memory = GuestMemory(SIZE)
    memory.close()
    assert memory.mapping.closed
