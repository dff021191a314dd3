"""SIGINT, SIGTERM and SIGHUP through a descriptor: the handler only wakes the loop.

Strategy: a process that handles SIGTERM gets SIGHUP as SIGTERM. Only the first SIGHUP counts, and none after
a SIGTERM: a terminal that closes sends several (the kernel one, the shell another), and a second signal means
"give up", which the user did not ask for. A SIGHUP that is ignored at the start (nohup) stays ignored.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection
from types import FrameType
from typing import Self


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Nothing to do: the interpreter has written the number to the wake-up descriptor."""


class _HangUps:
    """Turns the first SIGHUP into SIGTERM and drops the others; passes on every other signal."""

    def __init__(self) -> None:
        self._is_ending = False

    def translate(self, number: int) -> signal.Signals | None:
        if number == signal.SIGHUP:
            if self._is_ending:
                return None
            number = signal.SIGTERM
        self._is_ending |= number == signal.SIGTERM
        return signal.Signals(number)


class Signals:
    """While entered, signals arrive through `fileno()`. For the main thread only.

    `handler` is also called for each, as by the signal module. A SIGHUP comes as SIGTERM to both.
    """

    def __init__(
        self,
        numbers: Collection[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
        handler: Callable[[int, FrameType | None], object] = _ignore,
    ) -> None:
        self._numbers = set(numbers)
        if signal.SIGTERM in self._numbers and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            self._numbers.add(signal.SIGHUP)
        self._handler = handler
        self._handled, self._taken = _HangUps(), _HangUps()
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def fileno(self) -> int:
        return self._read

    def take(self) -> list[signal.Signals]:
        """The signals that have arrived since the last call, in order."""
        try:
            arrived = os.read(self._read, 512)
        except BlockingIOError:
            return []
        translated = map(self._taken.translate, arrived)
        return [number for number in translated if number is not None]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        translated = self._handled.translate(number)
        if translated is not None:
            self._handler(translated, frame)

    def __enter__(self) -> Self:
        self._wakeup_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._handle) for number in self._numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._read)
        os.close(self._write)
