"""When ticks are due. Pure: the caller reads the clocks."""

from __future__ import annotations

from rondo_tools import clock


class Pace:
    """The due times of a session's ticks: whole multiples of the interval on the wall clock, each once.

    All times are Unix milliseconds. If the wall clock jumps ahead or the VMM wakes late, slots are skipped.
    If the clock is set back, no tick is due until the last one is past again; if it is set back by more
    than a few seconds, the session is over (`is_set_back`).
    """

    def __init__(self, interval_ms: int, start_ms: int) -> None:
        self.interval_ms = interval_ms
        self._slot = start_ms - start_ms % interval_ms  # the start's own slot gets no tick
        self.last_ms = start_ms  # the newest returned time, or the start

    def wait_ms(self, now_ms: float) -> float:
        """The time until the next tick is due: at most one interval, even if the clock is wrong."""
        return min(max(self._slot + self.interval_ms - now_ms, 0.0), float(self.interval_ms))

    def is_set_back(self, now_ms: float) -> bool:
        """Whether the wall clock was set back so far that this session can have no more ticks."""
        return clock.is_set_back(now_ms, self.last_ms, self.interval_ms)

    def next(self, now_ms: float) -> int | None:
        """The time of the tick that is due; None if none is."""
        slot = int(now_ms // self.interval_ms) * self.interval_ms
        if slot <= self._slot:
            return None
        self._slot = self.last_ms = slot
        return slot

    def final(self, now_ms: float) -> int:
        """The time of the session's last tick, after every other."""
        return max(int(now_ms), self.last_ms + 1)
