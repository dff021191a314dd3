"""A PC's battery-backed clock (MC146818): the time of day, without interrupts.

Strategy: registers are computed when they are read, in BCD and UTC. "Update in progress" is never set,
because drivers wait for it to clear. Writes are ignored: the time is the host's.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rondo_tools.vmm.bus import ones

_INDEX, _DATA = 0, 1
_NMI = 0x80  # a bit of the index port that is not part of the index

_DIVIDER = 0x26  # 32 kHz, no update in progress
_24_HOURS = 0x02
_BATTERY_GOOD = 0x80


class Cmos:
    """Two bytes: index and data. `now` is the time in seconds since 1970."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._index = 0

    def read(self, offset: int, size: int) -> int:
        if (offset, size) != (_DATA, 1):
            return ones(size)
        match self._index:
            case 0x0A:  # status A
                return _DIVIDER
            case 0x0B:  # status B
                return _24_HOURS
            case 0x0D:  # status D
                return _BATTERY_GOOD
            case index:
                return self._time(index)

    def write(self, offset: int, size: int, value: int) -> None:
        if (offset, size) == (_INDEX, 1):
            self._index = value & ~_NMI

    def _time(self, index: int) -> int:
        now = time.gmtime(self._now())
        weekday = (now.tm_wday + 1) % 7 + 1  # Sunday is 1
        values = {
            0x00: now.tm_sec,
            0x02: now.tm_min,
            0x04: now.tm_hour,
            0x06: weekday,
            0x07: now.tm_mday,
            0x08: now.tm_mon,
            0x09: now.tm_year % 100,
            0x32: now.tm_year // 100,
        }
        value = values.get(index, 0)
        return value // 10 << 4 | value % 10
