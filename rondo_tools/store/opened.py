"""A store that is open for writing: the keeper of its journals, and the upkeep of its files.

Strategy: take the lock, read what the last roll-up committed, and remove uncommitted files. A file that
cannot be read is skipped with a warning: the store starts and serves. Only an unreadable `state.json` stops
it, or one that is gone, because without it a week of files would count as uncommitted.
"""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

from rondo_tools.clock import LatestTime
from rondo_tools.errors import EX_UNAVAILABLE, StoreError
from rondo_tools.store import compaction, restored
from rondo_tools.store.carry import LiveSession, parse_carry
from rondo_tools.store.folder import Folder
from rondo_tools.store.forget.service import Forgetter
from rondo_tools.store.format.frames import MAX_PAYLOAD
from rondo_tools.store.format.layout import Layout
from rondo_tools.store.format.opened import read_state
from rondo_tools.store.format.state import State
from rondo_tools.store.format.tiers import Tier
from rondo_tools.store.keeper import Keeper
from rondo_tools.store.remembered import Remembered
from rondo_tools.store.sync import NEVER, Policy
from rondo_tools.store.upkeep import Upkeep
from rondo_tools.units import format_size

log = logging.getLogger(__name__)

# A file must be able to hold a frame of each kind, else no journal could have a row.
_LEAST_FILE = 4 * MAX_PAYLOAD


class OpenStore:
    """Opens the store at `path`, making it if there is none; use it as a context manager.

    `max_bytes` None is the default bound. Raises StoreError as Folder does, and for a `state.json` that
    cannot be read.
    """

    def __init__(
        self,
        path: str | Path,
        tiers: tuple[Tier, ...] | None = None,
        *,
        max_bytes: int | None = None,
        sync: Policy = NEVER,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        latest_ms: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        _check_file_limit()
        folder = Folder(path, tiers)
        try:
            layout = folder.layout
            state = _read_state(layout)
            try:
                restored.move_into_place(layout, state)
                compaction.clean_up(layout, state, folder.tiers)
            except OSError as exc:
                log.warning("%s: cannot remove uncommitted files: %s", layout.path, exc.strerror)
            remembered = Remembered(layout)
            remembered.load(state)
            self.upkeep = Upkeep(folder, state, remembered, max_bytes=max_bytes, now_ms=now_ms, clock=clock)
            self.keeper = Keeper(
                folder,
                state=state,
                carried=_carried(layout, state),
                remembered=remembered,
                roll_up=self.upkeep,
                sync=sync,
                now_ms=now_ms,
                latest_ms=LatestTime(now_ms, clock) if latest_ms is None else latest_ms,
                clock=clock,
            )
            self.forgetter = Forgetter(self.keeper, self.upkeep)
        except BaseException:
            folder.close()
            raise

    def keep_house(self) -> None:
        """Serve a request to forget, roll up all closed journals, and remove expired files.

        An error is a warning, and the next call tries again. Raises StoreError if the folder was moved or
        replaced.
        """
        if (answer := self.forgetter.serve()) is not None:
            log.info("%s: %s", self.keeper.folder.layout.path, answer.error or answer)
        try:
            self.keeper.roll_up()
        except OSError as exc:
            log.warning("%s: not rolled up yet: %s", self.keeper.folder.layout.path, exc.strerror or exc)
        try:
            self.upkeep.look()
            self.upkeep.forget_gone()
        except OSError as exc:
            log.warning("%s: nothing expires yet: %s", self.keeper.folder.layout.path, exc.strerror or exc)

    def close(self) -> None:
        """Write what is gathered, if possible. Raises StoreError if the folder was moved or replaced."""
        try:
            self.keeper.close()
        except OSError as exc:
            path = self.keeper.folder.layout.path
            log.warning("%s: %s; data that is not stored must be sent again", path, exc.strerror or exc)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if soft != resource.RLIM_INFINITY and soft < _LEAST_FILE:
        soft = _LEAST_FILE if hard == resource.RLIM_INFINITY else min(_LEAST_FILE, hard)
        if soft < _LEAST_FILE:
            raise StoreError(
                f"files may have only {format_size(soft)} (ulimit -f), and need {format_size(_LEAST_FILE)}",
                exit_code=EX_UNAVAILABLE,
            )
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _read_state(layout: Layout) -> State:
    try:
        return read_state(layout)
    except StoreError as exc:
        if exc.exit_code == EX_UNAVAILABLE:
            raise
        raise StoreError(
            f"{exc}; put it back from a backup, or move {layout.path} away and begin another store"
        ) from exc


def _carried(layout: Layout, state: State) -> Iterable[LiveSession]:
    """The sessions that the last roll-up left open; none, with a warning, if they cannot be read."""
    if not state.carry:
        return ()
    path = layout.carry(state.carry)
    try:
        return parse_carry(path.read_bytes()).sessions.values()
    except OSError as exc:
        log.warning("%s: %s; open sessions are not known", path, exc.strerror)
    except StoreError as exc:
        log.warning("%s: %s; open sessions are not known", path, exc)
    return ()
