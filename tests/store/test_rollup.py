"""The roll-up, against a plain one: bit for bit, whatever the values are."""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ring_model import COUNTS, LEVEL, NAN, T0, bits, roll_up

from rondo_tools.catalog import SERIES, Series
from rondo_tools.store.rollup import AVG, LAST, MAX, MIN, Column, RollUp, columns

INF = float("inf")
Rows = list[tuple[int, tuple[float, ...]]]
LISTS: list[tuple[Series, ...]] = [
    (LEVEL,),
    (COUNTS,),
    (COUNTS, LEVEL),
    (LEVEL, COUNTS, LEVEL, COUNTS),
    SERIES,
]


def arrays(rows: Rows, width: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    t_ms = np.array([t for t, _ in rows], np.int64)
    return t_ms, np.array([values for _, values in rows], np.float64).reshape(len(rows), width)


def rolled(
    series: tuple[Series, ...], rows: Rows, window_ms: int, interval_ms: int = 1000
) -> list[tuple[int, bytes]]:
    t_ms, values = RollUp(series, interval_ms)(*arrays(rows, len(series)), window_ms)
    return list(zip(t_ms.tolist(), (row.astype("<f8").tobytes() for row in values), strict=True))


def expected(series: tuple[Series, ...], rows: Rows, window_ms: int) -> list[tuple[int, bytes]]:
    windows: dict[int, Rows] = {}
    for row in rows:
        windows.setdefault(row[0] // window_ms, []).append(row)
    return [
        (window[-1][0], bits(roll_up(series, [values for _, values in window])))
        for window in windows.values()
    ]


# Values that meet: zeros of both signs, infinities of both, huge ones whose sum overflows, NaN.
numbers = st.sampled_from([0.0, -0.0, 1.0, -1.0, INF, -INF, NAN, 1e308, -1e308, 5e-324]) | st.floats(width=64)


@st.composite
def series_and_rows(draw: st.DrawFn) -> tuple[tuple[Series, ...], Rows]:
    series = draw(st.sampled_from(LISTS))
    slots = draw(st.lists(st.integers(0, 130), max_size=60, unique=True).map(sorted))
    values = st.tuples(*[numbers] * len(series))
    return series, [(T0 + slot * 1000 + draw(st.integers(0, 999)), draw(values)) for slot in slots]


@pytest.mark.heavy
@given(series_and_rows(), st.sampled_from([1000, 2000, 10_000, 60_000, 300_000]))
@settings(max_examples=300, deadline=None)
def test_equals_the_plain_way(case: tuple[tuple[Series, ...], Rows], window_ms: int) -> None:
    series, rows = case
    assert rolled(series, rows, window_ms) == expected(series, rows, window_ms)


@pytest.mark.heavy
@given(series_and_rows())
@settings(max_examples=50, deadline=None)
def test_many_windows_at_once_equal_one_at_a_time(case: tuple[tuple[Series, ...], Rows]) -> None:
    series, rows = case
    one_at_a_time = []
    for begin_ms in range(T0, T0 + 140_000, 10_000):
        one_at_a_time += rolled(
            series, [row for row in rows if begin_ms <= row[0] < begin_ms + 10_000], 10_000
        )
    assert rolled(series, rows, 10_000) == one_at_a_time


@pytest.mark.heavy
def test_many_values_are_summed_in_time_order() -> None:
    """Where numpy would sum in pairs, and Python from 3.12 on with a correction."""
    rng = np.random.default_rng(1)
    series = (LEVEL, COUNTS, LEVEL)
    rows = [
        (T0 + i * 10, tuple(rng.standard_normal(3) * 10.0 ** rng.integers(-8, 17, 3))) for i in range(90_000)
    ]
    for window_ms in (10_000, 300_000):
        assert rolled(series, rows, window_ms, 10) == expected(series, rows, window_ms)


@pytest.mark.parametrize(
    ("values", "avg", "low", "high", "last"),
    [
        ([1.0, 2.0, 6.0], 3.0, 1.0, 6.0, 6.0),
        ([1.0, NAN, 6.0], 3.5, 1.0, 6.0, 6.0),
        ([1.0, 6.0, NAN], 3.5, 1.0, 6.0, 6.0),
        ([NAN], NAN, NAN, NAN, NAN),
        ([NAN, NAN], NAN, NAN, NAN, NAN),
        ([5.0], 5.0, 5.0, 5.0, 5.0),
        ([9.0, 3.0], 6.0, 3.0, 9.0, 3.0),  # a counter that went back: its last value, nothing else
        ([INF, 1.0], INF, 1.0, INF, 1.0),
        ([INF, -INF], NAN, -INF, INF, -INF),
        ([1e308, 1e308], INF, 1e308, 1e308, 1e308),
        ([-0.0], 0.0, 0.0, 0.0, 0.0),
        ([0.0, -0.0], 0.0, 0.0, 0.0, 0.0),
    ],
)
def test_by_hand(values: list[float], avg: float, low: float, high: float, last: float) -> None:
    rows = [(T0 + i * 1000 + 7, (value, value)) for i, value in enumerate(values)]
    got = rolled((LEVEL, COUNTS), rows, 10_000)
    assert got == [(rows[-1][0], bits([avg, low, high, last]))]


@pytest.mark.parametrize("payload", ["020000000000f07f", "010000000000f8ff", "ffffffffffffffff"])
def test_any_nan_is_no_value_and_comes_out_as_one(payload: str) -> None:
    (odd,) = struct.unpack("<d", bytes.fromhex(payload))
    assert rolled((LEVEL, COUNTS), [(T0, (odd, odd))], 10_000) == [(T0, bits([NAN] * 4))]
    assert rolled((LEVEL, COUNTS), [(T0, (odd, odd)), (T0 + 1000, (1.0, 2.0))], 10_000) == [
        (T0 + 1000, bits([1.0, 1.0, 1.0, 2.0]))
    ]


@pytest.mark.parametrize("payload", ["020000000000f07f", "010000000000f8ff", "ffffffffffffffff"])
@pytest.mark.parametrize("at", range(10))
@pytest.mark.parametrize("width", [1, 3])
def test_any_nan_is_skipped(payload: str, at: int, width: int) -> None:
    """A signalling one too, such as Prometheus' stale marker: C's fmin makes NaN of it and a number."""
    values = [3.0, 3.0, 3.0, 1.0, 3.0, 5.0, 3.0, 3.0, 3.0]
    values.insert(at, *struct.unpack("<d", bytes.fromhex(payload)))
    rows = [(T0 + i * 1000, (value,) * width) for i, value in enumerate(values)]
    assert rolled((LEVEL,) * width, rows, 10_000) == [(T0 + 9000, bits([3.0, 1.0, 5.0] * width))]


def test_no_rows() -> None:
    assert rolled((LEVEL, COUNTS), [], 10_000) == []


def test_columns() -> None:
    assert columns((COUNTS, LEVEL), 0) == (Column(0, LAST), Column(1, LAST))
    assert columns((COUNTS, LEVEL), 1) == columns((COUNTS, LEVEL), 2)
    assert columns((COUNTS, LEVEL), 1) == (Column(0, LAST), Column(1, AVG), Column(1, MIN), Column(1, MAX))
    assert len(columns(SERIES, 0)) == 16
    assert len(columns(SERIES, 1)) == 10 + 3 * 6
