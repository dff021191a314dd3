"""What ends a wait early: signals, and whoever calls `wake`.

Strategy: a signal is noted, nothing more; what it means is decided in the loop, at a moment of the
loop's choosing. Signals and wake-ups come through one pipe, and a wait is a `select` on it, so that
none is lost.
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
    """Waits that can be ended. Use with `with`, in the main thread.

    The first signal of each kind tells to stop if it is one of `stop_on`, and is let pass if it is
    one of `let_pass`. A second of its kind raises KeyboardInterrupt, wherever the process is then.
    """

    def __init__(
        self, *, stop_on: Collection[signal.Signals], let_pass: Collection[signal.Signals] = ()
    ) -> None:
        super().__init__((*stop_on, *let_pass), self._note)
        self._stop_on = stop_on
        self._seen: set[int] = set()
        self._stopped_at: float | None = None  # of time.monotonic
        self._has_given_up = False
        self._lock = threading.Lock()  # of the pipe, which another thread may use while we close
        self._is_closed = False

    def __exit__(self, *_: object) -> None:
        with self._lock:
            super().__exit__()
            self._is_closed = True

    @property
    def is_stopped(self) -> bool:
        return self._stopped_at is not None

    def stopped_for(self, seconds: float) -> bool:
        """Whether we were told to stop so long ago, or a pause was not made for it.

        Who pauses has failed: with a stop signal it is not to fail again, perhaps for as long.
        """
        if self._stopped_at is None:
            return False
        return self._has_given_up or time.monotonic() - self._stopped_at >= seconds

    def wake(self) -> None:
        """End the wait that is going on, or the next one; from any thread."""
        with self._lock:
            if not self._is_closed:
                try:
                    os.write(self._write, b"\0")
                except BlockingIOError:
                    pass  # the pipe is full: it will wake anyway

    def wait(self, seconds: float) -> None:
        """Return after so long, or as soon as there is a signal or a wake-up."""
        if not self.is_stopped and select.select([self], [], [], max(0.0, seconds))[0]:
            os.read(self._read, 1 << 12)

    def pause(self, seconds: float) -> bool:
        """Wait so long, whatever wakes us, unless told to stop; say whether to go on."""
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
