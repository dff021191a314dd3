"""The bus: which device answers an address. One instance for ports, one for MMIO.

Strategy: ranges in a sorted list, found by bisection, the last one found tried first (a guest that
polls a device asks for the same range again and again). Nothing else is looked at on the way from
an exit to its device, so a range and an offset are all there is. Several threads may use a bus;
its devices are theirs to lock.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_right
from typing import NamedTuple, Protocol

_log = logging.getLogger(__name__)

_REMEMBERED = 64  # unclaimed addresses that are logged, each once; a guest may try all of them


class Device(Protocol):
    """What stands on a bus.

    `offset` counts from the start of the device's range, `size` is 1, 2, 4 or 8 bytes, values are
    unsigned and little-endian. A device answers every access, however odd, without raising: what
    it has no answer for reads as `ones(size)` or 0 and is ignored when written.
    """

    def read(self, offset: int, size: int) -> int: ...

    def write(self, offset: int, size: int, value: int) -> None: ...


def ones(size: int) -> int:
    """What nobody drives reads as all ones: 0xff, 0xffff ..."""
    return (1 << 8 * size) - 1


class Locked:
    """A device that several threads use, one at a time: `with` it for what is not an access."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._lock = threading.Lock()

    def read(self, offset: int, size: int) -> int:
        with self._lock:
            return self._device.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        with self._lock:
            self._device.write(offset, size, value)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class _Range(NamedTuple):
    base: int
    end: int  # the first address after it
    device: Device


class _Nobody:
    """Answers where no device does."""

    def read(self, offset: int, size: int) -> int:  # noqa: ARG002
        return ones(size)

    def write(self, offset: int, size: int, value: int) -> None:
        pass


_NOBODY = _Nobody()
_NOWHERE = _Range(0, 0, _NOBODY)


class Bus:
    """Passes accesses on to the device whose range holds all of their bytes.

    An unclaimed access, or one that crosses the end of a range, reads as all ones and writes
    nothing; it is counted in `unclaimed`, and its address is logged once at debug level.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.unclaimed = 0
        self._ranges: list[_Range] = []
        self._bases: list[int] = []
        self._hit = _NOWHERE
        self._seen: set[int] = set()

    def add(self, base: int, length: int, device: Device) -> None:
        """Give [base, base + length) to `device`. Raises ValueError if it overlaps another range."""
        new = _Range(base, base + length, device)
        if base < 0 or length <= 0:
            raise ValueError(f"{self.name}: [{base:#x}, {new.end:#x}) is no range of addresses")
        for other in self._ranges:
            if base < other.end and other.base < new.end:
                raise ValueError(
                    f"{self.name}: [{base:#x}, {new.end:#x}) overlaps [{other.base:#x}, {other.end:#x})"
                )
        at = bisect_right(self._bases, base)
        self._bases.insert(at, base)
        self._ranges.insert(at, new)

    def read(self, address: int, size: int) -> int:
        """The value at `address`, `size` bytes of it."""
        base, end, device = self._hit
        if not base <= address <= end - size:
            base, end, device = self._find(address, size)
        return device.read(address - base, size)

    def write(self, address: int, size: int, value: int) -> None:
        """Write the low `size` bytes of `value` to `address`."""
        base, end, device = self._hit
        if not base <= address <= end - size:
            base, end, device = self._find(address, size)
        device.write(address - base, size, value)

    def _find(self, address: int, size: int) -> _Range:
        at = bisect_right(self._bases, address) - 1
        if at >= 0 and address + size <= self._ranges[at].end:
            # Not by way of self._hit: another vCPU's thread may set it in between.
            self._hit = found = self._ranges[at]
            return found
        self.unclaimed += 1
        if address not in self._seen and len(self._seen) < _REMEMBERED:
            self._seen.add(address)
            _log.debug("%s: no device at %#x (%d bytes)", self.name, address, size)
        return _NOWHERE
