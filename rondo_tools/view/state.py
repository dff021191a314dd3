"""The state of a session without an end: running or silent.

Strategy: it is running while its ticks keep coming, and silent once three of them and five seconds more
have passed: its producer, or the way to the store, died. So it is where its last tick is as far ahead of
our clock, which was set back since: nothing shows that it is alive.
"""

from __future__ import annotations

RUNNING, SILENT = "running", "silent"


def running_or_silent(interval_ms: int, age_ms: int) -> str:
    """`age_ms` is the time since its last tick, negative where that is ahead of the clock."""
    return RUNNING if abs(age_ms) <= 3 * interval_ms + 5_000 else SILENT
