"""Rate-limited warnings: so many of a kind in each span of time, then a count of what was suppressed.

So whoever can cause warnings at will, a producer that connects in a loop or a hostile guest, does not
fill the disk with log.
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
        self._kinds: dict[str, tuple[float, int]] = {}  # when its window began, how many came since

    def warn(self, kind: str, message: str, *values: object) -> None:
        """Log `message % values` as a warning, or count it."""
        self.report(kind)
        began, count = self._kinds.get(kind, (self._clock(), 0))
        self._kinds[kind] = began, count + 1
        if count < self._burst:
            self._log.warning(message, *values)

    def report(self, *kinds: str) -> None:
        """Say how many were suppressed, of these kinds or of all, where the window is over."""
        now = self._clock()
        for kind in kinds or tuple(self._kinds):
            began, count = self._kinds.get(kind, (now, 0))
            if now - began >= self._window_s:
                del self._kinds[kind]
                if count > self._burst:
                    self._log.warning("%s: %d more like the last ones, not shown", kind, count - self._burst)
