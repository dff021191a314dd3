"""The keeper: holds a store's folder and lock, its live sessions, and the journal that is written.

Strategy: streams begin sessions and hand over ticks and ends, which are only gathered. `flush`, once a
turn, writes them all; then they may be acknowledged. So only `flush` waits for the disk, and on a full
disk everything stays gathered.

Closed journals wait in `closed` for their roll-up, which works on files alone and may run in a thread;
`take_over` gets its result.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from rondo_tools.catalog import Series
from rondo_tools.errors import EX_UNAVAILABLE, StoreError
from rondo_tools.selector import Selector
from rondo_tools.store.folder import Folder, moved
from rondo_tools.store.format.layout import JOURNALS
from rondo_tools.store.format.records import LOST, Description, SessionRecord
from rondo_tools.store.format.schema import Schema, schema_of
from rondo_tools.store.format.state import State
from rondo_tools.store.journal import PendingEnd
from rondo_tools.store.journal_folder import ClosedJournal, JournalFolder
from rondo_tools.store.live import Carried, Live, Remembered, Session, SessionEnd
from rondo_tools.store.recovery import recover
from rondo_tools.store.sync import NEVER, Policy
from rondo_tools.stream import End, Header

if TYPE_CHECKING:
    from rondo_tools.store.compaction import Result

log = logging.getLogger(__name__)

MAX_AHEAD_MS = 600_000  # a tick further ahead of the store's clock comes from a wrong clock
MAX_GATHERED = 8 << 20  # bytes of streams in memory: more are written in the middle of a turn
CHECK_EVERY_S = 0.1  # least time between two checks, before a write, that the folder is in its place
_MOST_SERIES_KNOWN = 8  # few, because a header may be large


class NoMemory:
    """Remembers no session, as in a store without a roll-up."""

    def find(self, instance: str, start_ms: int) -> Description | None:  # noqa: ARG002
        return None

    def newest_ms(self, instance: str) -> int:  # noqa: ARG002
        return 0


class RollUp(Protocol):
    """Rolls up closed journals from the disk, in two steps, because the first one is slow."""

    def run(self, journal: ClosedJournal) -> Result:
        """Roll it up and force the result to the disk. For any thread. Raises OSError.

        Raises StoreError if the folder was moved or replaced.
        """

    def take_over(self, result: Result) -> State:
        """Remember the sessions that ended, for the keeper's look-ups; gives the new state."""


class Position(NamedTuple):
    """A watermark: this journal is written up to `offset`."""

    path: Path
    number: int
    offset: int


