"""Guest memory: one anonymous mapping, guest-physical address 0 at its start.

Strategy: every access checks its whole extent, so that no address from a guest can reach beyond the
mapping. Structures are read and written with a `struct.Struct`; bulk data moves through `view` without
a copy.
"""

from __future__ import annotations

import mmap
from struct import Struct
from types import TracebackType
from typing import Any


class MemoryFault(Exception):  # noqa: N818 - a fault is what hardware calls it
    """An access outside guest memory: the guest's error, not the user's. Devices catch it."""

    def __init__(self, address: int, size: int) -> None:
        super().__init__(f"{size} bytes at {address:#x} are outside guest memory")


class GuestMemory:
    """`size` bytes of zeros, a multiple of the page size. Its owner closes it.

    The accelerator maps `mapping` into the guest. Methods that take an address raise MemoryFault for an
    access that is not completely inside.
    """

    def __init__(self, size: int) -> None:
        if size <= 0 or size % mmap.PAGESIZE:
            raise ValueError(f"guest memory of {size} bytes is not a multiple of {mmap.PAGESIZE}")
        self.size = size
        self.mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._bytes = memoryview(self.mapping)

    def __enter__(self) -> GuestMemory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the memory. Raises BufferError while a view of it or the accelerator holds it."""
        self._bytes.release()
        self.mapping.close()

    def check(self, address: int, size: int) -> None:
        """Raise MemoryFault unless all `size` bytes at `address` are inside."""
        if not 0 <= address <= self.size - size or size < 0:
            raise MemoryFault(address, size)

    def view(self, address: int, size: int) -> memoryview:
        """A writable view. Release it before `close`."""
        self.check(address, size)
        return self._bytes[address : address + size]

    def read(self, address: int, size: int) -> bytes:
        """A copy of `size` bytes."""
        return bytes(self.view(address, size))

    def write(self, address: int, data: bytes) -> None:
        """Copy `data` to `address`."""
        self.view(address, len(data))[:] = data

    def unpack(self, layout: Struct, address: int) -> tuple[Any, ...]:
        """The fields of the structure at `address`."""
        if not 0 <= address <= self.size - layout.size:
            raise MemoryFault(address, layout.size)
        return layout.unpack_from(self._bytes, address)

    def pack(self, layout: Struct, address: int, *values: int) -> None:
        """Write the structure at `address`."""
        if not 0 <= address <= self.size - layout.size:
            raise MemoryFault(address, layout.size)
        layout.pack_into(self._bytes, address, *values)
