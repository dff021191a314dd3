"""The tiers of a store: the resolution of each, and for how long it is kept.

Written ``1s:10m,10s:6h,5m:7d``: interval and span of each, finest first. Tier 0 keeps every tick as
it came, so its interval is nominal; the coarser ones are roll-ups of it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from rondo_tools.errors import UsageError
from rondo_tools.units import format_duration, parse_duration

MAX_TIERS = 8


class Tier(NamedTuple):
    """Windows of `interval_ms`, kept for `span_ms`."""

    interval_ms: int
    span_ms: int

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
    return tiers


def _parse_tier(text: str) -> Tier:
    interval_text, colon, span_text = text.strip().partition(":")
    if not colon:
        raise UsageError(f"{text!r} is not a tier: write INTERVAL:SPAN, such as 1s:10m")
    interval_ms, span_ms = parse_duration(interval_text), parse_duration(span_text)
    if span_ms % interval_ms or span_ms < 2 * interval_ms:
        raise UsageError(f"tier {text}: the span is not a multiple of the interval, two of them at least")
    return Tier(interval_ms, span_ms)


def format_tiers(tiers: tuple[Tier, ...]) -> str:
    """The spelling that `parse_tiers` reads."""
    return ",".join(map(str, tiers))


DEFAULT_TIERS = parse_tiers("1s:10m,10s:6h,5m:7d")
