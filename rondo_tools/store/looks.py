"""Looks at the clock: a file expires only if two looks, an hour apart, agree that it is too old.

Strategy: the time now is compared with looks that are at least an hour old. A process that has run for an
hour advances its own looks by the monotonic clock; before that it uses looks of earlier processes, which
state.json keeps in their order. The smallest time is used. So a clock that is wrong for less than an hour
removes nothing, and runs from cron expire files as servers do, an hour later.

The time at which a file is closed comes from the same clock. If the clock is behind the looks, the file gets
the time an hour after the newest look; if it was ahead, the times of later files correct it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

HOUR_MS = 3_600_000
EVERY_MS = 600_000
MOST = 2 * HOUR_MS // EVERY_MS


class Times(NamedTuple):
    """The time now, and the time by an earlier look."""

    now_ms: int
    agreed_ms: int

    def is_over(self, since_ms: int, span_ms: int) -> bool:
        """Whether by both more than the span has passed."""
        return min(self) - since_ms > span_ms


class Looks:
    """The looks of this process, by both clocks."""

    def __init__(self, now_ms: Callable[[], int], clock: Callable[[], float]) -> None:
        self._now_ms, self._clock = now_ms, clock
        self._own: list[tuple[int, int]] = []  # (wall, monotonic), ms

    def look(self, kept_ms: list[int]) -> tuple[Times, list[int]]:
        """The times, and the looks to keep instead of `kept_ms`."""
        now_ms, clock_ms = self._now_ms(), int(self._clock() * 1000)
        agreed_ms = _before_a_step_back(kept_ms, now_ms)
        old = [n for n, (_, then) in enumerate(self._own) if clock_ms - then >= HOUR_MS]
        if old:
            agreed_ms = min(wall_ms + clock_ms - then for wall_ms, then in self._own[old[-1] :])
        if not self._own or clock_ms - self._own[-1][1] >= EVERY_MS:
            self._own = [*self._own, (now_ms, clock_ms)][-MOST:]
        kept_ms = _without_refuted(kept_ms, now_ms)
        if not kept_ms or not 0 <= now_ms - kept_ms[-1] < EVERY_MS:
            kept_ms = [*kept_ms, now_ms][-MOST:]
        return Times(now_ms, agreed_ms), kept_ms


def _before_a_step_back(looks_ms: list[int], now_ms: int) -> int:
    """The newest look that is an hour old and that no later look contradicts; 0 if there is none."""
    least = now_ms
    for look_ms in reversed(looks_ms):
        if look_ms <= min(least, now_ms - HOUR_MS):
            return look_ms
        least = min(least, look_ms)
    return 0


def _without_refuted(looks_ms: list[int], now_ms: int) -> list[int]:
    """Drop the looks that were ahead, an hour after the clock was set back."""
    steps = [n for n in range(1, len(looks_ms)) if looks_ms[n] < looks_ms[n - 1]]
    if not steps or now_ms - looks_ms[steps[-1]] < HOUR_MS:
        return looks_ms
    before, since = looks_ms[: steps[-1]], looks_ms[steps[-1] :]
    return [look_ms for look_ms in before if look_ms <= since[0]] + since


def stamp(now_ms: int, looks_ms: list[int]) -> int:
    """The time to note for a file that is closed now: a later one if the clock is behind."""
    newest = max(looks_ms, default=0)
    return now_ms if now_ms >= newest else newest + HOUR_MS


def plausible(closed_ms: Mapping[int, int], now_ms: int) -> dict[int, int]:
    """The times at which files were closed, by number; times of a wrong clock are corrected by other files.

    Files are closed in the order of their numbers. So a time before that of an earlier file is wrong, and so
    is a time in the future: then the next file's time is taken.
    """
    found: dict[int, int] = {}
    to_come: list[int] = []
    greatest = 0
    for number in sorted(closed_ms):
        if closed_ms[number] > now_ms:
            to_come.append(number)
            continue
        greatest = max(greatest, closed_ms[number])
        found |= dict.fromkeys((*to_come, number), greatest)
        to_come = []
    return found | dict.fromkeys(to_come, now_ms)
