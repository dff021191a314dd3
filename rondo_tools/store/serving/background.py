"""A background thread that runs slow jobs one at a time.

Strategy: what a job gives is handed back to the loop, which is woken for it; so nothing that the loop
owns is ever touched by two threads. A job that waits already is not added twice. The thread keeps no
process alive: what it is at when the process ends is left as a kill would leave it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from rondo_tools.errors import StoreError

log = logging.getLogger(__name__)


class Background:
    """Runs jobs; `fileno` is readable when `take` has something to hand back. The owner closes it."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[tuple[str, Callable[[], Any], Callable[[Any], None]] | None] = SimpleQueue()
        self._names: set[str] = set()
        self._done: deque[tuple[str, Callable[[Any], None] | None, Any]] = deque()
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._thread: threading.Thread | None = None

    def fileno(self) -> int:
        return self._read

    def add(self, name: str, job: Callable[[], Any], done: Callable[[Any], None]) -> bool:
        """Run `job` in the thread, then `done` with what it gave, in `take`; False if it waits already.

        A job that raises OSError or StoreError is over: that is logged, and `done` is not called.
        """
        if name in self._names:
            return False
        self._names.add(name)
        self._jobs.put((name, job, done))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="background", daemon=True)
            self._thread.start()
        return True

    def take(self) -> None:
        """Hand back what is done."""
        try:
            os.read(self._read, 1 << 12)
        except BlockingIOError:
            pass
        while self._done:
            name, done, result = self._done.popleft()
            self._names.discard(name)
            if done is not None:
                done(result)

    def close(self) -> None:
        """Let the job that is running come to its end, and hand back nothing more."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None
        if self._read >= 0:
            os.close(self._read)
            os.close(self._write)
            self._read = self._write = -1

    def _run(self) -> None:
        while (found := self._jobs.get()) is not None:
            name, job, done = found
            try:
                self._done.append((name, done, job()))
            except (OSError, StoreError) as exc:
                log.warning("%s: %s; it is tried again", name, exc)
                self._done.append((name, None, None))
            try:
                os.write(self._write, b"\0")
            except BlockingIOError:
                pass  # the pipe is full: the loop will wake anyway
