"""The keyboard controller, of which only the reset line is emulated.

PC guests reset the machine with command 0xFE at offset 4. Everything else reads as ones, as without a
controller, so that a driver that probes for a keyboard gives up at once.
"""

from __future__ import annotations

from collections.abc import Callable

from rondo_tools.vmm.bus import ones

_COMMAND = 4
_PULSE_RESET = 0xFE


class I8042:
    """Five bytes: data at offset 0, command and status at 4. `on_reset` is called for a reset."""

    def __init__(self, on_reset: Callable[[], None]) -> None:
        self._on_reset = on_reset

    def read(self, offset: int, size: int) -> int:  # noqa: ARG002
        return ones(size)

    def write(self, offset: int, size: int, value: int) -> None:
        if (offset, size, value) == (_COMMAND, 1, _PULSE_RESET):
            self._on_reset()
