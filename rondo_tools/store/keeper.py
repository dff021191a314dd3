"""What rondo-store holds open: the folder, its lock, the sessions that live, and the journal.

Strategy: streams begin sessions and hand over ticks and ends, which are only gathered. `flush`, once a
turn, writes what all of them gathered; what it has written may be acknowledged. So nothing here waits
for the disk but `flush`, and what a full disk keeps from being written stays gathered.

Journals that are over wait in `closed` to be rolled up, by something that works on files alone and may
run in a thread; `take_over` gets what that came to.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

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

log = logging.getLogger(__name__)

MAX_AHEAD_MS = 600_000  # a tick further ahead of the store's clock is a clock gone wrong
MAX_GATHERED = 8 << 20  # bytes of streams, before they are written in the midst of a turn
CHECK_EVERY_S = 0.1  # whether the folder is still ours, at most, before a write
_MOST_SERIES_KNOWN = 8  # few, for a header may be large


class NoMemory:
    """Remembers no session: for a store that has rolled up nothing."""

    def find(self, instance: str, start_ms: int) -> Description | None:  # noqa: ARG002
        return None

    def newest_ms(self, instance: str) -> int:  # noqa: ARG002
        return 0


class RollUp(Protocol):
    """Rolls up closed journals, which it reads from the disk; in two steps, for the first takes long."""

    def run(self, journal: ClosedJournal) -> Any:
        """Roll it up: all is on the disk when this returns. For any thread. Raises OSError.

        Raises StoreError if the folder is no longer ours.
        """

    def take_over(self, result: Any) -> State:
        """Remember the sessions that were over, for the keeper's next look-up; gives the new state."""


class Position(NamedTuple):
    """What a follower is told: all before `offset` of this journal is written."""

    path: Path
    number: int
    offset: int


