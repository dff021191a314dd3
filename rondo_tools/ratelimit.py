"""Rate-limited warnings: a number of each kind in a span of time, then a count of the suppressed ones.

So a producer that connects in a loop, or a hostile guest, cannot fill the disk with log lines.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable


class RateLimit:
    """Passes on the first `burst` warnings of each kind in `window_s`."""

    def __init__(
        self,
        log: logging.Logger,
        burst: int,
        window_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._burst = burst
        self._window_s = window_s
        self._clock = clock
        self._kinds: dict[str, tuple[float, int]] = {}  # when its window began, the number since then

    def warn(self, kind: str, message: str, *values: object) -> None:
        """Log `message % values` as a warning, or count it."""
        self.report(kind)
        began, count = self._kinds.get(kind, (self._clock(), 0))
        self._kinds[kind] = began, count + 1
        if count < self._burst:
            self._log.warning(message, *values)

    def report(self, *kinds: str) -> None:
        """Log how many were suppressed, of these kinds or of all, if their window is over."""
        now = self._clock()
        for kind in kinds or tuple(self._kinds):
            began, count = self._kinds.get(kind, (now, 0))
            if now - began >= self._window_s:
                del self._kinds[kind]
                if count > self._burst:
                    self._log.warning("%s: %d more suppressed", kind, count - self._burst)