class Keeper:
    """Holds a store open for writing, and closes its folder; use it as a context manager.

    `state` is the commit of the last roll-up, `carried` the sessions that it left open. `now_ms` is the
    wall clock, `latest_ms` the latest time that it may be, `clock` the monotonic one.
    """

    def __init__(
        self,
        folder: Folder,
        *,
        state: State | None = None,
        carried: Iterable[Carried] = (),
        remembered: Remembered | None = None,
        roll_up: RollUp | None = None,
        sync: Policy = NEVER,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        latest_ms: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sessions_begun = 0  # new ones, by streams
        self.gathered = 0  # bytes of streams since the last flush
        self._now_ms = now_ms
        self._latest_ms = now_ms if latest_ms is None else latest_ms
        self._clock = clock
        self._roll_up = roll_up
        self._checked_at = float("-inf")
        self._limits = 0, 0
        self._limits_of_ms = -1
        self._known_series: dict[int, tuple[tuple[Series, ...], Schema]] = {}
        self.folder = folder
        try:
            rolled_up = state.rolled_up if state is not None else 0
            self.tiers = self.folder.tiers
            self._span_ms = self.tiers[-1].span_ms
            self.live = Live(NoMemory() if remembered is None else remembered, clock)
            self.live.rolled_up(rolled_up)
            layout = self.folder.layout
            left = [number for number in layout.numbers(JOURNALS) if number > rolled_up]
            for trouble in recover(self.live, layout, left, carried):
                log.warning("%s; it is passed over", trouble)
            self._journals = JournalFolder(
                layout,
                self.folder.store_id,
                rolled_up,
                left,
                end_after_ms=self.tiers[-1].interval_ms,
                describe=self._describe,
                ended=self._ended,
                sync=sync,
                now_ms=now_ms,
                clock=clock,
            )
        except BaseException:
            self.folder.close()
            raise

    # --- sessions and ticks of streams --------------------------------------------------------------

    def begin(self, header: Header, owner: object = None) -> Session:
        """The session that a header opens, or continues with other series.

        It belongs to `owner` from now on. Raises StoreError if its labels or interval differ, and OSError
        if its ticks with the old series cannot be written.
        """
        known = len(self.live)
        session = self.live.open(header.instance, header.start_ms, header.interval_ms, header.labels)
        if session.labels != header.labels or session.interval_ms != header.interval_ms:
            raise StoreError(
                f"{self.folder.layout.path}: instance {header.instance!r} has begun a session at "
                f"{header.start_ms} with other labels or another interval; give each VM a name of its own "
                "(--instance)"
            )
        schema = self._schema(header.series)
        if session.schema is not schema:
            if session.turn is self._journals.journal.turn:
                self.flush()
            session.schema = schema
        self.live.owned(session, owner)
        self.sessions_begun += len(self.live) > known
        return session

    def append(self, session: Session, t_ms: int, values: bytes) -> bool:
        """Gather one tick; False if it is a duplicate: not past the session's last, or past its end."""
        if t_ms <= session.last_ms or (session.end is not None and not self._resume(session)):
            return False
        self._journals.journal.append(session, t_ms, values)
        return True

    def extend(self, session: Session, t_ms: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> int:
        """Gather ticks as `append` does: `t_ms` (n,), `values` (n, series). Gives how many were new."""
        if t_ms[0] <= session.last_ms or (t_ms[1:] <= t_ms[:-1]).any():
            newest = np.maximum.accumulate(np.concatenate(([session.last_ms], t_ms)))
            is_fresh = t_ms > newest[:-1]
            t_ms, values = t_ms[is_fresh], values[is_fresh]
        if not len(t_ms) or (session.end is not None and not self._resume(session)):
            return 0
        self._journals.journal.extend(session, t_ms, values)
        return len(t_ms)

    def end(self, session: Session, end: End) -> None:
        """Gather the producer's end. A second end is a resend, and changes nothing."""
        if not session.is_ended:
            self._end(session, end.reason, end.t_ms)

    def release(self, session: Session, owner: object = None) -> None:
        """The owner's connection is gone. No effect if the session has another owner by now."""
        if session.owner is owner:
            self.live.released(session)

    def give_up(self, session: Session, owner: object = None) -> None:
        """End it as lost at once: its producer began another session, or its pipe ended."""
        if session.owner is owner:
            if session.end is None and session.is_stored:
                self._end(session, LOST, session.last_ms)
            self.live.released(session)

    def give_up_gone(self, *, at_once: bool = False) -> int:
        """Give up the sessions whose connection has been gone for too long; `at_once`, all without one."""
        given_up = list(self.live.gone() if at_once else self.live.overdue())
        for session in given_up:
            self.give_up(session)
        return len(given_up)

    def limits(self) -> tuple[int, int]:
        """The oldest and the newest time of ticks that may be stored now."""
        now_ms = self._now_ms()
        if now_ms != self._limits_of_ms:  # many ticks come in a millisecond
            self._limits = now_ms - self._span_ms, self._latest_ms() + MAX_AHEAD_MS
            self._limits_of_ms = now_ms
        return self._limits

    # --- the turn ------------------------------------------------------------------------------------

    @property
    def has_pending(self) -> bool:
        """Whether anything waits for `flush`."""
        return self._journals.is_behind

    @property
    def pending_ticks(self) -> int:
        """The number of ticks that wait for `flush`."""
        return self._journals.journal.pending_ticks

    def flush(self) -> None:
        """Write what was gathered, then end the journal if it is time.

        Raises OSError; then everything that is not written stays gathered for another try. Raises
        StoreError if the folder was moved or replaced: nothing must be acknowledged any more.
        """
        if self._clock() - self._checked_at >= CHECK_EVERY_S and self.has_pending:
            self._check()
        self._journals.flush()
        self.gathered = 0

    def bound_turn(self) -> None:
        """Write in the middle of a turn if much is gathered. Raises as `flush` does."""
        if self.gathered > MAX_GATHERED:
            self.flush()

    def acknowledge(self) -> None:
        """Call this before acknowledging a stream. Raises StoreError as `flush` does."""
        assert not self.has_pending, "data that is not written must not be acknowledged"
        self._check()

    def newest_position(self) -> Position | None:
        """The end of what is written; None if this process has written nothing."""
        journal = self._journals.newest
        return None if journal is None else Position(self.folder.layout.path, journal.number, journal.size)

    # --- closed journals -------------------------------------------------------------------------------

    @property
    def closed(self) -> tuple[ClosedJournal, ...]:
        """The journals to roll up, oldest first."""
        return tuple(self._journals.closed)

    def end_journal(self) -> None:
        """Write what was gathered, then close the journal: another one begins. Raises as `flush` does."""
        self.flush()
        self._journals.end_journal()

    @property
    def newest_closed(self) -> int:
        """The newest closed journal, rolled up or not."""
        return self._journals.journal.number - 1

    def forget(self, selector: Selector) -> int:
        """Take the selected sessions as not stored. Call it after `end_journal`, before rewriting the files.

        Gives how many of them are connected: their next tick is new data.
        """
        return self.live.forget(
            lambda instance, labels: selector.matches({"instance": instance} | dict(labels))
        )

    def roll_up(self) -> None:
        """Roll up all closed journals in this thread. Raises as RollUp.run does."""
        while (job := self.next_roll_up()) is not None:
            self.take_over(job())

    def next_roll_up(self) -> Callable[[], Result] | None:
        """The roll-up of the oldest closed journal, for a thread; give its result to `take_over`."""
        if self._roll_up is None or not self._journals.closed:
            return None
        return partial(self._roll_up.run, self._journals.closed[0])

    def take_over(self, result: Result) -> None:
        assert self._roll_up is not None
        self.rolled_up(self._roll_up.take_over(result))

    def rolled_up(self, state: State) -> None:
        """Journals up to `state.rolled_up` are rolled up, and the sessions that ended in them remembered."""
        while self._journals.closed and self._journals.closed[0].number <= state.rolled_up:
            self._journals.closed.popleft()
        self.live.rolled_up(state.rolled_up)

    def close(self) -> None:
        """Write what was gathered, if the folder is in its place, and close it. Raises as `flush` does."""
        try:
            if self.has_pending:
                self._check()
                self._journals.flush()
        finally:
            try:
                self._journals.close()
            finally:
                self.folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---------------------------------------------------------------------------------------------------

    def _resume(self, session: Session) -> bool:
        """A later tick undoes the end of a session that was given up, and no other end."""
        if session.is_ended:
            return False
        self.live.resumed(session)
        return True

    def _end(self, session: Session, reason: str, t_ms: int) -> None:
        self._journals.journal.end(session, t_ms, reason, session.last_ms)
        session.end = SessionEnd(reason, t_ms)
        session.end_journal = 0

    def _ended(self, end: PendingEnd, journal: int) -> None:
        if end.session.end == SessionEnd(end.reason, end.t_ms):  # else a later tick undid it
            self.live.ended(end.session, journal)

    def _describe(self, session: Session, number: int) -> SessionRecord:
        session.is_stored = True
        return SessionRecord(
            number,
            session.instance,
            session.start_ms,
            session.interval_ms,
            session.labels,
            session.last_ms,
            self.live.before_ms(session),
        )

    def _schema(self, series: tuple[Series, ...]) -> Schema:
        """A cached `schema_of`, which would hash a large tuple each time; streams share a few."""
        known = self._known_series.get(id(series))
        if known is None:
            if len(self._known_series) >= _MOST_SERIES_KNOWN:
                self._known_series.clear()
            known = self._known_series[id(series)] = series, schema_of(series)
        return known[1]

    def _check(self) -> None:
        """Raise StoreError if the folder or the journal is no longer in its place."""
        self.folder.check()
        try:
            is_linked = self._journals.journal.is_linked
        except OSError as exc:
            raise StoreError(f"{self.folder.layout.path}: {exc.strerror}", exit_code=EX_UNAVAILABLE) from exc
        if not is_linked:
            raise moved(self.folder.layout.path)
        self._checked_at = self._clock()
