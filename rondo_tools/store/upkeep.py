"""What is done with journals that are over: roll-ups, and removing files that had their time.

Strategy: both work on files alone and replace `state.json`, so they run one at a time: in a server's
background thread, or between two reads of a pipe. `state` is theirs. What the writing path has to know
of it, the sessions that are remembered now and those that went, it takes over in its own thread.

A disk that is full may keep a roll-up from its end, and without one no journal can go. So a server
keeps a reserve of room for one, which is given up then. If it cannot be had again, files go.
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
from rondo_tools.store.reserve import FULL, Reserve

log = logging.getLogger(__name__)

MOST_BYTES = 16 << 30  # what a store may take, if nobody says otherwise
_SHARE = 10  # and of its file system
_RESERVE = 16 << 20
_RESERVE_SHARE = 16  # of what the store may take


class Forgotten(NamedTuple):
    """What was removed of sessions that were forgotten, and what is remembered now.

    `cursors` have a batch in flight that has some of it; `sending` are in the midst of a stretch.
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
        self._housekeeper = Housekeeper(
            folder.layout,
            folder.tiers,
            Cursors(folder.layout, folder.store_id),
            now_ms,
            self.max_bytes,
            clock,
        )
        self._reserve_bytes = min(_RESERVE, self.max_bytes // _RESERVE_SHARE)
        self._reserve = Reserve(folder.layout, self._reserve_bytes)
        self._keeps_reserve = False
        self._gone: deque[int] = deque()  # files of descriptions

    def keep_reserve(self) -> None:
        """From now on, keep room for one roll-up."""
        self._keeps_reserve = True

    # --- one at a time, in any thread -------------------------------------------------------------

    def run(self, journal: ClosedJournal) -> Result:
        """Roll up a journal, and those before it.

        Raises OSError: then it is still to be done. Raises StoreError if the folder is no longer ours.
        """
        self._folder.check()
        try:
            result = self._roll_up(journal)
        except OSError as exc:
            if exc.errno not in FULL:
                raise
            self._reserve.give_up()
            result = self._roll_up(journal)
        self._take_reserve()
        return result

    def look(self) -> Look:
        """Remove what had its time, and what there is no room for. Raises as `run`."""
        self._folder.check()
        look = self._took(self._housekeeper.look(self.state))
        self._take_reserve()
        self.used_bytes = self._housekeeper.used()
        return look

    def forget(self, selector: Selector, key: bytes, upto: int) -> Forgotten:
        """Remove what there is of some sessions in journals up to one, and in all other files.

        Raises as `run`.
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

    def _roll_up(self, journal: ClosedJournal) -> Result:
        result = compaction.roll_up(
            self._layout, self.state, self._folder.tiers, self._folder.store_id, self._now_ms, journal.number,
            self._remembered,
        )  # fmt: skip
        self.state = result.state
        return result

    def _take_reserve(self) -> None:
        """Have room for the next roll-up, if it can be had: the one that is done counts anyway."""
        if not self._keeps_reserve:
            return
        try:
            if not self._reserve.take():
                self._took(self._housekeeper.make_room(self.state, self._reserve_bytes))
                self._reserve.take()
        except OSError as exc:
            log.debug("%s: no reserve: %s", self._layout.reserve, exc.strerror or exc)

    def _took(self, look: Look) -> Look:
        self.state = look.state
        self.evicted_files += look.evicted
        self._gone += [number for folder, number in look.removed if folder == ENDED]
        return look

    # --- in the writer's thread -------------------------------------------------------------------

    def take_over(self, result: Result) -> State:
        """Remember the sessions that a roll-up found to be over."""
        self._remembered.add(result.frames)
        self.forget_gone()
        return result.state

    def forgot(self, result: Forgotten) -> None:
        """Remember no more of it."""
        self._remembered.replace(result.remembered)

    def forget_gone(self) -> None:
        """Forget the sessions whose descriptions went."""
        while self._gone:
            self._remembered.forget(self._gone.popleft())

    # ---------------------------------------------------------------------------------------------------

    @property
    def remembered(self) -> int:
        """How many sessions that are over are known."""
        return len(self._remembered)

    def hours_of_ticks(self) -> float | None:
        """For how many hours of journals `max_bytes` has room, at the rate of those that are there."""
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
    """What a store may take if nobody says: a tenth of its file system, and not more than MOST_BYTES."""
    status = os.statvfs(folder.layout.path)
    return min(MOST_BYTES, status.f_blocks * status.f_frsize // _SHARE)
