"""The tail: ticks of running sessions, as they arrive.

Strategy: the store notifies no reader of a new tick, so the tail looks at it repeatedly, and each look gets
the news since the one before. A session that runs at the first look is followed until it has ended or is
silent; if it comes back while others are followed, it continues. With `new`, sessions that begin later are
followed too, from their first tick, and the tail waits for silent ones.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from rondo_tools.catalog import Series
from rondo_tools.errors import StoreError
from rondo_tools.query.curve import Times, Values, matching
from rondo_tools.query.damage import Damage
from rondo_tools.query.face import UTC, Face
from rondo_tools.query.life import state
from rondo_tools.query.names import word
from rondo_tools.selector import Selector, matching_series, rest_of
from rondo_tools.store.format.records import LOST, SessionKey, SessionRecord
from rondo_tools.store.reader import Arrival, Ending, Part, Session, Store
from rondo_tools.view.rates import rates
from rondo_tools.view.state import RUNNING, SILENT, running_or_silent

log = logging.getLogger(__name__)


class Life(NamedTuple):
    """The session of a line."""

    instance: str
    start_ms: int
    interval_ms: int
    labels: tuple[tuple[str, str], ...]

    @property
    def key(self) -> SessionKey:
        return self.instance, self.start_ms


class Line(NamedTuple):
    """One tick: the `values` of `series` of a session, in the header's order; NaN is "no value"."""

    session: Life
    t_ms: int
    series: tuple[Series, ...]
    values: list[float]


class _Followed:
    """A followed session: its selected series, its last shown tick, and its counters at that tick."""

    def __init__(self, life: Life, selector: Selector) -> None:
        """`selector` matches names and labels of series."""
        self.life = life
        self.shown_ms = 0
        self.is_silent = False
        self.is_over = False
        self._selector = selector
        self._before: dict[Series, tuple[int, float]] = {}  # the time and last value of each series

    def lines(self, series: tuple[Series, ...], t_ms: Times, values: Values, *, rate: bool) -> list[Line]:
        """A line for each tick after the last shown one; none if no series matches."""
        late = t_ms > self.shown_ms
        numbers = matching_series(series, self._selector)
        t_ms, values = t_ms[late], values[late][:, list(numbers)]
        if not t_ms.size:
            return []
        self.shown_ms = int(t_ms[-1])
        if not numbers:
            return []
        series = tuple(series[number] for number in numbers)
        if rate:
            values = self._rates(series, t_ms, values)
        return [
            Line(self.life, each_ms, series, each)
            for each_ms, each in zip(t_ms.tolist(), values.tolist(), strict=True)
        ]

    def _rates(self, series: tuple[Series, ...], t_ms: Times, values: Values) -> Values:
        """The rate at each tick since the previous value, NaN without a value or a previous one."""
        found = np.full(values.shape, np.nan)
        for column, one in enumerate(series):
            there = ~np.isnan(values[:, column])
            before_ms, before = self._before.get(one, (0, np.nan))
            times = np.concatenate(([before_ms], t_ms[there]))
            counts = np.concatenate(([before], values[there, column]))
            found[there, column] = rates(times, counts)
            self._before[one] = int(times[-1]), float(counts[-1])
        return found


