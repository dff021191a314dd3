"""The clock: the time of day as a PC tells it."""

from __future__ import annotations

import calendar

import pytest

from rondo_tools.vmm.devices.cmos import Cmos

NOW = calendar.timegm((2031, 12, 28, 23, 59, 7))  # a Sunday


def read(index: int) -> int:
    clock = Cmos(lambda: NOW)
    clock.write(0, 1, index)
    return clock.read(1, 1)


@pytest.mark.parametrize(
    ("index", "value"),
    [
        *((0x00, 0x07), (0x02, 0x59), (0x04, 0x23), (0x06, 1), (0x07, 0x28), (0x08, 0x12), (0x09, 0x31)),
        *((0x32, 0x20), (0x01, 0), (0x7F, 0)),
    ],
)
def test_the_time_is_bcd(index: int, value: int) -> None:
    assert read(index) == value
    assert read(index | 0x80) == value, "the bit that masks NMIs is no part of the index"


def test_a_driver_finds_no_update_in_progress_and_a_good_battery() -> None:
    assert not read(0x0A) & 0x80
    assert read(0x0B) == 0x02, "24 hours, BCD"
    assert read(0x0C) == 0
    assert read(0x0D) == 0x80


def test_other_accesses_do_nothing() -> None:
    clock = Cmos(lambda: NOW)
    assert (clock.read(0, 1), clock.read(0, 2), clock.read(1, 2)) == (0xFF, 0xFFFF, 0xFFFF)
    clock.write(1, 1, 0x55)
    clock.write(0, 2, 0x0A)
    assert clock.read(1, 1) == 0x07
