"""Durations and sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rondo_tools.errors import UsageError
from rondo_tools.units import format_count, format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1ms", 1),
        ("250ms", 250),
        ("1s", 1000),
        ("45", 45_000),
        ("0.5", 500),
        ("2.5s", 2500),
        ("1.1s", 1100),
        ("10m", 600_000),
        ("1h30m", 5_400_000),
        ("7d", 604_800_000),
        ("2w", 1_209_600_000),
    ],
)
def test_durations(text: str, ms: int) -> None:
    assert parse_duration(text) == ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "-1s",
        "+1s",
        "1 s",
        " 1s",
        "1s ",
        "1y",
        "1S",
        "1e3",
        "1e3s",
        ".5s",
        "5.s",
        "1s,",
        "inf",
        "nan",
    ],
)
def test_not_durations(text: str) -> None:
    with pytest.raises(UsageError, match="is not a duration: write"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [("0", "short"), ("0s", "short"), ("0.4ms", "short"), ("9" * 400, "long"), ("300000w0s", None)],
)
def test_durations_out_of_range(text: str, why: str | None) -> None:
    if why is None:
        assert parse_duration(text) == 300_000 * 604_800_000
    else:
        with pytest.raises(UsageError, match=f"too {why}"):
            parse_duration(text)


@given(st.integers(1, 2**53 - 1))
def test_a_formatted_duration_reads_back(ms: int) -> None:
    assert parse_duration(format_duration(ms)) == ms


def test_formatted_durations() -> None:
    spelled = [format_duration(ms) for ms in (1, 1500, 1000, 90_000, 600_000, 604_800_000)]
    assert spelled == ["1ms", "1500ms", "1s", "90s", "10m", "1w"]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        ("512B", 512),
        ("64K", 65536),
        ("64k", 65536),
        ("16MiB", 1 << 24),
        ("1G", 1 << 30),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1M", "1.5M", "1 M", "1P", "0x10", "1MM", "9" * 5000])
def test_not_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size: write"):
        parse_size(text)


def test_sizes_for_people() -> None:
    assert [format_size(size) for size in (0, 1023, 1024, 1_200_000, 1 << 30, 5 << 40, 5000 << 40)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.1 MiB",
        "1.0 GiB",
        "5.0 TiB",
        "5000.0 TiB",
    ]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 ticks"), (1, "1 tick"), (2, "2 ticks"), (101, "101 ticks")]
)
def test_one_is_singular(count: int, text: str) -> None:
    assert format_count(count, "tick") == text
