"""The spelling of tiers, and invalid ones."""

from __future__ import annotations

import pytest

from rondo_tools.errors import UsageError
from rondo_tools.store.format.tiers import DEFAULT_TIERS, Tier, format_tiers, parse_tiers


def test_the_default() -> None:
    assert (Tier(1000, 600_000), Tier(10_000, 21_600_000), Tier(300_000, 604_800_000)) == DEFAULT_TIERS


@pytest.mark.parametrize(
    "text", ["1s:10m,10s:6h,5m:1w", "100ms:1m,1s:10m,10s:6h", "1s:10s", "1ms:2ms", "1s:10m,5m:20m", "7ms:7s"]
)
def test_the_spelling_round_trips(text: str) -> None:
    tiers = parse_tiers(text)
    assert parse_tiers(format_tiers(tiers)) == tiers
    assert parse_tiers(text.replace(",", " , ")) == tiers


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "'' is not a tier: write INTERVAL:SPAN"),
        ("1s", "is not a tier"),
        ("1s:10m,", "is not a tier"),
        ("1s:ten", "'ten' is not a duration"),
        ("0s:10m", "too short"),
        ("3s:10s", "not a multiple"),
        ("1s:1s", "two of them at least"),
        ("10s:1s", "two of them at least"),
        ("1s:10m,1s:20m", "does not divide"),
        ("10s:10m,1s:20m", "does not divide"),
        ("2s:10m,5s:30m", "does not divide"),
        ("1s:10m,10s:10m", "does not outlast"),
        ("1s:10m,10s:6h,5m:1h", "does not outlast"),
        (",".join(f"{2**i}s:{2 ** (i + 12)}s" for i in range(9)), "9 tiers are more than 8"),
    ],
)
def test_invalid_tiers_are_refused(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse_tiers(text)
