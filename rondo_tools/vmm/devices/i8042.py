"""The keyboard controller, of which only the reset line is there.

PC guests reset the machine by command 0xFE to the controller at offset 4. All else reads as ones,
as where no controller is: a driver that probes for keyboards then gives up at once.
"""

from __future__ import annotations

from collections.abc import Callable

from rondo_tools.vmm.bus import ones

_COMMAND = 4
_PULSE_RESET = 0xFE


class I8042:
    """Five bytes: data at offset 0, command and status at 4. `on_reset` is called by a reset."""

    def __init__(self, on_reset: Callable[[], None]) -> None:
        self._on_reset = on_reset

    def read(self, offset: int, size: int) -> int:  # noqa: ARG002
        return ones(size)

    def write(self, offset: int, size: int, value: int) -> None:
        if (offset, size, value) == (_COMMAND, 1, _PULSE_RESET):
            self._on_reset()
