"""The bus: maps an address to a device. One instance for ports, one for MMIO.

Strategy: a sorted list of ranges, searched by bisection. The last range found is tried first, because a
guest that polls a device accesses the same range again. Several threads may use a bus; it does not lock
its devices.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_right
from typing import NamedTuple, Protocol

_log = logging.getLogger(__name__)

_REMEMBERED = 64  # unclaimed addresses that are logged, once each: a guest may try all of them


class Device(Protocol):
    """A device on a bus.

    `offset` counts from the start of the device's range, `size` is 1, 2, 4 or 8 bytes, values are
    unsigned and little-endian. A device never raises, whatever the access: an invalid read returns
    `ones(size)` or 0, an invalid write is ignored.
    """

    def read(self, offset: int, size: int) -> int: ...

    def write(self, offset: int, size: int, value: int) -> None: ...


def ones(size: int) -> int:
    """The value of a read that no device answers: 0xff, 0xffff ..."""
    return (1 << 8 * size) - 1


class Locked:
    """A lock around a device that several threads use. As a context manager it holds the lock."""

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


class _Unclaimed:
    """Answers for addresses without a device."""

    def read(self, offset: int, size: int) -> int:  # noqa: ARG002
        return ones(size)

    def write(self, offset: int, size: int, value: int) -> None:
        pass


_NOWHERE = _Range(0, 0, _Unclaimed())


class Bus:
    """Forwards an access to the device whose range contains all of its bytes.

    An access that no range contains is unclaimed: it reads as all ones and writes nothing. It is
    counted in `unclaimed`, and its address is logged once at debug level.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.unclaimed = 0
        self._ranges: list[_Range] = []
        self._bases: list[int] = []
        self._hit = _NOWHERE
        self._seen: set[int] = set()

    def add(self, base: int, length: int, device: Device) -> None:
        """Map [base, base + length) to `device`. Raises ValueError if it overlaps another range."""
        new = _Range(base, base + length, device)
        if base < 0 or length <= 0:
            raise ValueError(f"{self.name}: [{base:#x}, {new.end:#x}) is not a range of addresses")
        for other in self._ranges:
            if base < other.end and other.base < new.end:
                raise ValueError(
                    f"{self.name}: [{base:#x}, {new.end:#x}) overlaps [{other.base:#x}, {other.end:#x})"
                )
        at = bisect_right(self._bases, base)
        self._bases.insert(at, base)
        self._ranges.insert(at, new)

    def read(self, address: int, size: int) -> int:
        """Read `size` bytes at `address`."""
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
            # Return `found`, not self._hit: another vCPU's thread may change that in between.
            self._hit = found = self._ranges[at]
            return found
        self.unclaimed += 1
        if address not in self._seen and len(self._seen) < _REMEMBERED:
            self._seen.add(address)
            _log.debug("%s: no device at %#x (%d bytes)", self.name, address, size)
        return _NOWHERE
