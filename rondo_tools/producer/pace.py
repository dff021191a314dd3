"""When ticks fall due. Pure: clocks are read by the caller."""

from __future__ import annotations

from rondo_tools import clock


class Pace:
    """When ticks of a session fall due: on whole multiples of the interval of the wall clock, each once.

    All times are Unix milliseconds. A wall clock that jumps ahead, or a VMM that wakes late, skips to
    the slot that it is. One that is set back gives no tick until its last one is past again; set back
    by more than a few seconds, the session is over (`is_set_back`).
    """

    def __init__(self, interval_ms: int, start_ms: int) -> None:
        self.interval_ms = interval_ms
        self._slot = start_ms - start_ms % interval_ms  # the start's own slot gets no tick
        self.last_ms = start_ms  # the newest time given out, or the start

    def wait_ms(self, now_ms: float) -> float:
        """How long to sleep until the next tick falls due: at most one interval, whatever the clock says."""
        return min(max(self._slot + self.interval_ms - now_ms, 0.0), float(self.interval_ms))

    def is_set_back(self, now_ms: float) -> bool:
        """Whether the wall clock was set back so far that no tick of this session can follow."""
        return clock.is_set_back(now_ms, self.last_ms, self.interval_ms)

    def next(self, now_ms: float) -> int | None:
        """The time of the tick that is due; None if none is yet."""
        slot = int(now_ms // self.interval_ms) * self.interval_ms
        if slot <= self._slot:
            return None
        self._slot = self.last_ms = slot
        return slot

    def final(self, now_ms: float) -> int:
        """The time of the last tick of all, after every other."""
        return max(int(now_ms), self.last_ms + 1)
