"""When what is written is forced to the disk: `--sync 5s|always|never`.

Strategy: `always` opens the slabs so that each write returns when it is on the disk (O_DSYNC). An
interval is a thread of its own that syncs the slabs of the sessions written to since the last time,
so that no producer waits for the disk. A killed process needs neither: what was written is in the
kernel's memory, and files are replaced whole at every setting.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from rondo_tools.errors import UsageError
from rondo_tools.units import format_duration, parse_duration

log = logging.getLogger(__name__)


_SLACK_S = 1.0  # a file's time may be a clock tick old already when it is written


class Policy(NamedTuple):
    """`every_ms` 0 is never, if it is not `always`."""

    always: bool
    every_ms: int

    def __str__(self) -> str:
        return "always" if self.always else format_duration(self.every_ms) if self.every_ms else "never"


def parse_policy(text: str) -> Policy:
    """``always``, ``never``, or a duration. Raises UsageError."""
    if text in ("always", "never"):
        return Policy(text == "always", 0)
    try:
        return Policy(False, parse_duration(text))
    except UsageError:
        raise UsageError(f"{text!r}: write always, never or a duration such as 5s") from None


NEVER = Policy(False, 0)
DEFAULT_POLICY = Policy(False, 5_000)


class Syncer:
    """Syncs the folders that are `mark`ed, every `every_ms`, in a thread. The owner closes it."""

    def __init__(self, every_ms: int, tiers: int, wall_s: Callable[[], float] = time.time) -> None:
        """`tiers` is how many slabs each folder has; `wall_s` is the clock of their times."""
        self._every_s = every_ms / 1000
        self._tiers = tiers
        self._marked: set[str] = set()
        self._is_over = threading.Event()
        self._complained = False
        self._wall_s = wall_s
        self._began = (0.0, 0.0)  # when the last round did, by the wall clock and by the monotonic one
        self._thread = threading.Thread(target=self._run, name="sync", daemon=True)
        self._thread.start()

    def mark(self, folder: str) -> None:
        self._marked.add(folder)

    def close(self) -> None:
        """Sync what is left, and end."""
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(self._every_s):
            self._sync()
        self._sync()

    def _sync(self) -> None:
        wall_s, monotonic_s = self._wall_s(), time.monotonic()
        before_s, passed_s = self._began[0], monotonic_s - self._began[1]
        # If the clock was set back since the last round, files have older times than that round.
        was_set_back = wall_s < before_s + passed_s - _SLACK_S / 2
        since = 0.0 if was_set_back else before_s - _SLACK_S
        self._began = (wall_s, monotonic_s)
        for _ in range(len(self._marked)):
            # One at a time: the set is the writer's meanwhile.
            folder = self._marked.pop()
            try:
                for number in range(self._tiers):
                    _sync_file(f"{folder}/tier_{number}.slab", since)
            except FileNotFoundError:
                continue  # the session expired
            except OSError as exc:
                if not self._complained:
                    log.warning("%s: cannot be synced: %s", folder, exc.strerror)
                self._complained = True


def _sync_file(file: str, since: float) -> None:
    """Sync a file unless it was last written before `since`: coarse slabs mostly were."""
    if os.stat(file).st_mtime < since:  # noqa: PTH116  # a Path for each costs more than all the rest
        return
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)
