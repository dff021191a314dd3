"""The quota of a producer on a socket: new sessions, and bytes.

Strategy: two token buckets. Received data is taken out after reading it, also below zero; then the producer
waits in its socket until both buckets are at zero again. So a flood of one producer cannot evict the data of
the others.
"""

from __future__ import annotations

SESSIONS_A_SECOND = 20.0
SESSIONS_BURST = 1000.0
BYTES_A_SECOND = float(1 << 20)
BYTES_BURST = float(128 << 20)


class Quota:
    """The quota of one producer. `now` is the monotonic clock, in seconds."""

    __slots__ = ("_at", "_bytes", "_sessions")

    def __init__(self, now: float) -> None:
        self._at = now
        self._sessions = SESSIONS_BURST
        self._bytes = BYTES_BURST

    def take(self, now: float, *, sessions: int, bytes: int) -> None:
        """Take received data out of the buckets."""
        self._fill(now)
        self._sessions -= sessions
        self._bytes -= bytes

    def ready_in(self, now: float) -> float:
        """Seconds that the producer has to wait, or 0."""
        self._fill(now)
        return max(0.0, -self._sessions / SESSIONS_A_SECOND, -self._bytes / BYTES_A_SECOND)

    def _fill(self, now: float) -> None:
        passed = max(0.0, now - self._at)
        self._at = now
        self._sessions = min(SESSIONS_BURST, self._sessions + passed * SESSIONS_A_SECOND)
        self._bytes = min(BYTES_BURST, self._bytes + passed * BYTES_A_SECOND)
