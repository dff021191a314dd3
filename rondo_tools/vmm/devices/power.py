"""The power switch: ACPI's sleep control and status registers (ACPI 6.4, 4.8.3.7).

Offset 0 is sleep control, offset 1 sleep status. WAK_STS is never set, because nothing wakes the guest.
"""

from __future__ import annotations

from collections.abc import Callable

_SLEEP_CONTROL = 0
_SLP_EN = 1 << 5
_SLP_TYP_SHIFT = 2
_SLP_TYP_MASK = 7
S5 = 5  # the sleep type of "soft off", as in the \_S5 object


class PowerSwitch:
    """Two bytes. `on_poweroff` is called when the guest enters S5."""

    def __init__(self, on_poweroff: Callable[[], None]) -> None:
        self._on_poweroff = on_poweroff

    def read(self, offset: int, size: int) -> int:  # noqa: ARG002
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        if (offset, size) != (_SLEEP_CONTROL, 1) or not value & _SLP_EN:
            return
        if value >> _SLP_TYP_SHIFT & _SLP_TYP_MASK == S5:
            self._on_poweroff()
