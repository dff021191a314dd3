"""How much a producer on a socket may bring: new sessions, and bytes.

Strategy: a bucket each, which fills at a rate up to a burst. What has come is taken out, also below
zero, for it is known only when it has been read; the producer then waits in its socket until both
are at zero again. So nobody's flood drives out what others have stored.
"""

from __future__ import annotations

SESSIONS_A_SECOND = 20.0
SESSIONS_BURST = 1000.0
BYTES_A_SECOND = float(1 << 20)
BYTES_BURST = float(128 << 20)


class Quota:
    """Of one producer. `now` is the running clock, in seconds."""

    __slots__ = ("_at", "_bytes", "_sessions")

    def __init__(self, now: float) -> None:
        self._at = now
        self._sessions = SESSIONS_BURST
        self._bytes = BYTES_BURST

    def take(self, now: float, *, sessions: int, bytes: int) -> None:
        """Note what has come."""
        self._fill(now)
        self._sessions -= sessions
        self._bytes -= bytes

    def ready_in(self, now: float) -> float:
        """How many seconds its producer has to wait; 0 for not at all."""
        self._fill(now)
        return max(0.0, -self._sessions / SESSIONS_A_SECOND, -self._bytes / BYTES_A_SECOND)

    def _fill(self, now: float) -> None:
        passed = max(0.0, now - self._at)
        self._at = now
        self._sessions = min(SESSIONS_BURST, self._sessions + passed * SESSIONS_A_SECOND)
        self._bytes = min(BYTES_BURST, self._bytes + passed * BYTES_A_SECOND)