class Keeper:
    """Holds a store open for writing, and closes its folder; use it as a context manager.

    `state` is the commit of the last roll-up, `carried` the sessions that it left open. `now_ms` is the
    wall clock, `latest_ms` the latest that it may be, `clock` the running one.
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

    # --- what streams hand over --------------------------------------------------------------------

    def begin(self, header: Header, owner: object = None) -> Session:
        """The session that a header opens, or continues with other series.

        From now on it is `owner`'s. Raises StoreError if it has other labels or another interval, and
        OSError if what it gathered with its old series cannot be written.
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
        """Gather ticks as `append` does: `t_ms` (n,), `values` (n, series). How many were no duplicates."""
        if t_ms[0] <= session.last_ms or (t_ms[1:] <= t_ms[:-1]).any():
            newest = np.maximum.accumulate(np.concatenate(([session.last_ms], t_ms)))
            is_fresh = t_ms > newest[:-1]
            t_ms, values = t_ms[is_fresh], values[is_fresh]
        if not len(t_ms) or (session.end is not None and not self._resume(session)):
            return 0
        self._journals.journal.extend(session, t_ms, values)
        return len(t_ms)

    def end(self, session: Session, end: End) -> None:
        """Its producer ended it. A second end is the first one sent again, and changes nothing."""
        if not session.is_ended:
            self._end(session, end.reason, end.t_ms)

    def release(self, session: Session, owner: object = None) -> None:
        """The connection is gone; nothing happens if the session is another owner's by now."""
        if session.owner is owner:
            self.live.released(session)

    def give_up(self, session: Session, owner: object = None) -> None:
        """`release`, and no patience: its producer began another session, or its pipe ended."""
        if session.owner is owner:
            if session.end is None and session.is_stored:
                self._end(session, LOST, session.last_ms)
            self.live.released(session)

    def give_up_gone(self, *, at_once: bool = False) -> int:
        """Give up the sessions whose connection has been gone for long, or all that are `at_once`."""
        given_up = list(self.live.gone() if at_once else self.live.overdue())
        for session in given_up:
            self.give_up(session)
        return len(given_up)

    def limits(self) -> tuple[int, int]:
        """The oldest and the newest time of ticks that may be stored now."""
        now_ms = self._now_ms()
        if now_ms != self._limits_of_ms:  # in a millisecond many are stored
            self._limits = now_ms - self._span_ms, self._latest_ms() + MAX_AHEAD_MS
            self._limits_of_ms = now_ms
        return self._limits

    # --- the turn ------------------------------------------------------------------------------------

    @property
    def has_pending(self) -> bool:
        """Whether there is something to `flush`."""
        return self._journals.is_behind

    def flush(self) -> None:
        """Write what was gathered, then end the journal if it is time.

        Raises OSError: then what could not be written is gathered still, for another try. Raises
        StoreError if the folder is no longer ours: then nothing must be acknowledged any more.
        """
        if self._clock() - self._checked_at >= CHECK_EVERY_S and self.has_pending:
            self._check()
        self._journals.flush()
        self.gathered = 0

    def bound_turn(self) -> None:
        """Write in the midst of a turn if much is gathered. Raises as `flush` does."""
        if self.gathered > MAX_GATHERED:
            self.flush()

    def acknowledge(self) -> None:
        """To be called before a stream is taken for stored. Raises StoreError as `flush`."""
        assert not self.has_pending, "what is not written cannot be acknowledged"
        self._check()

    def newest_position(self) -> Position | None:
        """Where what is written ends; None if this process has written nothing."""
        journal = self._journals.newest
        return None if journal is None else Position(self.folder.layout.path, journal.number, journal.size)

    # --- journals that are over ------------------------------------------------------------------------

    @property
    def closed(self) -> tuple[ClosedJournal, ...]:
        """The journals to be rolled up, oldest first."""
        return tuple(self._journals.closed)

    def end_journal(self) -> None:
        """Write what was gathered, and let what follows go into another journal. Raises as `flush` does."""
        self.flush()
        self._journals.end_journal()

    @property
    def newest_closed(self) -> int:
        """The newest journal that is over, rolled up or not."""
        return self._journals.journal.number - 1

    def forget(self, selector: Selector) -> int:
        """After `end_journal`: nothing is stored of the sessions that are meant, once files say so too.

        Gives how many of them are connected: their next tick is new data.
        """
        return self.live.forget(
            lambda instance, labels: selector.matches({"instance": instance} | dict(labels))
        )

    def roll_up(self) -> None:
        """Roll up all closed journals, here and now. Raises as RollUp.run."""
        while (job := self.next_roll_up()) is not None:
            self.take_over(job())

    def next_roll_up(self) -> Callable[[], Any] | None:
        """What rolls up the oldest closed journal, for a thread; `take_over` gets what it returns."""
        if self._roll_up is None or not self._journals.closed:
            return None
        return partial(self._roll_up.run, self._journals.closed[0])

    def take_over(self, result: Any) -> None:
        assert self._roll_up is not None
        self.rolled_up(self._roll_up.take_over(result))

    def rolled_up(self, state: State) -> None:
        """Journals up to one are rolled up, and the sessions that were over in them remembered."""
        while self._journals.closed and self._journals.closed[0].number <= state.rolled_up:
            self._journals.closed.popleft()
        self.live.rolled_up(state.rolled_up)

    def close(self) -> None:
        """Write what was gathered, if the folder is still ours, and let go of all. Raises as `flush`."""
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
        if end.session.end == SessionEnd(end.reason, end.t_ms):  # else it was undone meanwhile
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
        """As `schema_of`, which takes time for the hash of so large a tuple: streams share a few."""
        known = self._known_series.get(id(series))
        if known is None:
            if len(self._known_series) >= _MOST_SERIES_KNOWN:
                self._known_series.clear()
            known = self._known_series[id(series)] = series, schema_of(series)
        return known[1]

    def _check(self) -> None:
        """Raise StoreError unless what we write is where a reader looks."""
        self.folder.check()
        try:
            is_linked = self._journals.journal.is_linked
        except OSError as exc:
            raise StoreError(f"{self.folder.layout.path}: {exc.strerror}", exit_code=EX_UNAVAILABLE) from exc
        if not is_linked:
            raise moved(self.folder.layout.path)
        self._checked_at = self._clock()
