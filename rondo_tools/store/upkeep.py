"""Upkeep of closed journals: roll-ups, and removal of expired files.

Strategy: both work on files alone and replace `state.json`, so they run one at a time: in a server's
background thread, or between two reads of a pipe. They own `state`. The writer takes over the changes that
it has to know, newly remembered and removed sessions, in its own thread.

A full disk may make a roll-up fail, and without one no journal can be removed. So a server keeps a reserve
of disk space for one roll-up, and frees it then. Files are evicted only if roll-ups have failed for minutes,
and only as many as one needs: another program may fill the disk for a moment, but evicted data is gone. While
the disk stays full, the next roll-ups evict without a wait: producers keep ten minutes of ticks, no more.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from rondo_tools.selector import Selector
from rondo_tools.store import compaction
from rondo_tools.store.compaction import Result
from rondo_tools.store.cursors import Cursors
from rondo_tools.store.folder import Folder
from rondo_tools.store.forget.job import Forgetting, Removed
from rondo_tools.store.format.layout import ENDED, JOURNALS
from rondo_tools.store.format.state import State
from rondo_tools.store.housekeeping import Housekeeper, Look
from rondo_tools.store.journal_folder import ClosedJournal
from rondo_tools.store.remembered import Remembered
from rondo_tools.store.reserve import FULL, FULL_DISK, Reserve

log = logging.getLogger(__name__)

MOST_BYTES = 16 << 30  # default limit of a store's disk space,
_SHARE = 10  # and at most this part of its file system
_RESERVE = 16 << 20
_RESERVE_SHARE = 16  # and at most this part of the store's limit
FULL_FOR_S = 300.0  # until files are evicted: producers keep ten minutes of ticks
_FIRST_EVICTED = 1 << 16  # bytes, then twice as many


class Forgotten(NamedTuple):
    """The removed data of forgotten sessions, and the sessions that are remembered now.

    `cursors` have a batch in flight with data of these sessions; `sending` are pushing a stretch.
    """

    removed: Removed
    remembered: Remembered
    cursors: list[str]
    sending: list[str]


class Upkeep:
    """Of an open store: a keeper's RollUp. `used_bytes` is that of the last look."""

    def __init__(
        self,
        folder: Folder,
        state: State,
        remembered: Remembered,
        *,
        max_bytes: int | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state = state
        self.max_bytes = default_max_bytes(folder) if max_bytes is None else max_bytes
        self.used_bytes = 0
        self.evicted_files = 0  # since the start
        self._folder = folder
        self._layout = folder.layout
        self._remembered = remembered
        self._now_ms = now_ms
        self._clock = clock
        self._housekeeper = Housekeeper(
            folder.layout,
            folder.tiers,
            Cursors(folder.layout, folder.store_id),
            now_ms,
            self.max_bytes,
            clock,
        )
        self._reserve = Reserve(folder.layout, min(_RESERVE, self.max_bytes // _RESERVE_SHARE))
        self._keeps_reserve = False
        self._full_since: float | None = None  # the first roll-up that failed; until there is a reserve again
        self._gone: deque[int] = deque()  # removed files of descriptions

    def keep_reserve(self) -> None:
        """From now on, keep disk space for one roll-up."""
        self._keeps_reserve = True

    def give_up_reserve(self) -> None:
        """Let the writer have the reserve's space, in any thread: it has waited for FULL_FOR_S."""
        self._reserve.give_up()

    # --- one at a time, in any thread -------------------------------------------------------------

    def run(self, journal: ClosedJournal) -> Result:
        """Roll up a journal, and those before it.

        Raises OSError; then try again later. Raises StoreError if the folder was moved or replaced.
        """
        self._folder.check()
        try:
            result = self._roll_up(journal)
        except OSError as exc:
            if exc.errno not in FULL:
                raise
            self._reserve.give_up()
            result = self._roll_up_on_full_disk(journal)
        if not self._keeps_reserve:  # a pipe: nothing else shows that the disk has room again
            self._full_since = None
        self._take_reserve()
        return result

    def look(self) -> Look:
        """Remove expired files, and evict files beyond the limit. Raises as `run` does."""
        self._folder.check()
        look = self._took(self._housekeeper.look(self.state))
        self._take_reserve()
        self.used_bytes = self._layout.used_bytes()
        return look

    def forget(self, selector: Selector, key: bytes, upto: int) -> Forgotten:
        """Remove all data of the selected sessions: in journals up to `upto`, and in all other files.

        Raises as `run` does.
        """
        from rondo_tools.store.forget.in_flight import cursors_now

        self._folder.check()
        compaction.clean_up(self._layout, self.state, self._folder.tiers)
        job = Forgetting(self._layout, self.state, len(self._folder.tiers), selector, key, upto)
        try:
            try:
                job.run()
            except OSError as exc:
                if exc.errno not in FULL:
                    raise
                self._reserve.give_up()
                job.run()
        finally:
            self.state = job.state
        self._take_reserve()
        remembered = Remembered(self._layout)
        remembered.load(self.state)
        cursors = cursors_now(self._layout, job.instances())
        in_flight = [one.name for one in cursors if one.holds_some]
        return Forgotten(job.removed, remembered, in_flight, [one.name for one in cursors if one.is_sending])

    def _roll_up_on_full_disk(self, journal: ClosedJournal) -> Result:
        """Roll up without the reserve; evict files if the disk has been full for minutes."""
        wanted = _FIRST_EVICTED
        while True:
            try:
                return self._roll_up(journal)
            except OSError as exc:
                if exc.errno not in FULL_DISK:
                    raise
                if self._full_since is None:
                    self._full_since = self._clock()
                if self._clock() - self._full_since < FULL_FOR_S:
                    raise
                if not self._took(self._housekeeper.make_room(self.state, wanted)).evicted:
                    raise
            wanted *= 2

    def _roll_up(self, journal: ClosedJournal) -> Result:
        result = compaction.roll_up(
            self._layout, self.state, self._folder.tiers, self._folder.store_id, self._now_ms, journal.number,
            self._remembered,
        )  # fmt: skip
        self.state = result.state
        return result

    def _take_reserve(self) -> None:
        """Allocate the reserve for the next roll-up. A failure is no error: the last roll-up is valid."""
        if not self._keeps_reserve:
            return
        try:
            if self._reserve.take():
                self._full_since = None
        except OSError as exc:
            log.debug("%s: no reserve: %s", self._layout.reserve, exc.strerror or exc)

    def _took(self, look: Look) -> Look:
        self.state = look.state
        self.evicted_files += look.evicted
        self._gone += [number for folder, number in look.removed if folder == ENDED]
        return look

    # --- in the writer's thread -------------------------------------------------------------------

    def take_over(self, result: Result) -> State:
        """Remember the sessions that ended in a roll-up."""
        self._remembered.add(result.frames)
        self.forget_gone()
        return result.state

    def forgot(self, result: Forgotten) -> None:
        """Remember the forgotten sessions no more."""
        self._remembered.replace(result.remembered)

    def forget_gone(self) -> None:
        """Forget the sessions whose descriptions were removed."""
        while self._gone:
            self._remembered.forget(self._gone.popleft())

    # ---------------------------------------------------------------------------------------------------

    @property
    def remembered(self) -> int:
        """The number of ended sessions that are remembered."""
        return len(self._remembered)

    def hours_of_ticks(self) -> float | None:
        """The hours of journals that fit in `max_bytes`, at the rate of the present ones."""
        closed = sorted(self.state.journals.items())
        if len(closed) < 2 or closed[-1][1] <= closed[0][1]:
            return None
        size = 0
        for number, _ in closed[1:]:
            try:
                size += self._layout.file(JOURNALS, number).stat().st_size
            except OSError:
                continue
        hours = (closed[-1][1] - closed[0][1]) / 3_600_000
        return self.max_bytes / size * hours if size else None


def default_max_bytes(folder: Folder) -> int:
    """The default limit of a store: a tenth of its file system, at most MOST_BYTES."""
    status = os.statvfs(folder.layout.path)
    return min(MOST_BYTES, status.f_blocks * status.f_frsize // _SHARE)