class Tail:
    """Follows the sessions of `store` with series that match `selector`."""

    def __init__(
        self,
        store: Store,
        selector: Selector,
        *,
        lines: int,
        rate: bool = False,
        new: bool = False,
        face: Face = UTC,
    ) -> None:
        """Each session begins with `lines` past ticks; `face` is the format of times in the log."""
        self._store = store
        self._selector = selector
        self._lines = lines
        self._rate = rate
        self._new = new
        self._face = face
        self._followed: dict[SessionKey, _Followed] = {}
        self.damage = Damage(store)
        self._is_first = True

    @property
    def sessions(self) -> list[Life]:
        """The sessions that are followed now."""
        return [followed.life for followed in self._followed.values() if not followed.is_over]

    @property
    def is_over(self) -> bool:
        """Whether no session is or will be followed."""
        return not self._new and not self.sessions

    def look(self, now_ms: int) -> list[Line]:
        """The ticks since the last look, in time order."""
        if self._is_first:
            self._is_first = False
            lines = [line for session in self._store.recent() for line in self._begin(session, now_ms)]
        else:
            ticks, ends = self._store.arrivals()
            lines = [line for arrival in ticks for line in self._more(arrival)]
            for ending in ends:
                self._end(ending)
        self._note_silent(now_ms)
        return sorted(lines, key=lambda line: (line.t_ms, line.session.key))

    def _begin(self, session: Session, now_ms: int) -> list[Line]:
        """Follow a session of the first look if it is running."""
        if state(session, now_ms - (session.last_ms or session.start_ms)) != RUNNING:
            return []
        if not matching(session, self._selector):
            return []
        return self._last_lines(session)

    def last(self, sessions: Iterable[Session]) -> list[Line]:
        """The last ticks of each instance's newest session, running or ended, in time order."""
        newest: dict[str, Session] = {}
        for session in sessions:
            if session.instance not in newest or session.start_ms > newest[session.instance].start_ms:
                newest[session.instance] = session
        lines = [line for session in newest.values() for line in self._last_lines(session)]
        return sorted(lines, key=lambda line: (line.t_ms, line.session.key))

    def _last_lines(self, session: Session) -> list[Line]:
        """Follow a session, and return its last ticks."""
        followed = self._follow(session)
        if followed is None:
            return []
        found: list[Line] = []
        try:
            for run in self._past(session):
                found += followed.lines(run.schema.series, run.t_ms, run.values, rate=self._rate)
        except StoreError as exc:
            self.damage.unread(session, exc)
        followed.shown_ms = session.last_ms
        return found[max(len(found) - self._lines, 0) :]

    def _past(self, session: Session) -> list[Part]:
        """The last ticks of a session, at least one more than are shown, if there are as many."""
        wanted = self._lines + 1
        runs = list(session.runs(session.last_ms - (wanted + 1) * session.interval_ms))
        is_enough = sum(run.t_ms.size for run in runs) >= min(wanted, session.ticks)
        return runs if is_enough else list(session.runs())

    def _more(self, arrival: Arrival) -> list[Line]:
        one, series = arrival.session, arrival.series
        followed = self._followed.get(one.key)
        if followed is None and self._new:
            # A session that began since the last look is shown from its first tick.
            rest = rest_of(self._selector, one.instance, one.labels)
            if rest is not None and matching_series(series, rest):
                followed = self._follow(one)
        if followed is None:
            return []
        before_ms = followed.shown_ms
        lines = followed.lines(series, arrival.t_ms, arrival.values, rate=self._rate)
        if followed.shown_ms > before_ms:
            followed.is_over = False  # it was lost or silent, and has come back
        return lines

    def _follow(self, one: Session | SessionRecord) -> _Followed | None:
        rest = rest_of(self._selector, one.instance, one.labels)
        if rest is None:
            return None
        life = Life(one.instance, one.start_ms, one.interval_ms, one.labels)
        followed = self._followed[life.key] = _Followed(life, rest)
        return followed

    def _end(self, ending: Ending) -> None:
        key, end = ending.session.key, ending.end
        followed = self._followed.get(key)
        if followed is None or followed.shown_ms > ending.last_ms:  # a later tick has undone the end
            return
        log.info("%s: %s at %s", _name(followed), end.reason, self._face.time(end.t_ms))
        if end.reason == LOST and not self._new:
            followed.is_over = True
        else:
            del self._followed[key]

    def _note_silent(self, now_ms: int) -> None:
        for followed in self._followed.values():
            if followed.is_over:
                continue
            now = running_or_silent(followed.life.interval_ms, now_ms - followed.shown_ms)
            if now == SILENT and not followed.is_silent:
                log.info("%s: silent since %s", _name(followed), self._face.time(followed.shown_ms))
            followed.is_silent = now == SILENT
            followed.is_over = now == SILENT and not self._new


def _name(followed: _Followed) -> str:
    return word(followed.life.instance)
