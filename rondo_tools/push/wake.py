"""What ends a wait early: signals, and whoever calls `wake`.

Strategy: a signal handler notes and wakes, nothing more; what it means is decided in the loop, at
a moment of the loop's choosing. All of them write to one pipe (for signals, Python does it through
`signal.set_wakeup_fd`), and a wait is a `select` on it, so that no wake-up is lost.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Collection
from types import FrameType
from typing import Any


class Wake:
    """Waits that can be ended. Use with `with`, in the main thread.

    The first signal of each kind tells to stop if it is one of `stop_on`, and is let pass if it is
    one of `let_pass`. A second of its kind raises KeyboardInterrupt, wherever the process is then.
    """

    def __init__(
        self, *, stop_on: Collection[signal.Signals], let_pass: Collection[signal.Signals] = ()
    ) -> None:
        self._stop_on = stop_on
        self._handled = (*stop_on, *let_pass)
        self._seen: set[int] = set()
        self._before: dict[int, Any] = {}
        self._stopped_at: float | None = None  # of time.monotonic
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._lock = threading.Lock()  # of the writer, which another thread may use while we close
        self._wakeup_before = -1

    def __enter__(self) -> Wake:
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in self._handled:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        with self._lock:
            os.close(self._reader)
            os.close(self._writer)
            self._reader = self._writer = -1

    @property
    def is_stopped(self) -> bool:
        return self._stopped_at is not None

    def stopped_for(self, seconds: float) -> bool:
        """Whether we were told to stop so long ago."""
        return self._stopped_at is not None and time.monotonic() - self._stopped_at >= seconds

    def wake(self) -> None:
        """End the wait that is going on, or the next one; from any thread."""
        with self._lock:
            if self._writer >= 0:
                try:
                    os.write(self._writer, b"\0")
                except BlockingIOError:
                    pass  # the pipe is full: it will wake anyway

    def wait(self, seconds: float) -> None:
        """Return after so long, or as soon as there is a signal or a wake-up."""
        if not self.is_stopped and select.select([self._reader], [], [], max(0.0, seconds))[0]:
            os.read(self._reader, 1 << 12)

    def pause(self, seconds: float) -> bool:
        """Wait so long, whatever wakes us, unless told to stop; say whether to go on."""
        until = time.monotonic() + seconds
        while not self.is_stopped and (left := until - time.monotonic()) > 0:
            self.wait(left)
        return not self.is_stopped

    def _note(self, number: int, _: FrameType | None) -> None:
        if number in self._seen:
            raise KeyboardInterrupt
        self._seen.add(number)
        if number in self._stop_on and self._stopped_at is None:
            self._stopped_at = time.monotonic()
