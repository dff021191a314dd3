"""Whom a turn of the loop reads: who has little to say does not wait until all are read who have much.

Strategy: a turn reads all connections that have little to say, and as many of the others as it has room
for. These others are read in rounds: a round takes as many turns as it needs, and the next one begins
with those who have much to say then. Connections without a session come last in a round, for a VM that
was started again: its last ticks, on the old connection, are stored before its first ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from rondo_tools.store.server.connection import Connection

MOST_READS = 32  # of 64 KiB: what a turn has room for
LITTLE = 1 << 12  # bytes


class Rounds:
    """Give `next` all who have something to say, and read those that it gives."""

    def __init__(self) -> None:
        self._left: deque[Connection] = deque()  # in this round

    @property
    def is_over(self) -> bool:
        """Whether the next turn begins a new round."""
        return not self._left

    def next(self, talking: Sequence[Connection], fresh: Sequence[Connection]) -> list[Connection]:
        """Whom to read in this turn, in this order; `fresh` are those without a session.

        Some of them may be closed by now.
        """
        if self.is_over:
            if len(talking) + len(fresh) <= MOST_READS:
                return [*talking, *fresh]
            self._left.extend(one for one in (*talking, *fresh) if one.unread > LITTLE)
        heard = [one for one in talking if one.unread <= LITTLE]
        heard += [self._left.popleft() for _ in range(min(MOST_READS, len(self._left)))]
        if self.is_over:
            heard += [one for one in fresh if one.unread <= LITTLE]
        return heard
