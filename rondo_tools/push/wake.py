"""What ends a wait early: signals, and whoever calls `wake`.

Strategy: a signal handler notes and wakes, nothing more; what it means is decided in the loop, at
a moment of the loop's choosing. All of them write to one pipe (for signals, Python does it through
`signal.set_wakeup_fd`), and a wait is a `select` on it, so that no wake-up is lost.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Mapping
from types import FrameType
from typing import Any


class Wake:
    """Waits that can be ended. Use with `with`, in the main thread.

    `stops_at` says at which signal of a kind to stop: {SIGTERM: 1, SIGINT: 2} works on through the
    first SIGINT. One signal beyond that raises KeyboardInterrupt, wherever the process is then.
    """

    def __init__(self, stops_at: Mapping[signal.Signals, int]) -> None:
        self._stops_at = stops_at
        self._seen: dict[int, int] = {}
        self._before: dict[int, Any] = {}
        self.stopped_at: float | None = None  # of time.monotonic
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup_before = -1

    def __enter__(self) -> Wake:
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in self._stops_at:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._reader)
        # The writer stays open: the thread that calls `wake` may outlive us.

    @property
    def is_stopped(self) -> bool:
        return self.stopped_at is not None

    def stopped_for(self, seconds: float) -> bool:
        """Whether we were told to stop so long ago."""
        return self.stopped_at is not None and time.monotonic() - self.stopped_at >= seconds

    def wake(self) -> None:
        """End the wait that is going on, or the next one; from any thread."""
        try:
            os.write(self._writer, b"\0")
        except OSError:
            pass  # full: it will wake anyway; or nobody waits any more

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
        self._seen[number] = self._seen.get(number, 0) + 1
        if self._seen[number] > self._stops_at[signal.Signals(number)]:
            raise KeyboardInterrupt
        if self._seen[number] == self._stops_at[signal.Signals(number)] and not self.is_stopped:
            self.stopped_at = time.monotonic()
