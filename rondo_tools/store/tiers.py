"""The tiers of a store: how finely, and for how long, each of its rings remembers.

Written ``1s:10m,10s:6h,5m:7d``: interval and span of each, finest first. Every tick lands in tier
0; the coarser ones are roll-ups of it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from rondo_tools.errors import UsageError
from rondo_tools.units import format_duration, parse_duration

MAX_TIERS = 8
MAX_SLOTS = 10_000_000


class Tier(NamedTuple):
    """A ring of `slots`, each `interval_ms` long."""

    interval_ms: int
    slots: int

    @property
    def span_ms(self) -> int:
        return self.interval_ms * self.slots

    def whole_since(self, last_ms: int, window_ms: int) -> int:
        """When the first window begins of which no row can have been overwritten up to `last_ms`."""
        oldest_ms = (last_ms // self.interval_ms - self.slots + 1) * self.interval_ms
        return -(-oldest_ms // window_ms) * window_ms

    def __str__(self) -> str:
        return f"{format_duration(self.interval_ms)}:{format_duration(self.span_ms)}"


def parse_tiers(text: str) -> tuple[Tier, ...]:
    """Read the spelling above. Raises UsageError for tiers that could not be rolled up."""
    tiers = tuple(_parse_tier(part) for part in text.split(","))
    if len(tiers) > MAX_TIERS:
        raise UsageError(f"{len(tiers)} tiers are more than {MAX_TIERS}")
    for finer, coarser in pairwise(tiers):
        if coarser.interval_ms <= finer.interval_ms or coarser.interval_ms % finer.interval_ms:
            raise UsageError(f"tiers {text}: the interval of {finer} does not divide that of {coarser}")
        if coarser.span_ms <= finer.span_ms:
            raise UsageError(f"tiers {text}: {coarser} does not outlast {finer}")
    # A window of the coarsest tier is rolled up when the next one begins, and all of its rows must
    # still be in tier 0 then.
    if tiers[0].span_ms < 2 * tiers[-1].interval_ms and len(tiers) > 1:
        raise UsageError(
            f"tiers {text}: {tiers[0]} spans less than twice the coarsest interval, "
            f"{format_duration(tiers[-1].interval_ms)}"
        )
    return tiers


def _parse_tier(text: str) -> Tier:
    interval_text, colon, span_text = text.strip().partition(":")
    if not colon:
        raise UsageError(f"{text!r} is not a tier: write INTERVAL:SPAN, such as 1s:10m")
    interval_ms, span_ms = parse_duration(interval_text), parse_duration(span_text)
    slots, rest = divmod(span_ms, interval_ms)
    if rest or slots < 2:
        raise UsageError(f"tier {text}: the span is not a multiple of the interval, two slots at least")
    if slots > MAX_SLOTS:
        raise UsageError(f"tier {text}: {slots} slots are more than {MAX_SLOTS}")
    return Tier(interval_ms, slots)


def format_tiers(tiers: tuple[Tier, ...]) -> str:
    """What `parse_tiers` reads back."""
    return ",".join(map(str, tiers))


DEFAULT_TIERS = parse_tiers("1s:10m,10s:6h,5m:7d")
