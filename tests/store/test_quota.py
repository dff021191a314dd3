"""The quota of a producer on a socket: a burst, then a rate."""

from __future__ import annotations

import pytest

from rondo_tools.store import quota
from rondo_tools.store.quota import Quota


def test_a_burst_does_not_wait() -> None:
    one = Quota(100.0)
    one.take(100.0, sessions=1000, bytes=128 << 20)
    assert one.ready_in(100.0) == 0


@pytest.mark.parametrize(
    ("sessions", "size", "wait_s"),
    [
        (1020, 0, 1.0),
        (1001, 0, 0.05),
        (0, (128 << 20) + (3 << 20), 3.0),
        (1020, (128 << 20) + (3 << 20), 3.0),
    ],
)
def test_beyond_the_burst_a_producer_waits(sessions: int, size: int, wait_s: float) -> None:
    one = Quota(100.0)
    one.take(100.0, sessions=sessions, bytes=size)
    assert one.ready_in(100.0) == pytest.approx(wait_s)
    assert one.ready_in(100.0 + wait_s / 2) == pytest.approx(wait_s / 2)
    assert one.ready_in(100.0 + wait_s) == pytest.approx(0, abs=1e-6)


def test_a_producer_is_slowed_down_to_the_rate() -> None:
    steady, flood, now = Quota(0.0), Quota(0.0), 0.0
    brought = 0
    for second in range(1000):
        now = float(second)
        steady.take(now, sessions=20, bytes=1 << 20)
        assert steady.ready_in(now) == 0
        if flood.ready_in(now) == 0:
            flood.take(now, sessions=50, bytes=0)
            brought += 50
    assert brought <= quota.SESSIONS_BURST + quota.SESSIONS_A_SECOND * 1000 + 50


def test_a_clock_that_stops_or_runs_back_fills_nothing() -> None:
    one = Quota(100.0)
    one.take(100.0, sessions=1040, bytes=0)
    assert one.ready_in(50.0) == pytest.approx(2.0)
    assert one.ready_in(51.0) == pytest.approx(1.0)
