"""The intake of one stream: takes bytes, gathers ticks and ends for the turn's write.

Strategy: decode a piece, then hand its events to the keeper, one by one. Only a session that continues with
other series may have to wait for the disk: then the rest of the piece waits here until the next `store`.
Events are stored when the keeper has flushed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from rondo_tools import foreign
from rondo_tools.errors import StreamError
from rondo_tools.store.block import Block, BlockDecoder
from rondo_tools.store.keeper import MAX_AHEAD_MS, Keeper
from rondo_tools.store.live import Session
from rondo_tools.stream import End, Event, Header, Tick

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Counts:
    """The results of ticks and sessions since the start, of one stream or of several that share it."""

    sessions: int = 0  # begun, or continued
    stored: int = 0  # ticks
    samples: int = 0  # the values in them
    late: int = 0  # duplicates: not later than the last tick of their session, or after its end
    ahead: int = 0  # refused: too far ahead of the clock
    expired: int = 0  # refused: older than the last tier remembers


class Intake:
    """Feeds one stream into a keeper. Streams may share the counts.

    `refused_ahead` and `refused_expired` are this stream's own.
    """

    __slots__ = (
        "_decoded", "_decoder", "_error", "_keeper", "_session", "_warn", "counts", "refused_ahead",
        "refused_expired",
    )  # fmt: skip

    def __init__(
        self, keeper: Keeper, counts: Counts | None = None, warn: Callable[[str], None] = log.warning
    ) -> None:
        self.counts = Counts() if counts is None else counts
        self.refused_ahead = 0
        self.refused_expired = 0
        self._keeper = keeper
        self._warn: Callable[[str], None] | None = warn  # until it has been used
        self._decoder = BlockDecoder()
        self._decoded: list[Event | Block] = []
        self._error: StreamError | None = None
        self._session: Session | None = None

    @property
    def session(self) -> Session | None:
        """The current session."""
        return self._session

    @property
    def is_replaced(self) -> bool:
        """Whether the session continues on a newer connection."""
        return self._session is not None and self._session.owner is not self

    @property
    def is_waiting(self) -> bool:
        """Whether we wait for the stream's first header, or the rest of a message."""
        return self._session is None or self._decoder.is_inside_message

    @property
    def is_pending(self) -> bool:
        """Whether there is more to `store`."""
        return bool(self._decoded)

    @property
    def refused(self) -> dict[str, int]:
        """The number of refused ticks of this stream, by reason: its producer drops them."""
        found = {"ahead": self.refused_ahead, "expired": self.refused_expired}
        return {reason: count for reason, count in found.items() if count}

    def is_moving(self, size: int) -> bool:
        """Whether the last `size` bytes completed a message of a session."""
        return self._session is not None and self._decoder.bytes_inside_message < size

    def feed(self, data: bytes) -> None:
        """Decode, and hand the events to the keeper. Raises StreamError after the events before the error.

        Raises StoreError for a session that cannot be stored, and OSError; then call `store` to try again.
        """
        is_first = not self._decoder.bytes_inside_message
        try:
            for event in self._decoder.feed(data):
                self._decoded.append(event)  # one by one: events before an error are stored
        except StreamError as exc:
            what = foreign.no_stream(data) if is_first and not exc.offset else ""
            self._error = StreamError(what, offset=0) if what else exc
        self._keeper.gathered += len(data)
        self.store()

    def store(self) -> None:
        """Hand the decoded events to the keeper. Not for a replaced session."""
        keeper, session, done = self._keeper, self._session, 0
        oldest_ms, newest_ms = keeper.limits()
        keeper.bound_turn()
        try:
            for event in self._decoded:
                if type(event) is Tick:
                    assert session is not None  # the decoder yields no tick before a header
                    t_ms, values = event
                    if oldest_ms <= t_ms <= newest_ms or t_ms <= session.last_ms:
                        self._count(session, keeper.append(session, t_ms, values), 1)
                    else:
                        self._refuse(session, int(t_ms > newest_ms), 1)
                elif type(event) is Block:
                    assert session is not None
                    self._store_block(session, event, oldest_ms, newest_ms)
                elif type(event) is Header:
                    session = self._begin(event)
                elif type(event) is End:
                    assert session is not None  # nor an end
                    keeper.end(session, event)
                done += 1
        finally:
            del self._decoded[:done]
        if self._error is not None:
            raise self._error

    def end_of_input(self) -> None:
        """The stream has ended. Raises StreamError inside a message."""
        self._decoder.close()

    def close(self, *, give_up: bool = False) -> None:
        """Release the session; `give_up` ends it as lost at once, as for a pipe that ended."""
        session, self._session = self._session, None
        if session is not None:
            (self._keeper.give_up if give_up else self._keeper.release)(session, self)

    def _begin(self, header: Header) -> Session:
        before = self._session
        session = self._keeper.begin(header, self)
        if before is not None and before is not session:
            self._keeper.give_up(before, self)
        self._session = session
        continues = session is before and not session.is_ended  # with other series
        self.counts.sessions += not continues
        return session

    def _store_block(self, session: Session, block: Block, oldest_ms: int, newest_ms: int) -> None:
        t_ms, values = block.t_ms, block.values
        if t_ms.min() < oldest_ms or t_ms.max() > newest_ms:
            is_known = t_ms <= session.last_ms  # stored already, so never refused
            is_ahead = (t_ms > newest_ms) & ~is_known
            is_refused = is_ahead | (t_ms < oldest_ms) & ~is_known
            self._refuse(session, int(is_ahead.sum()), int(is_refused.sum()))
            t_ms, values = t_ms[~is_refused], values[~is_refused]
        if len(t_ms):
            self._count(session, self._keeper.extend(session, t_ms, values), len(t_ms))

    def _count(self, session: Session, stored: int, of: int) -> None:
        counts = self.counts
        counts.stored += stored
        counts.samples += stored * session.width
        counts.late += of - stored

    def _refuse(self, session: Session, ahead: int, of: int) -> None:
        """Count `of` refused ticks: `ahead` of them are ahead of the clock, the others expired."""
        self.refused_ahead += ahead
        self.refused_expired += of - ahead
        self.counts.ahead += ahead
        self.counts.expired += of - ahead
        if of and self._warn is not None:
            minutes = MAX_AHEAD_MS // 60_000
            why = f"over {minutes} min ahead of this clock" if ahead else "older than the last tier remembers"
            self._warn(f"{session.instance}: a tick {why}, refused")
            self._warn = None
