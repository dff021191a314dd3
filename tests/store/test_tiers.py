"""The spelling of tiers, and which of them are refused."""

from __future__ import annotations

import pytest

from rondo_tools.errors import UsageError
from rondo_tools.store.tiers import DEFAULT_TIERS, Tier, format_tiers, parse_tiers


def test_the_default() -> None:
    assert (Tier(1000, 600), Tier(10_000, 2160), Tier(300_000, 2016)) == DEFAULT_TIERS
    assert [tier.span_ms for tier in DEFAULT_TIERS] == [600_000, 21_600_000, 604_800_000]


@pytest.mark.parametrize(
    "text", ["1s:10m,10s:6h,5m:1w", "100ms:1m,1s:10m,10s:6h", "1s:10s", "1ms:2ms", "1s:10m,5m:20m", "7ms:7s"]
)
def test_spelled_and_read_back(text: str) -> None:
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
        ("1s:1s", "two slots at least"),
        ("10s:1s", "two slots at least"),
        ("1ms:100d", "slots are more than 10000000"),
        ("1s:10m,1s:20m", "does not divide"),
        ("10s:10m,1s:20m", "does not divide"),
        ("2s:10m,5s:30m", "does not divide"),
        ("1s:10m,10s:10m", "does not outlast"),
        ("1s:10m,10s:6h,5m:1h", "does not outlast"),
        ("1s:9m,10s:6h,5m:7d", "less than twice the coarsest interval, 5m"),
        (",".join(f"{2**i}s:{2 ** (i + 12)}s" for i in range(9)), "9 tiers are more than 8"),
    ],
)
def test_refused(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse_tiers(text)


def test_whole_since_is_when_nothing_of_a_window_can_be_overwritten() -> None:
    """By trying: which slots do the rows up to `last_ms` leave alone?"""
    tier = Tier(10, 12)
    for last_ms in range(1000, 1500, 7):
        for window_ms in (10, 20, 50):
            kept = [slot * 10 for slot in range(last_ms // 10 - 11, last_ms // 10 + 1)]
            whole = [
                begin
                for begin in range(0, last_ms + 1, window_ms)
                if all(begin + at in kept or begin + at > last_ms for at in range(0, window_ms, 10))
            ]
            assert tier.whole_since(last_ms, window_ms) == whole[0]
