"""Forces journals to the disk periodically, in a thread, so that no producer waits for the disk.

Strategy: files are marked by their path when they are written to. A file that cannot be synced keeps
its mark: it is tried again each time, and the error logged at most once a minute.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rondo_tools import files

log = logging.getLogger(__name__)

WARN_AGAIN_S = 60.0


class Marks:
    """The files that were written since their last sync."""

    def __init__(self) -> None:
        self._paths: dict[Path, None] = {}

    def add(self, path: Path) -> None:
        self._paths[path] = None

    def __bool__(self) -> bool:
        return bool(self._paths)

    def sync(self) -> None:
        """Sync them all. Raises the last OSError after trying all of them."""
        failure: OSError | None = None
        for path in list(self._paths):
            self._paths.pop(path, None)  # before the sync: a write meanwhile marks it again
            try:
                files.sync_file(path)
            except FileNotFoundError:
                continue  # it expired, or was removed
            except OSError as exc:
                self._paths[path] = None
                exc.filename = str(path)
                failure = exc
        if failure is not None:
            raise failure


class Syncer:
    """Syncs `marks` every `every_s`. The owner closes it."""

    def __init__(self, marks: Marks, every_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._marks = marks
        self._every_s = every_s
        self._clock = clock
        self._is_over = threading.Event()
        self._warned_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="sync", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Sync the rest, and end the thread."""
        self._is_over.set()
        self._thread.join()

    def sync(self) -> None:
        """One round; an error is logged, not raised."""
        try:
            self._marks.sync()
        except OSError as exc:
            now = self._clock()
            if self._warned_at is None or now - self._warned_at >= WARN_AGAIN_S:
                log.warning("%s: cannot be forced to the disk: %s; trying again", exc.filename, exc.strerror)
                self._warned_at = now

    def _run(self) -> None:
        while not self._is_over.wait(self._every_s):
            self.sync()
        self.sync()
