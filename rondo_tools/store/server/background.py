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
from typing import Any, NamedTuple

log = logging.getLogger(__name__)


class _Job(NamedTuple):
    name: str
    run: Callable[[], Any]
    done: Callable[[Any], None]
    failed: Callable[[Exception], None]


class Background:
    """Runs jobs; `fileno` is readable when `take` has something to hand back. The owner closes it."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._names: set[str] = set()
        self._over: deque[tuple[_Job, Any, Exception | None]] = deque()
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._thread: threading.Thread | None = None

    def fileno(self) -> int:
        return self._read

    def add(
        self,
        name: str,
        run: Callable[[], Any],
        done: Callable[[Any], None],
        failed: Callable[[Exception], None],
    ) -> bool:
        """Run it in the thread, then in `take` call `done` with what it gave, or `failed` with its error.

        False if a job of this name has not been taken yet.
        """
        if name in self._names:
            return False
        self._names.add(name)
        self._jobs.put(_Job(name, run, done, failed))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="background", daemon=True)
            self._thread.start()
        return True

    def take(self) -> None:
        """Hand back what is over."""
        try:
            os.read(self._read, 1 << 12)
        except BlockingIOError:
            pass
        while self._over:
            job, result, error = self._over.popleft()
            self._names.discard(job.name)
            if error is None:
                job.done(result)
            else:
                job.failed(error)

    def close(self) -> None:
        """Let the jobs come to their end, and hand back nothing more."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None
        if self._read >= 0:
            os.close(self._read)
            os.close(self._write)
            self._read = self._write = -1

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                self._over.append((job, job.run(), None))
            except Exception as exc:  # the loop decides; a job that cannot be done must not end the service
                if not isinstance(exc, OSError):
                    log.debug("%s", job.name, exc_info=True)
                self._over.append((job, None, exc))
            try:
                os.write(self._write, b"\0")
            except BlockingIOError:
                pass  # the pipe is full: the loop will wake anyway
