"""Periodic calls for an event loop, which asks how long it may sleep."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable


class Timers:
    """Calls each function at its interval. A late one is called once, however many calls it missed."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._due: list[tuple[float, int, float, Callable[[], None]]] = []

    def every(self, seconds: float, call: Callable[[], None], first_s: float | None = None) -> None:
        """Call it every `seconds`, the first time after `first_s` or one interval."""
        due = self._now() + (seconds if first_s is None else first_s)
        heapq.heappush(self._due, (due, len(self._due), seconds, call))

    def seconds_left(self) -> float | None:
        """Seconds until the next call is due; None if there is none."""
        return max(0.0, self._due[0][0] - self._now()) if self._due else None

    def run(self) -> None:
        """Make the calls that are due."""
        while self._due and self._due[0][0] <= (now := self._now()):
            due, number, seconds, call = self._due[0]
            next_due = due + seconds if due + seconds > now else now + seconds
            heapq.heapreplace(self._due, (next_due, number, seconds, call))
            call()
