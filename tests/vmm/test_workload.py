"""The workload port: a schedule by time, and items of about 5 ms on any machine."""

from __future__ import annotations

from collections import Counter
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rondo_tools.vmm.devices.workload import CPU, IDLE, IO, MIXED, OFF, Schedule, WorkloadPort

MS = 1_000_000


class Guest:
    """A guest that works at a fixed speed, on its own clock."""

    def __init__(self, duration_ns: int, loop_ns: float = 1.0) -> None:
        self.now = 777_000 * MS  # a monotonic clock begins anywhere
        self.loop_ns = loop_ns
        self.reports: list[int] = []
        self.workload = WorkloadPort(Schedule(duration_ns), self.reports.append, clock=lambda: self.now)

    def ask(self) -> tuple[int, int, int]:
        word = self.workload.read(0, 4)
        assert 0 <= word < 2**32
        phase, work, count = word & 15, word >> 4 & 15, word >> 8
        if work == CPU:
            self.now += round(count * self.loop_ns)
        elif work == IO:
            self.now += count * MS // 2
        else:
            self.now += sum(self.workload.idle_ns() for _ in range(count if work == IDLE else 0))
        self.now += 20_000  # what an exit costs
        return phase, work, count


def test_the_phases_have_their_shares_of_the_time() -> None:
    guest = Guest(10_000 * MS)
    spent: Counter[int] = Counter()
    phases = []
    began = guest.now
    while True:
        before = guest.now
        phase, work, _ = guest.ask()
        if phase == OFF:
            assert work == OFF
            break
        phases.append(phase)
        spent[phase] += guest.now - before
    assert [phase for phase, _ in groupby(phases)] == [CPU, IDLE, IO, MIXED]
    for phase, share in ((CPU, 0.28), (IDLE, 0.17), (IO, 0.28), (MIXED, 0.27)):
        assert spent[phase] / (10_000 * MS) == pytest.approx(share, abs=0.005)
    assert guest.now - began < 10_020 * MS
    assert guest.ask()[:2] == (OFF, OFF)  # the end stays the end


def test_the_mixed_phase_alternates() -> None:
    guest = Guest(1000 * MS)
    mixed = [work for phase, work, _ in iter(guest.ask, (OFF, OFF, 0)) if phase == MIXED]
    assert {CPU, IO, IDLE} == set(mixed)
    assert all(mixed[at] != mixed[at + 1] for at in range(len(mixed) - 1))


@pytest.mark.parametrize("loop_ns", [0.5, 1.0, 40.0, 3000.0])
def test_a_cpu_item_converges_to_five_milliseconds(loop_ns: float) -> None:
    guest = Guest(60_000 * MS, loop_ns)
    for _ in range(20):
        _, work, count = guest.ask()
        assert work == CPU
    assert count * loop_ns == pytest.approx(5 * MS, rel=0.05)


def test_only_cpu_work_sizes_cpu_work() -> None:
    guest = Guest(4000 * MS, 100.0)
    orders = list(iter(guest.ask, (OFF, OFF, 0)))
    counts = [count for phase, work, count in orders if phase == MIXED and work == CPU]
    assert counts == pytest.approx([50_000] * len(counts), rel=0.05)


def test_one_delay_changes_the_size_by_one_step() -> None:
    guest = Guest(60_000 * MS, 100.0)
    for _ in range(20):
        _, _, before = guest.ask()
    guest.now += 3_000 * MS  # the machine was away
    _, _, count = guest.ask()
    assert count == before // 4
    guest.ask()
    _, _, count = guest.ask()
    assert count == pytest.approx(before, rel=0.05)


def test_the_schedule_starts_with_the_first_read() -> None:
    guest = Guest(1000 * MS)
    guest.now += 5_000 * MS
    assert guest.workload.idle_ns() == 10 * MS
    assert guest.ask()[0] == CPU


def test_a_halt_ends_with_its_phase() -> None:
    guest = Guest(100 * MS)
    guest.ask()
    began = guest.now
    guest.now = began + 42 * MS  # idle ends at 45
    assert guest.workload.idle_ns() <= 3 * MS
    guest.now = began + 500 * MS
    assert guest.workload.idle_ns() == 10 * MS, "after the end as well, the VMM must not spin"


def test_the_first_report_is_passed_on_and_odd_accesses_are_not() -> None:
    guest = Guest(1000 * MS)
    guest.workload.write(0, 1, 6)
    guest.workload.write(2, 4, 7)
    guest.workload.write(0, 4, 5)
    guest.workload.write(0, 4, 4)
    assert guest.reports == [5]
    assert guest.workload.read(0, 1) == 0xFF
    assert guest.workload.read(2, 2) == 0xFFFF


@given(st.integers(1, 10**13), st.integers(0, 2 * 10**13))
def test_the_schedule_has_no_gap(duration: int, elapsed: int) -> None:
    schedule = Schedule(duration)
    phase, left = schedule.at(elapsed)
    if phase == OFF:
        assert (left, elapsed >= duration) == (0, True)
    else:
        assert left > 0
        following, _ = schedule.at(elapsed + left)
        assert following in (phase + 1, phase + 2, MIXED, OFF) and following != phase


@given(st.lists(st.integers(0, 10**12), max_size=60))
def test_an_item_is_a_32_bit_word_whatever_the_clock_does(steps: list[int]) -> None:
    guest = Guest(10**12)
    for step in steps:
        word = guest.workload.read(0, 4)
        assert 0 <= word < 2**32
        assert word >> 8 or word == 0
        guest.now += step
