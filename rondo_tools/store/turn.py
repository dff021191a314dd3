"""How much of a turn of the loop goes into what costs as much as hundreds of ticks: sessions that
begin or end, which wait for the disk.

Strategy: the first one of a turn is always done, others as long as there is time; what is left waits
for the next turn, in the socket that it came from. So when a thousand VMs end at once, the ticks of
the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable

SECONDS = 0.02


class Turn:
    """`begin` it, then ask `has_time` before each such thing; `seconds` is what they may take together."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = SECONDS
        self._clock = clock
        self._until: float | None = None

    def begin(self) -> None:
        self._until = None

    def has_time(self) -> bool:
        now = self._clock()
        if self._until is None:
            self._until = now + self.seconds
            return True
        return now < self._until
