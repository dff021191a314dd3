"""The two ways out of a VM: power-off by ACPI's sleep register, reset by the keyboard controller."""

from __future__ import annotations

import pytest

from rondo_tools.vmm.devices.i8042 import I8042
from rondo_tools.vmm.devices.power import PowerSwitch


def test_soft_off_powers_off() -> None:
    calls: list[str] = []
    switch = PowerSwitch(lambda: calls.append("off"))
    switch.write(0, 1, 5 << 2 | 1 << 5)
    assert calls == ["off"]
    assert switch.read(1, 1) == 0  # nothing has ever woken


@pytest.mark.parametrize(
    ("offset", "size", "value"),
    [(0, 1, 5 << 2), (0, 1, 1 << 5), (0, 1, 3 << 2 | 1 << 5), (1, 1, 0x34), (0, 2, 0x34)],
)
def test_other_writes_to_the_sleep_registers_do_nothing(offset: int, size: int, value: int) -> None:
    calls: list[str] = []
    PowerSwitch(lambda: calls.append("off")).write(offset, size, value)
    assert calls == []


def test_the_reset_pulse_resets() -> None:
    calls: list[str] = []
    I8042(lambda: calls.append("reset")).write(4, 1, 0xFE)
    assert calls == ["reset"]


@pytest.mark.parametrize(
    ("offset", "size", "value"), [(0, 1, 0xFE), (4, 1, 0xD1), (4, 2, 0xFE), (3, 1, 0xFE)]
)
def test_other_writes_to_the_keyboard_controller_do_nothing(offset: int, size: int, value: int) -> None:
    calls: list[str] = []
    I8042(lambda: calls.append("reset")).write(offset, size, value)
    assert calls == []


def test_a_driver_that_probes_finds_no_keyboard() -> None:
    assert I8042(lambda: None).read(4, 1) == 0xFF
