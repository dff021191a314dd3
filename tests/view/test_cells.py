"""Texts in a few cells: numbers, ages, names of any width, and a minute as a line."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rondo_tools.view import cells

NAN = math.nan


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.04, "0.0"), (0.5, "0.5"), (3, "3"), (9.96, "10"), (999.4, "999"), (999.6, "1.0k"),
        (1234, "1.2k"), (12345, "12k"), (999_400, "999k"), (999_600, "1.0M"), (-1500, "-1.5k"),
        (3e18, "3.0E"), (1.7e308, "2e308"), (math.inf, "inf"), (NAN, "-"),
    ],
)  # fmt: skip
def test_amounts(value: float, text: str) -> None:
    assert cells.amount(value) == text


@given(st.floats(0, 1e20))
def test_an_amount_is_short_and_near(value: float) -> None:
    text = cells.amount(value)
    assert len(text) <= 5
    factor = 1000 ** "_kMGTPE".find(text[-1]) if text[-1].isalpha() else 1
    assert float(text.rstrip("kMGTPE")) * factor == pytest.approx(value, rel=0.06, abs=0.06)


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (850, "850ns"),
        (1500, "1.5µs"),
        (12_345, "12µs"),
        (1_500_000, "1.5ms"),
        (2.5e9, "2.5s"),
        (1e300, "1e291s"),
        (NAN, "-"),
    ],
)
def test_latencies(ns: float, text: str) -> None:
    assert cells.latency(ns) == text
    assert cells.latency(ns, ascii_only=True) == text.replace("µ", "u")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (119, "119s"), (120, "2m"), (3599, "59m"), (3600, "1h"), (86_399, "23h"), (86_400, "1d")],
)
def test_ages(seconds: int, text: str) -> None:
    assert cells.age(seconds * 1000 + 999) == text


@given(st.text(st.sampled_from("aé漢e\u0301~")), st.integers(1, 12), st.booleans())
def test_a_text_fits_exactly(text: str, size: int, right: bool) -> None:
    fitted = cells.fit(text, size, right=right)
    assert cells.width(fitted) == size
    if cells.width(text) <= size:
        assert fitted.strip(" ") == text
    else:
        assert fitted.rstrip(" ").endswith("~")


def line(values: list[float], newest: int, size: int) -> str:
    return cells.sparkline(values, newest, size, "12345678")


def test_a_line_has_a_cell_for_each_value_if_they_fit() -> None:
    assert line([NAN, 0, 1, 7.9, 8], 0, 5) == " 1288"
    assert line([0, 0], 0, 2) == "11"
    assert line([NAN] * 3, 0, 3) == "   "


def test_a_narrow_line_keeps_its_shape_over_time() -> None:
    """Values that share a cell still do so a second later, after it has moved."""
    counted = [float(1 + second * 7919 % 97) for second in range(200)]
    counted[60:140] = [*([97.0] * 2), *counted[62:140]]  # the highest of all lines
    lines = [line(counted[at - 59 : at + 1], at, 12) for at in range(80, 110)]
    assert all(len(one) <= 12 for one in lines)
    for before, after in pairwise(lines):
        assert before[1:-1] in after, (before, after)
