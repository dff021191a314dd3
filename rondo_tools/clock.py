"""Wall clocks that are set: the rules of those who give out times, and of those who judge them.

Strategy: a producer's times follow its wall clock, and ascend within a session. Set back by a few
seconds, it skips ticks until the clock has come to its last one again. Set back further, its session
ends (`clock`) and another begins. Set forward, its next tick is simply later.

Whoever refuses times that are too far ahead cannot know whether the producer's clock or his own is
wrong, and ticks from before a step may still be under way: `LatestTime` lets them in for an hour.
"""

from __future__ import annotations

import time
from collections.abc import Callable

SKIPPED_MS = 5_000  # a leap second, or the first correction after boot
FORGIVEN_S = 3600.0  # after a step back; a producer keeps ten minutes of ticks at one a second
_STEP_MS = 1_000  # between two readings; less is slewing, or a process that was not run


def now_ms() -> int:
    """The wall clock, in Unix milliseconds."""
    return time.time_ns() // 1_000_000


def booted_ms() -> int:
    """The wall clock at the host's boot, as the clocks stand now: only a step of the wall clock moves it."""
    return now_ms() - time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def is_set_back(now_ms: float, last_ms: int, interval_ms: int) -> bool:
    """Whether the clock is so far behind the last tick that its session is over."""
    return now_ms < last_ms - max(SKIPPED_MS, interval_ms)


class LatestTime:
    """The latest that the time may be, in Unix milliseconds, whenever it is called.

    That is the wall clock; for an hour after it was set back, what it would show otherwise.
    """

    def __init__(
        self, wall_ms: Callable[[], int] = now_ms, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._wall_ms, self._monotonic_s = wall_ms, monotonic_s
        self._read_ms, self._read_s = wall_ms(), monotonic_s()
        self._behind_ms = 0  # by how much it was set back
        self._until_s = 0.0  # when that no longer counts

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
