"""Warnings that a guest can cause, held to a rate: a hostile guest must not fill the disk with log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

_BURST = 5  # warnings
_WINDOW_S = 10.0


class Complaints:
    """Passes on the first few warnings of each ten seconds, and then how many it held back."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._began = float("-inf")
        self._count = 0

    def add(self, message: str, *values: object) -> None:
        """Log `message % values` as a warning, or count it."""
        now = self._clock()
        if now - self._began >= _WINDOW_S:
            if self._count > _BURST:
                self._log.warning("%d more warnings like the last ones", self._count - _BURST)
            self._began = now
            self._count = 0
        self._count += 1
        if self._count <= _BURST:
            self._log.warning(message, *values)
