"""Wall clocks that are set: rules for producers of times, and for receivers that refuse some of them.

Strategy: a producer's times follow its wall clock, and ascend within a session. If the clock is set back by a
few seconds, the producer skips ticks until the clock reaches its last one again. If it is set back further,
the session ends (`clock`) and another begins. If it is set forward, the next tick is simply later.

A receiver that refuses times too far ahead cannot know whether the producer's clock or its own is wrong, and
ticks from before a step may still be on their way: `LatestTime` accepts them for an hour.
"""

from __future__ import annotations

import time
from collections.abc import Callable

SKIPPED_MS = 5_000  # a leap second, or the first correction after boot
FORGIVEN_S = 3600.0  # after a step back; a producer keeps ten minutes of ticks at one a second
_STEP_MS = 1_000  # between two readings; less is slewing, or a process that did not run


def now_ms() -> int:
    """The wall clock, in Unix milliseconds."""
    return time.time_ns() // 1_000_000


def booted_ms() -> int:
    """The wall-clock time of the host's boot, by the present clocks: a step of the wall clock changes it."""
    return now_ms() - time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def is_set_back(now_ms: float, last_ms: int, interval_ms: int) -> bool:
    """Whether the clock is so far behind the last tick that its session is over."""
    return now_ms < last_ms - max(SKIPPED_MS, interval_ms)


class LatestTime:
    """When called, the latest time that it may be, in Unix milliseconds.

    That is the wall clock; for an hour after it was set back, the time that it would show otherwise.
    """

    def __init__(
        self, wall_ms: Callable[[], int] = now_ms, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall_ms, self._monotonic_s = wall_ms, monotonic_s
        self._read_ms, self._read_s = wall_ms(), monotonic_s()
        self._behind_ms = 0  # the wall clock was set back by this
        self._until_s = 0.0  # until when that counts

    def __call__(self) -> int:
        wall_ms, now_s = self._wall_ms(), self._monotonic_s()
        step_ms = wall_ms - self._read_ms - round(1000 * (now_s - self._read_s))
        self._read_ms, self._read_s = wall_ms, now_s
        if self._behind_ms and now_s >= self._until_s:
            self._behind_ms = 0
        if abs(step_ms) >= _STEP_MS:
            self._behind_ms = max(self._behind_ms - step_ms, 0)
            if step_ms < 0:
                self._until_s = now_s + FORGIVEN_S
        return wall_ms + self._behind_ms
