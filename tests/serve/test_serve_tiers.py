"""The choice of a query's tier."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rondo_tools.serve.tiers import COUNTING, Choice, choose
from rondo_tools.store.format.tiers import DEFAULT_TIERS

S, MIN, H, D = 1000, 60_000, 3_600_000, 86_400_000


@pytest.mark.parametrize(
    ("query", "span_ms", "step_ms", "range_ms", "func", "expected"),
    [
        ("rate(x[5s]), a point a second", MIN, S, 5 * S, "rate", Choice(0, "avg")),
        ("rate(x[1m]), a point each 15 s", H, 15 * S, MIN, "rate", Choice(1, "avg")),
        ("rate(x[20m]), a point each 5 min", 7 * D, 5 * MIN, 20 * MIN, "rate", Choice(2, "avg")),
        ("rate(x[1m]), a point each 5 min", D, 5 * MIN, MIN, "rate", Choice(1, "avg")),
        ("x, a point a second", H, S, 0, "", Choice(0, "avg")),
        ("avg by (a) (x), a point each 5 min", D, 5 * MIN, 0, "avg", Choice(2, "avg")),
        ("x, once", 5 * MIN, 0, 0, "", Choice(0, "avg")),
        ("x[5m], once", 5 * MIN, 0, 5 * MIN, "", Choice(0, "avg")),
        ("rate(x[10m]), once", 10 * MIN, 0, 10 * MIN, "rate", Choice(0, "avg")),
        ("rate(x[7d]), once", 7 * D, 0, 7 * D, "rate", Choice(2, "avg")),
        ("max_over_time(x[1h]), a point an hour", D, H, H, "max_over_time", Choice(2, "max")),
        ("min(x), a point a minute", H, MIN, 0, "min", Choice(1, "min")),
        ("count_over_time(x[1d]), a point an hour", 2 * D, H, D, "count_over_time", Choice(0, "avg")),
        ("rate(x[1m]), a point each 15 s, of ten minutes", 10 * MIN, 15 * S, MIN, "rate", Choice(0, "avg")),
        ("x[2h], once", 2 * H, 0, 2 * H, "", Choice(0, "avg")),
        ("changes(x[7d]), once", 7 * D, 0, 7 * D, "changes", Choice(0, "avg")),
    ],
)
def test_queries_and_their_tiers(
    query: str, span_ms: int, step_ms: int, range_ms: int, func: str, expected: Choice
) -> None:
    found = choose(DEFAULT_TIERS, span_ms=span_ms, step_ms=step_ms, range_ms=range_ms, func=func)
    assert found == expected, query


@given(
    st.integers(0, 30 * D),
    st.integers(0, 7 * D),
    st.integers(0, 30 * D),
    st.sampled_from(["", "rate", "avg", "max", "min_over_time", *sorted(COUNTING)]),
)
def test_rows_are_never_further_apart_than_the_query_needs(
    span_ms: int, step_ms: int, range_ms: int, func: str
) -> None:
    tier, aggregate = choose(DEFAULT_TIERS, span_ms=span_ms, step_ms=step_ms, range_ms=range_ms, func=func)
    assert aggregate in ("avg", "min", "max")
    if tier:
        assert func not in COUNTING
        assert span_ms > DEFAULT_TIERS[0].span_ms
        interval_ms = DEFAULT_TIERS[tier].interval_ms
        assert not step_ms or interval_ms <= step_ms
        assert not range_ms or 4 * interval_ms <= range_ms
