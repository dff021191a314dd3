"""Chooses the tier for a remote-read query, and the column of a gauge, from Prometheus' hints.

Strategy: a query for points `step` apart, each over `range`, needs rows no further apart than the step, and
at least four in the range; a query for a single point needs 600. The coarsest tier with these is read, so a
week is 2,016 rows a series; the next coarser one is read before its first row. A range no longer than tier
0's span is always read from tier 0, which is as exact as after a push. Functions that count or add up samples
would be wrong in coarse tiers: they get every tick, as far back as there are ticks. Source: prompb.ReadHints;
Thanos' aggrsFromFunc for the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rondo_tools.store.format.tiers import Tier

COUNTING = frozenset(
    {
        *("count_over_time", "sum_over_time", "changes", "resets", "stddev_over_time", "stdvar_over_time"),
        *("quantile_over_time", "mad_over_time", "holt_winters", "double_exponential_smoothing"),
        *("present_over_time", "last_over_time", "absent_over_time", "deriv", "predict_linear"),
    }
)
_ROWS_IN_RANGE = 4
_ROWS_AT_ONCE = 600  # where there is one point and no step


class Choice(NamedTuple):
    """The finest tier to read, and the aggregate of gauges in coarse ones."""

    tier: int
    aggregate: str


def choose(tiers: Sequence[Tier], *, span_ms: int, step_ms: int, range_ms: int, func: str) -> Choice:
    """`span_ms` is the query's range of time; `step_ms` and `range_ms` are 0 if it has none."""
    aggregate = "max" if func in ("max", "max_over_time") else "avg"
    if func in ("min", "min_over_time"):
        aggregate = "min"
    is_bare = range_ms and not func  # x[5m] returns the samples themselves
    if span_ms <= tiers[0].span_ms or is_bare or func in COUNTING:
        return Choice(0, aggregate)
    budget_ms = step_ms
    if range_ms:
        in_range_ms = range_ms // (_ROWS_IN_RANGE if step_ms else _ROWS_AT_ONCE)
        budget_ms = min(step_ms or in_range_ms, in_range_ms)
    tier = max((n for n, tier in enumerate(tiers) if n and tier.interval_ms <= budget_ms), default=0)
    return Choice(tier, aggregate)
