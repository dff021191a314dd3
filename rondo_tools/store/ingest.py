"""One stream into the store: bytes in, ticks stored, what is closed told.

Strategy: decode a piece, then store what it held, event by event. What could not be stored (a full
disk) waits here, bounded by the piece, until `store` is called again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from rondo_tools.clock import LatestTime
from rondo_tools.errors import StreamError
from rondo_tools.store.block import Block, BlockDecoder
from rondo_tools.store.turn import Turn
from rondo_tools.store.writer import SessionWriter, StoreWriter
from rondo_tools.stream import End, Event, Header, Tick

log = logging.getLogger(__name__)

# A tick further ahead of the latest that the time may be is a clock gone wrong: stored, it would make
# every true tick after it look late.
MAX_AHEAD_MS = 600_000
_WINDOWS_IN_TURN = 8  # that are closed, and so rolled up, before others have their turn


@dataclass(slots=True)
class Counts:
    """What became of what was read, since the start; of several streams together, if they share it."""

    sessions: int = 0  # opened, or gone on with
    stored: int = 0  # ticks, as the three below
    samples: int = 0  # the values in them
    late: int = 0  # not past the last one of their session: passed over
    ahead: int = 0  # too far ahead of our clock: refused, and the producer is told


class Ingest:
    """Feeds one stream into a store.

    `closed` maps the folder of each session to the time up to which it is closed, for those that
    moved; whoever tells the world empties it. Streams may share it, the counts, and the clock
    `now_ms`. With a `turn`, each call does a bounded amount of work, and `is_pending` says that there
    is more.
    """

    __slots__ = (
        "_ahead", "_decoded", "_decoder", "_error", "_limit_ms", "_now_ms", "_session", "_store", "_turn",
        "_warn", "closed", "counts",
    )  # fmt: skip

    def __init__(
        self,
        store: StoreWriter,
        now_ms: Callable[[], int] | None = None,
        counts: Counts | None = None,
        closed: dict[str, int] | None = None,
        turn: Turn | None = None,
        warn: Callable[[str], None] = log.warning,
    ) -> None:
        self.closed = {} if closed is None else closed
        self.counts = Counts() if counts is None else counts
        self._store = store
        self._turn = turn
        self._warn: Callable[[str], None] | None = warn  # until it has been used
        self._now_ms = now_ms or LatestTime()
        self._limit_ms = 0  # a tick up to here is not ahead; looked up again for one that is past it
        self._ahead = 0
        self._decoder = BlockDecoder()
        self._decoded: list[Event | Block] = []
        self._error: StreamError | None = None
        self._session: SessionWriter | None = None

    @property
    def session(self) -> SessionWriter | None:
        """The session that is open now."""
        return self._session

    @property
    def is_waiting(self) -> bool:
        """Whether the stream owes us something: its first header, or the rest of a message."""
        return self._session is None or self._decoder.is_inside_message

    @property
    def refused(self) -> dict[str, int]:
        """How many ticks of this stream were refused, by reason: to be given up by the producer."""
        return {"ahead": self._ahead} if self._ahead else {}

    def is_moving(self, size: int) -> bool:
        """Whether the last `size` bytes brought something whole, into a session."""
        return self._session is not None and self._decoder.bytes_inside_message < size

    def feed(self, data: bytes) -> None:
        """Decode and store. Raises StreamError only after all that came before the error is stored.

        Raises StoreError for a session that cannot be stored; and OSError, after which `store` may
        be called to try again.
        """
        try:
            for event in self._decoder.feed(data):
                self._decoded.append(event)  # what came before an error counts
        except StreamError as exc:
            self._error = exc
        self.store()

    @property
    def is_pending(self) -> bool:
        """Whether there is more to `store`."""
        return bool(self._decoded)

    def store(self) -> None:
        """Store what has been decoded. Not for a session that is replaced.

        With a turn, it leaves to the next call what would cost as much as thousands of ticks.
        """
        has_opened = False
        while self._decoded:
            match self._decoded[0]:
                case Tick() as tick:
                    self._store_tick(tick)
                case Block() as block:
                    if not self._store_block(block):
                        return
                case Header() as header:
                    if (has_opened and self._turn is not None) or not self._has_time():
                        return
                    has_opened = True
                    self._close_slots()
                    self.close()
                    self._session = self._store.open(header)
                    self.counts.sessions += 1
                case End() as end:
                    if not self._has_time():
                        return
                    assert self._session is not None  # the decoder lets no end through without a header
                    self._session.finish(end)
                    self._store.wrote(self._session)
                    if self._session.ring.last_ms:
                        self.closed[self._session.folder] = self._session.ring.last_ms
            del self._decoded[0]
        if self._error is not None:
            raise self._error

    def _has_time(self) -> bool:
        return self._turn is None or self._turn.has_time()

    def catch_up(self) -> None:
        """Roll up what is owed: for a stream that is alone."""
        self._store.catch_up(math.inf)

    def end_of_input(self) -> None:
        """No more will come: what is stored is closed. Raises StreamError inside a message."""
        self._close_slots()
        self._decoder.close()

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _close_slots(self) -> None:
        """No more will come for the session: its last slot is closed too."""
        if self._session is not None and self._session.ring.last_ms > self._session.ring.closed_through_ms:
            self.closed[self._session.folder] = self._session.ring.last_ms

    def _tell(self, session: SessionWriter, before_ms: int) -> None:
        """Note what is closed, if it was not at `before_ms`."""
        if session.ring.closed_through_ms != before_ms:
            self.closed[session.folder] = session.ring.closed_through_ms

    def _store_tick(self, tick: Tick) -> None:
        session = self._session
        assert session is not None  # nor a tick
        if self._is_ahead(tick.t_ms) and tick.t_ms > session.ring.last_ms:
            self._refuse(1)
        elif session.end is not None:  # a stream that is sent again
            self.counts.late += 1
        else:
            before_ms = session.ring.closed_through_ms
            late = session.ring.append((tick,))
            self._count(session, 1 - late, late)
            self._tell(session, before_ms)

    def _store_block(self, block: Block) -> bool:
        """Whether all of it is stored."""
        session = self._session
        assert session is not None
        # What is not past the last one is stored already, whatever the clock says now.
        wanted = block
        if self._is_ahead(int(block.t_ms.max(initial=0))):
            wanted = block.only(block.t_ms <= max(session.ring.last_ms, self._limit_ms))
            self._refuse(len(block) - len(wanted))
        if session.end is not None:
            self.counts.late += len(wanted)
            return True
        fresh = wanted.past(session.ring.last_ms)
        late = len(wanted) - len(fresh)
        before_ms = session.ring.closed_through_ms
        try:
            session.ring.extend(fresh, _WINDOWS_IN_TURN if self._turn else None)
        finally:
            self._decoded[0] = rest = fresh.past(session.ring.last_ms)
            self._count(session, len(fresh) - len(rest), late)
            self._tell(session, before_ms)
        return not len(rest)

    def _is_ahead(self, t_ms: int) -> bool:
        if t_ms > self._limit_ms:
            self._limit_ms = self._now_ms() + MAX_AHEAD_MS
        return t_ms > self._limit_ms

    def _refuse(self, count: int) -> None:
        if not count:
            return
        self.counts.ahead += count
        self._ahead += count
        if self._warn is not None and self._session is not None:
            self._warn(f"{self._session.folder}: a tick over 10 min ahead of this clock, refused")
            self._warn = None

    def _count(self, session: SessionWriter, stored: int, late: int) -> None:
        self.counts.stored += stored
        self.counts.samples += stored * len(session.header.series)
        self.counts.late += late
        self._store.wrote(session)
