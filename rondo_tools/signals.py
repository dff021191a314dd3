"""SIGINT and SIGTERM as something to select on: a handler here only wakes the loop."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection
from types import FrameType
from typing import Self


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """The interpreter has written the number to the wake-up descriptor; nothing is left to do."""


class Signals:
    """While entered, signals arrive through `fileno()`. For the main thread only.

    `handler` is called for each of them besides, as the signal module calls it.
    """

    def __init__(
        self,
        numbers: Collection[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
        handler: Callable[[int, FrameType | None], object] = _ignore,
    ) -> None:
        self._numbers = numbers
        self._handler = handler
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

    def __enter__(self) -> Self:
        self._wakeup_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._handler) for number in self._numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._read)
        os.close(self._write)
