"""A background thread that runs slow jobs one at a time.

Strategy: a job's result is handed back to the loop, which is woken for it; so two threads never touch what
the loop owns. A job that already waits is not added again. The thread keeps no process alive: if the
process ends, its job is left as by a kill.
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
    """Runs jobs; `fileno` is readable when `take` has results. The owner closes it."""

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
        """Call `run` in the thread, then from `take` call `done` with its result, or `failed` with its error.

        False if a job of this name still waits, runs, or has a result that was not taken.
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
        """Hand back the results of finished jobs."""
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
        """Wait for the jobs, and drop their results."""
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
            except Exception as exc:  # the loop decides; a failed job must not end the service
                if not isinstance(exc, OSError):
                    log.debug("%s", job.name, exc_info=True)
                self._over.append((job, None, exc))
            try:
                os.write(self._write, b"\0")
            except BlockingIOError:
                pass  # the pipe is full: the loop will wake anyway
