"""The tail: ticks of running sessions, as they arrive.

Strategy: the store tells nobody that a tick has come, so it is looked at again and again; of each
session that is followed the ticks past those already told are taken. A session is followed from the
first look, if it is running then, until it has ended, has gone, or has fallen silent. With `new`,
those that begin later are followed too, from their first tick, and a silent one is waited for.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from rondo_tools.catalog import Series
from rondo_tools.errors import StoreError
from rondo_tools.query.curve import Times, Values, matching, rates
from rondo_tools.query.damage import Damage
from rondo_tools.query.life import RUNNING, SILENT, state
from rondo_tools.query.names import word
from rondo_tools.query.times import format_time
from rondo_tools.selector import Selector
from rondo_tools.store.reader import Rows, Session, Store

log = logging.getLogger(__name__)


class Line(NamedTuple):
    """One tick: the `values` of `series` of a session, in the header's order; NaN is "no value"."""

    session: Session
    t_ms: int
    series: tuple[Series, ...]
    values: list[float]


class _Followed:
    """One session: which of its series, and up to when it was told."""

    def __init__(self, session: Session, numbers: tuple[int, ...]) -> None:
        self.session = session
        self.numbers = list(numbers)
        self.told_ms = 0
        self.is_silent = False
        self._series = tuple(session.header.series[number] for number in numbers)
        # For a rate: the value before, of each column, and its time; none yet.
        self._before = np.full(len(numbers), np.nan)
        self._before_ms = np.zeros(len(numbers), np.int64)

    def lines(self, rows: Rows, *, rate: bool, last: int | None = None) -> list[Line]:
        """A line for each row, or for the `last` ones; the earlier ones give rates their start."""
        values = rows.values[:, self.numbers]
        if rate:
            values = self._rates(rows.t_ms, values)
        lines = []
        for t_ms, told in zip(rows.t_ms.tolist(), values.tolist(), strict=True):
            lines.append(Line(self.session, t_ms, self._series, told))
            self.told_ms = t_ms
        return lines if last is None else lines[max(len(lines) - last, 0) :]

    def _rates(self, t_ms: Times, values: Values) -> Values:
        """The rate at each row since the value before it, NaN where there is no value, or none before."""
        told = np.full(values.shape, np.nan)
        for column in range(values.shape[1]):
            there = ~np.isnan(values[:, column])
            times = np.concatenate((self._before_ms[column : column + 1], t_ms[there]))
            counts = np.concatenate((self._before[column : column + 1], values[there, column]))
            told[there, column] = rates(times, counts)
            self._before_ms[column], self._before[column] = times[-1], counts[-1]
        return told


class Tail:
    """Follows the sessions of `store` that have series which `selector` means."""

    def __init__(
        self, store: Store, selector: Selector, *, lines: int, rate: bool = False, new: bool = False
    ) -> None:
        """`lines` is how many ticks of the past each session begins with."""
        self._store = store
        self._selector = selector
        self._lines = lines
        self._rate = rate
        self._new = new
        self._seen: set[str] = set()
        self._followed: dict[str, _Followed] = {}
        self.damage = Damage(store)
        self._is_first = True

    @property
    def sessions(self) -> list[Session]:
        """Those that are followed now."""
        return [followed.session for followed in self._followed.values()]

    @property
    def is_over(self) -> bool:
        """Nothing is followed any more, and nothing will be."""
        return not self._followed and not self._new

    def look(self, now_ms: int) -> list[Line]:
        """The ticks that have come since the last look, in time order."""
        sessions = {session.key: session for session in self._store.sessions()}
        lines = [line for key in list(self._followed) for line in self._more(key, sessions.get(key), now_ms)]
        if self._is_first or self._new:
            for key, session in sessions.items():
                if key not in self._seen:
                    lines += self._begin(key, session, now_ms)
        self._is_first = False
        self._seen = set(sessions)
        return sorted(lines, key=lambda line: (line.t_ms, line.session.key))

    def _begin(self, key: str, session: Session, now_ms: int) -> Iterator[Line]:
        numbers = matching(session, self._selector)
        if not numbers or (self._is_first and session.end is not None):
            return
        followed = _Followed(session, numbers)
        rows = self._read(session, 0)
        if rows is None or (self._is_first and state(session, _age_ms(session, rows, now_ms)) != RUNNING):
            return
        self._followed[key] = followed
        # One that has begun since the last look is told from its first tick.
        yield from followed.lines(rows, rate=self._rate, last=self._lines if self._is_first else None)
        self._end_if_over(key, now_ms)

    def _more(self, key: str, session: Session | None, now_ms: int) -> Iterator[Line]:
        followed = self._followed[key]
        rows = None if session is None else self._read(session, followed.told_ms)
        if session is None or rows is None:
            del self._followed[key]
            log.info("%s: gone from the store", _name(followed.session))
            return
        followed.session = session  # as it is now: it may have ended
        yield from followed.lines(rows, rate=self._rate)
        self._end_if_over(key, now_ms)

    def _end_if_over(self, key: str, now_ms: int) -> None:
        followed = self._followed[key]
        session = followed.session
        now = state(session, now_ms - (followed.told_ms or session.start_ms))
        if session.end is not None:
            del self._followed[key]
            log.info("%s: %s at %s", _name(session), now, format_time(session.end.t_ms))
        elif now == SILENT:
            if not followed.is_silent:
                log.info(
                    "%s: silent since %s", _name(session), format_time(followed.told_ms or session.start_ms)
                )
            if not self._new:
                del self._followed[key]
        followed.is_silent = now == SILENT

    def _read(self, session: Session, after_ms: int) -> Rows | None:
        """Its ticks after that; None if it cannot be read."""
        try:
            rows = session.rows(0, after_ms)
        except StoreError as exc:
            self.damage.unread(session, exc)
            return None
        self.damage.torn(session, rows)
        return rows


def _age_ms(session: Session, rows: Rows, now_ms: int) -> int:
    return now_ms - (int(rows.t_ms[-1]) if rows.t_ms.size else session.start_ms)


def _name(session: Session) -> str:
    return word(session.instance)
