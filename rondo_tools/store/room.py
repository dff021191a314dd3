"""The room that a store takes: what goes, when, and whether a new session may begin.

Strategy: to look at every session of a store takes a second where there are thousands, and nobody is
to wait for it. So looking may be done by a thread of its own, beside the loop that stores; what goes
is then removed one by one, each while no session is being opened, and only if it is not open. What
may go next to make room is remembered from the last look, so that a new session need not look again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from rondo_tools.errors import EX_TEMPFAIL, StoreError
from rondo_tools.store import retention
from rondo_tools.store.retention import Candidate
from rondo_tools.store.tiers import Tier
from rondo_tools.units import format_count, format_size

log = logging.getLogger(__name__)

_NEW_SESSION_BYTES = 20_480  # five blocks: three slabs' headers, the description, the folder
_SHARE = 0.05  # of the time, at most, in which new sessions wait for a look of their own
_NEAR = 0.9  # of the limit: from there on it is worth knowing what may go


class Room:
    """Of the store at `path`; `is_open` holds the folders of the sessions that are open.

    `used_bytes` and `instances` are those of the last look. Hold `guard` to open a session.
    """

    def __init__(
        self,
        path: Path,
        tiers: tuple[Tier, ...],
        max_bytes: int | None,
        is_open: Mapping[str, object],
        now_ms: Callable[[], int],
    ) -> None:
        self.guard = threading.RLock()
        self.max_bytes = max_bytes
        self.used_bytes = self.instances = 0
        self._path, self._tiers, self._is_open, self._now_ms = path, tiers, is_open, now_ms
        self._may_go: deque[Candidate] | None = None  # not known
        self._undelivered = 0  # sessions that went so, and of which nothing was said yet
        self._look_again_at = 0.0
        self._is_closed = False

    def close(self) -> None:
        """Nothing is removed any more, whoever is looking."""
        with self.guard:
            self._is_closed = True
            self._say_what_went()

    def expire(self) -> None:
        """Remove the sessions whose last tick is older than the last tier remembers, and left-overs."""
        retention.expire(self._path, self._tiers, self._now_ms(), self._remove)
        retention.sweep(self._path, self._remove_left_over)

    def make_room(self) -> None:
        """Count, and remove what is over until the store is within its bound, as far as that goes."""
        begin = time.monotonic()
        self.used_bytes, self.instances = retention.used(self._path)
        self._may_go = None
        if self.max_bytes is not None and self.used_bytes > _NEAR * self.max_bytes:
            self._may_go = retention.candidates(self._path, self._is_open, self._now_ms())
            self._remove_some()
        self._say_what_went()
        end = time.monotonic()
        self._look_again_at = end + max(1.0, (end - begin) / _SHARE)

    def admit(self, instance: str) -> None:
        """Make room for a session that begins. Raises StoreError if there is none to be had."""
        if self.max_bytes is None:
            return
        self.used_bytes += _NEW_SESSION_BYTES
        self._remove_some()
        if self.used_bytes > self.max_bytes and (
            self._may_go is None or time.monotonic() >= self._look_again_at
        ):
            self.make_room()
        if self.used_bytes > self.max_bytes:
            raise StoreError(
                f"{self._path}: {format_size(self.used_bytes)} are more than --max-bytes "
                f"{format_size(self.max_bytes)}, and all that is left is live: the new session of "
                f"{instance!r} is refused",
                exit_code=EX_TEMPFAIL,
            )

    def _remove_some(self) -> None:
        while self.max_bytes is not None and self.used_bytes > self.max_bytes and self._may_go:
            is_undelivered, _, session = self._may_go.popleft()
            try:
                size = session.bytes_on_disk()
            except OSError:
                continue  # it went meanwhile
            if self._remove(session.path):
                log.info("%s: removed, for the room that --max-bytes gives", session.path)
                self.used_bytes -= size
                self._undelivered += is_undelivered

    def _say_what_went(self) -> None:
        if self._undelivered and self.max_bytes is not None:
            log.warning(
                "--max-bytes %s: %s had to go that no push had delivered in full",
                format_size(self.max_bytes),
                format_count(self._undelivered, "session"),
            )
        self._undelivered = 0

    def _remove(self, folder: Path) -> bool:
        """Remove a session, if it is not open and has not gone already."""
        with self.guard:
            if self._is_closed or str(folder) in self._is_open or not folder.is_dir():
                return False
            retention.remove(folder)
            return True

    def _remove_left_over(self, folder: Path) -> None:
        """What is being made looks like it: so look again while nothing is."""
        with self.guard:
            if not self._is_closed and str(folder) not in self._is_open and retention.is_left_over(folder):
                log.debug("%s: left over, removed", folder)
                retention.remove_folder(folder)
