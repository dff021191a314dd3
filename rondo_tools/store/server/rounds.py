"""The choice of connections that a turn reads: those with little data do not wait for those with much.

Strategy: a turn reads all connections with little data, and a limited number of the others. These are read
in rounds: a round takes as many turns as it needs, and the next round begins with the connections that have
much data then. Connections without a session come last in a round. So if a VM is restarted, its last ticks,
on the old connection, are stored before its first new ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from rondo_tools.store.server.connection import Connection

MOST_READS = 32  # of 64 KiB each, in a turn
LITTLE = 1 << 12  # bytes


class Rounds:
    """Give `next` all readable connections, and read those that it returns."""

    def __init__(self) -> None:
        self._left: deque[Connection] = deque()  # in this round

    @property
    def is_over(self) -> bool:
        """Whether the next turn begins a new round."""
        return not self._left

    def next(self, known: Sequence[Connection], fresh: Sequence[Connection]) -> list[Connection]:
        """The connections to read in this turn, in this order; `fresh` are those without a session.

        Some of the result may be closed by now.
        """
        if self.is_over:
            if len(known) + len(fresh) <= MOST_READS:
                return [*known, *fresh]
            self._left.extend(one for one in (*known, *fresh) if one.unread > LITTLE)
        chosen = [one for one in known if one.unread <= LITTLE]
        chosen += [self._left.popleft() for _ in range(min(MOST_READS, len(self._left)))]
        if self.is_over:
            chosen += [one for one in fresh if one.unread <= LITTLE]
        return chosen
