"""The live sessions, and those whose end is not rolled up yet.

Strategy: a session is (instance, start). It is here from its header until the journal with its end is rolled
up. From then on it is remembered, and looked up in an index when a stream names it again. The newest tick of
an instance's ended sessions is kept apart, so no operation here takes longer with more sessions.

A session whose connection is gone is given up after a while: its end is `lost`, until a later tick undoes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from rondo_tools.store.format.records import LOST, Description, Labels, SessionKey
from rondo_tools.store.format.schema import Schema

GIVE_UP_S = 30.0
GIVE_UP_INTERVALS = 10


class Remembered(Protocol):
    """The sessions whose end is rolled up."""

    def find(self, instance: str, start_ms: int) -> Description | None:
        """The description of a session, or None if it is not known."""

    def newest_ms(self, instance: str) -> int:
        """The newest tick of all sessions of an instance; 0 for none."""


class LeftOpen(Protocol):
    """A session as an earlier process left it: a SessionRecord, or one in the carry."""

    @property
    def instance(self) -> str: ...
    @property
    def start_ms(self) -> int: ...
    @property
    def interval_ms(self) -> int: ...
    @property
    def labels(self) -> Labels: ...
    @property
    def last_ms(self) -> int: ...


class Carried(LeftOpen, Protocol):
    """A session in the carry."""

    @property
    def schema(self) -> Schema:
        """The schema of its last tick."""


class SessionEnd(NamedTuple):
    """The end of a session: from its producer, or `lost`."""

    reason: str
    t_ms: int


class Session:
    """One life of an instance.

    `last_ms` is its newest tick, `written_ms` the newest one before the `turn` of its last ticks (see
    `Journal.turn`). `journal` declared it last, under `number`. `owner` is the stream that it belongs to, the
    newer one of two. `is_stored`: journals or the carry have data of it that is not remembered yet.
    """

    __slots__ = (
        "end", "end_journal", "gone_since", "instance", "interval_ms", "is_stored", "journal", "labels",
        "last_ms", "number", "owner", "schema", "start_ms", "turn", "written_ms",
    )  # fmt: skip

    def __init__(self, instance: str, start_ms: int, interval_ms: int, labels: Labels) -> None:
        self.instance = instance
        self.start_ms = start_ms
        self.interval_ms = interval_ms
        self.labels = labels
        self.schema: Schema | None = None
        self.last_ms = 0
        self.written_ms = 0
        self.turn: object = None
        self.journal: object = None
        self.number = 0
        self.end: SessionEnd | None = None
        self.end_journal = 0
        self.owner: object = None
        self.gone_since: float | None = None
        self.is_stored = False

    @property
    def key(self) -> SessionKey:
        return self.instance, self.start_ms

    @property
    def width(self) -> int:
        """The number of values of a tick."""
        return 0 if self.schema is None else self.schema.width

    @property
    def is_ended(self) -> bool:
        """Whether its producer ended it: no tick can follow."""
        return self.end is not None and self.end.reason != LOST


class _Instance:
    """The sessions of one instance: `here` is their number, `without_end` those that have no end.

    `newest_ms` is the newest tick of all others, that of the session which began at `newest_start_ms` if that
    is known; `other_ms` is the newest tick without that session.
    """

    __slots__ = ("here", "newest_ms", "newest_start_ms", "other_ms", "without_end")

    def __init__(self, newest_ms: int) -> None:
        self.here = 0
        self.newest_ms = newest_ms
        self.newest_start_ms = 0
        self.other_ms = newest_ms
        self.without_end: list[Session] = []

    def ended(self, session: Session) -> None:
        if session in self.without_end:
            self.without_end.remove(session)
        if session.start_ms == self.newest_start_ms:
            self.newest_ms = max(self.newest_ms, session.last_ms)
        elif session.last_ms >= self.newest_ms:
            self.other_ms = self.newest_ms
            self.newest_ms, self.newest_start_ms = session.last_ms, session.start_ms
        else:
            self.other_ms = max(self.other_ms, session.last_ms)

    def before_ms(self, session: Session) -> int:
        known = self.other_ms if session.start_ms == self.newest_start_ms else self.newest_ms
        for one in self.without_end:
            if one is not session:
                known = max(known, one.last_ms)
        return known


class Live:
    """`clock` is the monotonic one, in seconds."""

    def __init__(self, remembered: Remembered, clock: Callable[[], float]) -> None:
        self._remembered = remembered
        self._clock = clock
        self._rolled_up = 0
        self._sessions: dict[SessionKey, Session] = {}
        self._instances: dict[str, _Instance] = {}
        self._gone: dict[Session, None] = {}  # without an end and an owner, a set that keeps its order
        self._ended_in: dict[int, list[Session]] = {}  # by the journal with the end

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions.values())

    def open(self, instance: str, start_ms: int, interval_ms: int, labels: Labels) -> Session:
        """The session that a header names: a live one, a remembered one, or a new one."""
        session = self._sessions.get((instance, start_ms))
        if session is None:
            known = self._remembered.find(instance, start_ms)
            if known is None:
                session = Session(instance, start_ms, interval_ms, labels)
            else:
                session = Session(instance, start_ms, known.interval_ms, known.labels)
                session.last_ms = known.last_ms
                session.end = SessionEnd(known.reason, known.end_ms)
            self._add(session)
        return session

    def recover(self, record: LeftOpen) -> Session:
        """A session of an earlier process: in the carry, or in a journal that is not rolled up."""
        session = self.open(record.instance, record.start_ms, record.interval_ms, record.labels)
        session.last_ms = max(session.last_ms, record.last_ms)
        session.is_stored = True
        if session.end is None:
            self._is_gone(session)
        return session

    def before_ms(self, session: Session) -> int:
        """The newest tick of any other session of its instance."""
        return self._instances[session.instance].before_ms(session)

    def owned(self, session: Session, owner: object) -> None:
        """The session belongs to a connection from now on."""
        session.owner = owner
        session.gone_since = None
        self._gone.pop(session, None)

    def released(self, session: Session) -> None:
        """The session no longer belongs to a connection."""
        session.owner = None
        if self._is_over(session):
            self._forget(session)
        elif session.end is None:
            self._is_gone(session)

    def resumed(self, session: Session) -> None:
        """A tick came after the session was given up."""
        session.end = None
        session.end_journal = 0
        instance = self._instances[session.instance]
        if session not in instance.without_end:
            instance.without_end.append(session)
        if session.owner is None:
            self._is_gone(session)

    def ended(self, session: Session, journal: int) -> None:
        """The end of the session is written in this journal."""
        self._gone.pop(session, None)
        session.end_journal = journal
        self._ended_in.setdefault(journal, []).append(session)
        self._instances[session.instance].ended(session)

    def rolled_up(self, journal: int) -> None:
        """Journals up to this one are rolled up, and the sessions that ended in them remembered."""
        self._rolled_up = journal
        for number in [number for number in self._ended_in if number <= journal]:
            for session in self._ended_in.pop(number):
                if session.owner is None and self._is_over(session) and session.key in self._sessions:
                    self._forget(session)

    def forget(self, is_meant: Callable[[str, Labels], bool]) -> int:
        """The selected sessions are no longer stored; gives how many of them a stream may continue.

        These keep their last tick, and so do sessions without a connection until they are given up: resent
        ticks are not new.
        """
        connected = 0
        meant = [one for one in self._sessions.values() if is_meant(one.instance, one.labels)]
        for session in meant:
            session.is_stored = False
            connected += session.owner is not None and not session.is_ended
        for ended in self._ended_in.values():
            ended[:] = [session for session in ended if session.is_stored]
        for session in meant:
            if session.owner is None and session.end is not None:
                self._forget(session)
        return connected

    def overdue(self) -> Iterable[Session]:
        """The sessions whose connection has been gone for too long."""
        now = self._clock()
        return [
            session
            for session in self._gone
            if session.gone_since is not None
            and now - session.gone_since >= max(GIVE_UP_S, GIVE_UP_INTERVALS * session.interval_ms / 1000)
        ]

    def gone(self) -> Iterable[Session]:
        """All sessions that have neither an end nor a connection."""
        return list(self._gone)

    def _add(self, session: Session) -> None:
        self._sessions[session.key] = session
        instance = self._instances.get(session.instance)
        if instance is None:
            newest_ms = self._remembered.newest_ms(session.instance)
            instance = self._instances[session.instance] = _Instance(newest_ms)
        instance.here += 1
        if session.end is None:
            instance.without_end.append(session)

    def _is_gone(self, session: Session) -> None:
        session.gone_since = self._clock()
        self._gone[session] = None

    def _is_over(self, session: Session) -> bool:
        """Whether it is remembered, or nothing of it is stored."""
        if not session.is_stored:
            return True
        return session.end is not None and 0 < session.end_journal <= self._rolled_up

    def _forget(self, session: Session) -> None:
        del self._sessions[session.key]
        self._gone.pop(session, None)
        instance = self._instances[session.instance]
        instance.here -= 1
        if session in instance.without_end:
            instance.without_end.remove(session)
        if not instance.here:
            del self._instances[session.instance]
