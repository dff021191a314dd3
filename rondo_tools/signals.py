"""SIGINT and SIGTERM as something to select on: a handler here only wakes the loop."""

from __future__ import annotations

import os
import signal
from types import FrameType


class Signals:
    """While entered, SIGINT and SIGTERM arrive through `fileno()`. For the main thread only."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def fileno(self) -> int:
        return self._read

    def take(self) -> list[signal.Signals]:
        """The signals that have arrived since the last call, in order."""
        try:
            return [signal.Signals(number) for number in os.read(self._read, 512)]
        except BlockingIOError:
            return []

    def __enter__(self) -> Signals:
        self._wakeup_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _ignore) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._read)
        os.close(self._write)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """The interpreter has written the number to the wake-up descriptor; nothing is left to do."""
