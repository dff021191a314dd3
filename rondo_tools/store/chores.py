"""What takes long, done beside the loop: one thing after the other, in a thread.

Strategy: a chore that is waiting already is not noted down twice. The thread is made with the first
chore and keeps no process alive: what it is at when the process ends is left as a kill would leave it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import Queue

from rondo_tools.errors import StoreError

log = logging.getLogger(__name__)

Chore = Callable[[], None]


class Chores:
    """Does chores; what goes wrong with one is said, and it is done again the next time."""

    def __init__(self) -> None:
        self._waiting: Queue[Chore] = Queue()
        self._thread: threading.Thread | None = None

    def add(self, chore: Chore) -> None:
        if chore in self._waiting.queue:
            return
        self._waiting.put(chore)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="chores", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Until all that was added is done."""
        self._waiting.join()

    def _run(self) -> None:
        while True:
            chore = self._waiting.get()
            try:
                chore()
            except (OSError, StoreError) as exc:
                log.warning("no room is made, and nothing expires, for now: %s", exc)
            finally:
                self._waiting.task_done()
