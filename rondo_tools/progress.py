"""The progress of a slow job: a line on standard error every few seconds, none if it is quick."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from rondo_tools.units import format_size

log = logging.getLogger(__name__)

_EVERY_S = 5.0


class Progress:
    """`what` names the job; it processes `total` bytes, 0 if that is not known."""

    def __init__(self, what: str, total: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self._what, self._clock = what, clock
        self._done = 0
        self._logged_s = clock()

    def add(self, size: int) -> None:
        self._done += size
        now_s = self._clock()
        if now_s - self._logged_s >= _EVERY_S:
            self._logged_s = now_s
            of = f" of {format_size(max(self.total, self._done))}" if self.total else ""
            log.info("%s: %s%s", self._what, format_size(self._done), of)
