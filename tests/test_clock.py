"""The rules for wall clocks that are set, with fake clocks."""

from __future__ import annotations

import pytest

from rondo_tools.clock import FORGIVEN_S, LatestTime, is_set_back

NOW = 1_795_395_000_000
HOUR = 3_600_000


class Clocks:
    """A wall clock and a monotonic one."""

    def __init__(self) -> None:
        self.wall_ms, self.monotonic_s = NOW, 50.0
        self.latest = LatestTime(lambda: self.wall_ms, lambda: self.monotonic_s)

    def step(self, ms: int) -> None:
        self.wall_ms += ms

    def passes(self, ms: int) -> None:
        self.wall_ms += ms
        self.monotonic_s += ms / 1000


@pytest.mark.parametrize(
    ("now_ms", "interval_ms", "is_over"),
    [(NOW, 1000, False), (NOW - 5000, 1000, False), (NOW - 5001, 1000, True), (NOW - 5001, 10_000, False),
     (NOW - 10_001, 10_000, True), (NOW + HOUR, 1000, False)],
)  # fmt: skip
def test_a_few_seconds_or_one_interval_end_no_session(now_ms: int, interval_ms: int, is_over: bool) -> None:
    assert is_set_back(now_ms, NOW, interval_ms) == is_over


def test_without_a_step_the_clock_is_the_latest_time() -> None:
    clocks = Clocks()
    for ms in (0, 1, 999, 1000, 10 * HOUR, 86_400_000):
        clocks.passes(ms)
        assert clocks.latest() == clocks.wall_ms


def test_slewing_is_no_step() -> None:
    clocks = Clocks()
    for _ in range(100):
        clocks.passes(1000)
        clocks.step(-100)
        assert clocks.latest() == clocks.wall_ms


def test_a_step_back_is_forgiven_for_an_hour() -> None:
    clocks = Clocks()
    clocks.step(-86_400_000)
    assert clocks.latest() == NOW
    clocks.passes(round(1000 * FORGIVEN_S) - 1)
    assert clocks.latest() == clocks.wall_ms + 86_400_000  # the time without the step
    clocks.passes(1)
    assert clocks.latest() == clocks.wall_ms


def test_steps_back_add_up_and_a_step_forward_undoes_them() -> None:
    clocks = Clocks()
    for step, behind in [(-HOUR, HOUR), (-HOUR, 2 * HOUR), (HOUR, HOUR), (2 * HOUR, 0), (-5000, 5000)]:
        clocks.step(step)
        assert clocks.latest() == clocks.wall_ms + behind
        clocks.passes(10_000)
        assert clocks.latest() == clocks.wall_ms + behind


def test_an_hour_counts_from_the_last_step_back() -> None:
    clocks = Clocks()
    clocks.step(-HOUR)
    assert clocks.latest() == NOW
    clocks.passes(HOUR - 1000)
    clocks.step(-HOUR)
    assert clocks.latest() == clocks.wall_ms + 2 * HOUR
    clocks.passes(HOUR - 1)
    assert clocks.latest() == clocks.wall_ms + 2 * HOUR
    clocks.passes(1)
    clocks.step(-HOUR)
    assert clocks.latest() == clocks.wall_ms + HOUR
