"""The state of a session without an end: running or silent.

Strategy: it is running while its ticks arrive. It is silent after three missed ticks and five seconds more:
its producer, or the connection to the store, has failed. It is also silent if its last tick is as far ahead
of our clock, because then the clock was set back and nothing shows that the session is alive.
"""

from __future__ import annotations

RUNNING, SILENT = "running", "silent"


def running_or_silent(interval_ms: int, age_ms: int) -> str:
    """`age_ms` is the time since its last tick, negative if that is ahead of the clock."""
    return RUNNING if abs(age_ms) <= 3 * interval_ms + 5_000 else SILENT
