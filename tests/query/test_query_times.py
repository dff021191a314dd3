"""Times: each spelling, against one "now", and how they are printed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_store import T0

from rondo_tools.errors import UsageError
from rondo_tools.query.times import Span, format_time, format_times, make_span, parse_time

NOW = T0 + 250


@pytest.mark.parametrize(
    ("text", "t_ms"),
    [
        ("2026-11-23T00:50:00Z", T0),
        ("2026-11-23T00:50:00.123Z", T0 + 123),
        ("2026-11-23 00:50", T0),  # UTC where no zone is named
        ("2026-11-23T01:50:00+01:00", T0),
        ("2026-11-23", T0 - 50 * 60_000),
        ("1795395000", T0),
        ("1795395000.123", T0 + 123),
        ("1795395000123", T0 + 123),  # as --unix prints it
        ("0", 0),
        ("-10m", NOW - 600_000),
        ("-90", NOW - 90_000),
        ("-1h30m", NOW - 5_400_000),
    ],
)
def test_parse_time(text: str, t_ms: int) -> None:
    assert parse_time(text, NOW) == t_ms


@pytest.mark.parametrize("text", ["", "-", "now", "10m", "-x", "2026-13-01", "1e3", "9" * 30, "٣"])
def test_refuses_what_is_no_time(text: str) -> None:
    with pytest.raises(UsageError):
        parse_time(text, NOW)


@given(st.integers(0, 4 * 10**12))
def test_what_is_printed_can_be_asked_for(t_ms: int) -> None:
    assert parse_time(format_time(t_ms), NOW) == t_ms
    if t_ms >= 10**11:
        assert parse_time(str(t_ms), NOW) == t_ms


def test_format_times() -> None:
    assert format_times([T0, T0 + 7]) == ["2026-11-23T00:50:00.000Z", "2026-11-23T00:50:00.007Z"]
    assert format_times([]) == []
    rng = np.random.default_rng(1)
    for most in (10**9, 10**12, 253_402_300_800_000, 2**53):  # the last ones beyond the year 9999
        times = [0, most - 1, *rng.integers(0, most, 2000).tolist()]
        expected = [f"{each}Z" for each in np.asarray(times, "datetime64[ms]").astype(str).tolist()]
        assert format_times(times) == expected
    assert format_time(2**53 - 1).endswith("Z")  # a producer's start may be anything


@pytest.mark.parametrize(
    ("flags", "span"),
    [
        ((None, None, None), Span(None, None)),
        (("10m", None, None), Span(NOW - 600_000, None)),
        (("10m", None, str(T0)), Span(T0 - 600_000, T0)),
        ((None, "-2m", "-1m"), Span(NOW - 120_000, NOW - 60_000)),
        ((None, None, "-1m"), Span(None, NOW - 60_000)),
    ],
)
def test_make_span(flags: tuple[str | None, str | None, str | None], span: Span) -> None:
    assert make_span(*flags, NOW) == span
