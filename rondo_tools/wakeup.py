"""Waits that signals, and calls of `wake`, end early.

Strategy: the handler only notes a signal; the loop decides what it means, when it is ready. Signals and
wake-ups come through one pipe, and a wait is a `select` on it, so none is lost.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Collection
from types import FrameType

from rondo_tools.signals import Signals


class Wakeup(Signals):
    """Waits that signals and `wake` end. Use it as a context manager, in the main thread.

    The first signal of each kind means stop if it is one of `stop_on`, and has no effect if it is one of
    `let_pass`. A second one of its kind raises KeyboardInterrupt at once.
    """

    def __init__(
        self, *, stop_on: Collection[signal.Signals], let_pass: Collection[signal.Signals] = ()
    ) -> None:
        super().__init__((*stop_on, *let_pass), self._note)
        self._stop_on = stop_on
        self._seen: set[int] = set()
        self._stopped_at: float | None = None  # of time.monotonic
        self._has_given_up = False
        self._lock = threading.Lock()  # of the pipe: another thread may write to it while we close it
        self._is_closed = False

    def __exit__(self, *_: object) -> None:
        with self._lock:
            super().__exit__()
            self._is_closed = True

    @property
    def is_stopped(self) -> bool:
        return self._stopped_at is not None

    def stopped_for(self, seconds: float) -> bool:
        """Whether the stop signal is `seconds` old, or has ended a pause.

        A pause follows a failure: after a stop signal there is no other try, which might take as long.
        """
        if self._stopped_at is None:
            return False
        return self._has_given_up or time.monotonic() - self._stopped_at >= seconds

    def wake(self) -> None:
        """End the current wait, or the next one; from any thread."""
        with self._lock:
            if not self._is_closed:
                try:
                    os.write(self._write, b"\0")
                except BlockingIOError:
                    pass  # the pipe is full: the wait will end anyway

    def wait(self, seconds: float) -> None:
        """Wait for `seconds`, or until a signal or a wake-up."""
        if not self.is_stopped and select.select([self], [], [], max(0.0, seconds))[0]:
            os.read(self._read, 1 << 12)

    def pause(self, seconds: float) -> bool:
        """Wait for `seconds`, also through wake-ups, until a stop signal; False if it came."""
        until = time.monotonic() + seconds
        while not self.is_stopped and (left := until - time.monotonic()) > 0:
            self.wait(left)
        self._has_given_up |= self.is_stopped
        return not self.is_stopped

    def _note(self, number: int, _: FrameType | None) -> None:
        if number in self._seen:
            raise KeyboardInterrupt
        self._seen.add(number)
        if number in self._stop_on and self._stopped_at is None:
            self._stopped_at = time.monotonic()
