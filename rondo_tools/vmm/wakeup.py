"""Wakes the main thread: by signals, and by a pipe that other threads write to."""

from __future__ import annotations

import os
import select
import signal
import threading
from types import TracebackType

from rondo_tools.signals import Signals


class Wakeup:
    """Waits for signals and for calls of `wake`. A context manager for the main thread."""

    def __init__(self) -> None:
        self._signals = Signals()
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._open = threading.Lock()  # guards _write, which must not be used after the close
        self._poll = select.poll()
        self._poll.register(self._read, select.POLLIN)
        self._poll.register(self._signals, select.POLLIN)

    def __enter__(self) -> Wakeup:
        self._signals.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._signals.__exit__(kind, exc, traceback)
        with self._open:
            os.close(self._write)
            self._write = -1
        os.close(self._read)

    def wake(self) -> None:
        """End the current or the next wait, from any thread. After the close it does nothing."""
        with self._open:
            if self._write >= 0:
                try:
                    os.write(self._write, b"\0")
                except BlockingIOError:
                    pass  # the pipe is full, so it wakes anyway

    def wait(self, timeout_s: float) -> list[signal.Signals]:
        """Wait for a wake-up, `timeout_s` at most. Returns the signals received."""
        if self._poll.poll(max(timeout_s, 0) * 1000):
            try:
                os.read(self._read, 4096)
            except BlockingIOError:
                pass  # a signal woke us, and the pipe is empty
        return self._signals.take()
