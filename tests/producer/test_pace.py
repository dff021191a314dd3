"""When ticks are due, with any clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rondo_tools.producer.pace import Pace


def test_three_seconds_from_a_fraction_on_are_three_ticks_and_a_last_one() -> None:
    pace = Pace(1000, 10_400)
    assert pace.wait_ms(10_400) == 600
    assert [pace.next(now) for now in (11_000, 12_000.2, 13_000)] == [11_000, 12_000, 13_000]
    assert pace.wait_ms(13_000.5) == 999.5
    assert pace.final(13_400) == 13_400


def test_a_wake_up_a_little_early_waits_for_its_slot() -> None:
    pace = Pace(1000, 10_400)
    assert pace.next(10_999.75) is None
    assert pace.wait_ms(10_999.75) == 0.25
    assert pace.next(11_000) == 11_000
    assert pace.next(11_000.5) is None


def test_a_late_wake_up_skips_to_the_current_slot() -> None:
    pace = Pace(1000, 10_400)
    assert pace.next(15_300) == 15_000
    assert pace.wait_ms(15_300) == 700


def test_a_clock_set_back_by_a_few_seconds_skips_ticks() -> None:
    pace = Pace(1000, 10_400)
    assert pace.next(17_000) == 17_000
    assert not pace.is_set_back(12_000)
    assert pace.wait_ms(12_000) == 1000
    assert [pace.next(now) for now in (13_000, 16_000, 17_000, 17_999)] == [None] * 4
    assert pace.next(18_000) == 18_000
    assert pace.final(17_100) == 18_001


@pytest.mark.parametrize(("interval", "skipped"), [(10, 5_000), (1000, 5_000), (60_000, 60_000)])
def test_a_clock_set_back_further_ends_the_session(interval: int, skipped: int) -> None:
    pace = Pace(interval, 600_000)
    assert not pace.is_set_back(600_000 - skipped)
    assert pace.is_set_back(600_000 - skipped - 1)
    assert pace.next(900_000) == 900_000
    assert not pace.is_set_back(900_000 - skipped)
    assert pace.is_set_back(900_000 - skipped - 1)


def test_the_last_tick_comes_after_one_at_the_same_time() -> None:
    pace = Pace(1000, 10_400)
    pace.next(11_000)
    assert pace.final(11_000.7) == 11_001


@given(
    st.integers(10, 100_000),
    st.integers(1, 2**42),
    st.lists(st.one_of(st.integers(-(10**7), 10**7), st.just(0)), max_size=30),
)
def test_ticks_ascend_on_the_interval_with_any_clock(interval: int, start: int, steps: list[int]) -> None:
    pace = Pace(interval, start)
    now = float(start)
    times = []
    for step in steps:
        wait = pace.wait_ms(now)
        assert 0 <= wait <= interval
        now = max(now + wait + step, 0)
        if (t_ms := pace.next(now)) is not None:
            assert now - interval < t_ms <= now, "a tick's time is the clock's"
            times.append(t_ms)
    assert all(t % interval == 0 for t in times)
    assert all(earlier < later for earlier, later in zip([start, *times], times, strict=False))
    assert pace.final(now) > (times[-1] if times else start)
