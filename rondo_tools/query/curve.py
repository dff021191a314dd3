"""A curve: the values of one series of one session over a span of time.

Strategy: first find the matching series, which reads only headers, so that an invalid question fails
before anything is printed. Then read the sessions one after another, so that memory holds the rows of one,
and yield its curves. A session that expires meanwhile is passed over; a damaged one does not prevent
reading the others.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rondo_tools.catalog import COUNTER, Series
from rondo_tools.errors import RondoError, StoreError, UsageError
from rondo_tools.query import evicted
from rondo_tools.query.damage import EX_NOTHING, Damage
from rondo_tools.query.face import UTC, Face
from rondo_tools.query.names import counted, full_name, word
from rondo_tools.query.times import Span
from rondo_tools.selector import NAME, Selector, labels_of, matching_series, rest_of
from rondo_tools.store.format.records import SessionKey
from rondo_tools.store.reader import Rows, Session, Store, Tier
from rondo_tools.units import format_duration
from rondo_tools.view.rates import rates

LAST = "last"  # the aggregate of every column of tier 0, and of counters in the other tiers

Times = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]

log = logging.getLogger(__name__)


class Question(NamedTuple):
    """The question about each matching series."""

    span: Span = Span(None, None)
    tier: int | None = 0  # None: the finest that reaches back to the start of the span, or of the session
    aggregate: str = "avg"  # of a gauge's window in a coarse tier: avg, min, max; last: only for counters
    rate: bool = False
    since_birth: bool = False  # times since each session began
    face: Face = UTC  # of times in the log


class Match(NamedTuple):
    """The series of a session that match a selector, by their index in its header."""

    session: Session
    series: tuple[int, ...]


class Curve(NamedTuple):
    """`t_ms`, (n,) ascending, and `values`, (n,); NaN is "no value". Points are usually `step_ms` apart.

    A curve combined from several series has no `session`, and its `series` has all of its labels.
    """

    session: Session | None
    series: Series
    step_ms: int
    t_ms: Times  # since the session began, with --since-birth
    values: Values
    start_ms: int | None  # the start of its session

    @property
    def name(self) -> str:
        """The series in Prometheus' spelling, with the labels of its session."""
        return str(self.series) if self.session is None else full_name(self.session.header, self.series)

    @property
    def labels(self) -> dict[str, str]:
        """The labels of the series and its session, without the name."""
        if self.session is None:
            return dict(self.series.labels)
        labels = labels_of(self.session.header, self.series)
        del labels[NAME]
        return labels


def matching(session: Session, selector: Selector) -> tuple[int, ...]:
    """The matching series of a session, by their index in its header."""
    rest = rest_of(selector, session.instance, session.labels)
    return () if rest is None else matching_series(session.header.series, rest)


def find_in(sessions: Sequence[Session], selector: Selector) -> list[Match]:
    """The sessions and series that match."""
    return [Match(session, numbers) for session in sessions if (numbers := matching(session, selector))]


def check(question: Question, matches: Sequence[Match], tiers: tuple[Tier, ...]) -> None:
    """Raises UsageError for a missing tier, and for an aggregate or rate that gauges do not have."""
    if question.tier is not None and not 0 <= question.tier < len(tiers):
        known = ", ".join(f"{number} ({tier})" for number, tier in enumerate(tiers))
        raise UsageError(f"--tier {question.tier}: the tiers of this store are {known}")
    only = "--rate is for counters" if question.rate else ""
    if question.aggregate == LAST and question.tier != 0:
        only = (
            "--aggregate last is for counters (for a gauge, tiers above 0 have avg, min and max; "
            "--tier 0 has every value)"
        )
    if only:
        for session, numbers in matches:
            for number in numbers:
                series = session.header.series[number]
                if series.kind != COUNTER:
                    name = word(full_name(session.header, series))
                    raise UsageError(
                        f"{only}, and {name} is a {series.kind}: "
                        'select by name, such as {__name__=~".+_total"}'
                    )


class CurveReader:
    """Reads the answers to `question` from a store, and reports damage to `damage`."""

    def __init__(self, question: Question, store: Store, damage: Damage) -> None:
        self.question = question
        self.tiers = store.tiers
        self._store = store
        self._damage = damage
        self._tiers_read: set[int] = set()
        self._coarse: set[int] = set()  # coarse tiers that were logged
        # By tier and session: the first time kept.
        self._cut_short: dict[int, dict[SessionKey, int | None]] = {}

    def read(self, match: Match) -> Iterator[Curve]:
        """The curves with a point in the span, in the header's order; none if the session is damaged."""
        found = self.find(match)
        if found is not None:
            for curve in self.cut(match, found):
                shown = _rate(curve) if self.question.rate else curve
                if shown.t_ms.size:
                    yield shown

    def find(self, match: Match, tier: int | None = None) -> Found | None:
        """The rows of a match in the span, from `tier` or the question's tier; None if they cannot be read.
        Notes what is left out."""
        session, question = match.session, self.question
        try:
            found = _read(session, question, self.tiers, question.tier if tier is None else tier)
        except StoreError as exc:
            self._damage.unread(session, exc)
            return None
        tier = found.tier
        self._tiers_read.add(tier)
        if not found.is_whole:
            self._cut_short.setdefault(tier, {})[session.key] = found.begins_ms
        if tier and question.tier is None and found.rows.t_ms.size and tier not in self._coarse:
            # So that values of a coarse tier are not taken for ticks.
            self._coarse.add(tier)
            log.info(
                "tier %d (%s): a row every %s, gauges as %s; finer rows do not reach back so far "
                "(a shorter --range, or --tier, shows the finer rows that are kept)",
                tier,
                self.tiers[tier],
                format_duration(self.tiers[tier].interval_ms),
                question.aggregate,
            )
        return found

    def cut(self, match: Match, found: Found) -> Iterator[Curve]:
        """The curves of `found`, in the header's order, without rates."""
        session, (tier, rows, *_) = match.session, found
        place = {
            column.series: at
            for at, column in enumerate(session.columns(tier))
            if column.aggregate in (LAST, self.question.aggregate)
        }
        step_ms = max(self.tiers[tier].interval_ms if tier else 1, session.interval_ms)
        t_ms = rows.t_ms - session.start_ms if self.question.since_birth else rows.t_ms
        for number in match.series if t_ms.size else ():
            series = session.header.series[number]
            yield Curve(session, series, step_ms, t_ms, rows.values[:, place[number]], session.start_ms)

    def curves(self, matches: Sequence[Match]) -> Iterator[Curve]:
        """The curves of all `matches`, by session."""
        for match in matches:
            yield from self.read(match)

    def finish(self, matches: Sequence[Match], *, found: bool) -> None:
        """Log what was left out. Raises StoreError for damage, else RondoError if nothing was `found`."""
        for tier, begins in sorted(self._cut_short.items()):
            known = [t_ms for t_ms in begins.values() if t_ms is not None]
            what = f"nothing older than {self.question.face.time(min(known))}" if known else "nothing of it"
            if self.question.tier is None:
                why = f"{what} is kept"
            else:
                why = f"tier {tier} ({self.tiers[tier]}) has {what}; --tier auto reaches back furthest"
            log.info("the beginning of %s is left out: %s", counted(len(begins), "session"), why)
        evicted.warn(self._store, self.question.span, self._tiers_read, self.question.face)
        self._damage.finish()
        if not found:
            raise nothing(matches, self.question)


def with_labels(matches: Sequence[Match], labels: Sequence[tuple[str, str]]) -> list[Match]:
    """`matches` with labels added to those of their sessions. Raises UsageError if that is not possible."""
    labelled = []
    for session, numbers in matches:
        known = dict(session.labels)
        if taken := known.keys() & dict(labels).keys():
            raise UsageError(
                f"--label: {session.instance}/{session.start_ms} has a label {min(taken)!r} already"
            )
        try:
            labelled.append(Match(session.with_labels(known | dict(labels)), numbers))
        except ValueError as exc:
            raise UsageError(f"--label: {exc}") from None
    return labelled


class Found(NamedTuple):
    """Rows of a session in the span. The tier's rows begin at `begins_ms`, None if it has none."""

    tier: int
    rows: Rows
    begins_ms: int | None
    is_whole: bool


def _read(session: Session, question: Question, tiers: tuple[Tier, ...], tier: int | None) -> Found:
    """Read from `tier`, or from the finest tier that reaches back from the session's last tick to the start
    of the span, or to the session's first tick; else from the one that reaches furthest.

    A tick or window of tolerance lets a tier of ten minutes answer for the ten minutes before now.
    """
    start_ms, end_ms = question.span
    wanted_ms = max(start_ms or 1, session.first_ms)
    is_asked = end_ms is None or end_ms >= wanted_ms
    best: Found | None = None
    for number in range(len(tiers)) if tier is None else (tier,):
        rows = session.rows(number)
        begins_ms = None
        if rows.t_ms.size:
            begins_ms = int(rows.t_ms[0]) if number else session.whole_since_ms(rows)
        reach_ms = session.last_ms + 1 if begins_ms is None else begins_ms
        is_whole = reach_ms - max(tiers[number].interval_ms, session.interval_ms) <= wanted_ms
        if best is None or is_whole or reach_ms < (best.begins_ms or session.last_ms + 1):
            rows = rows.between((start_ms or 1) - 1, (1 << 62) if end_ms is None else end_ms + 1)
            best = Found(number, rows, begins_ms, is_whole or not is_asked)
        if is_whole:
            break
    assert best is not None  # a store has tiers
    return best


def _rate(curve: Curve) -> Curve:
    """A counter's rates, each at the time of the later value."""
    there = ~np.isnan(curve.values)
    t_ms, values = curve.t_ms[there], curve.values[there]
    return curve._replace(t_ms=t_ms[1:], values=rates(t_ms, values))


def nothing(matches: Sequence[Match], question: Question) -> RondoError:
    """The error if no match has a point to show, with the reason."""
    last_ms = max(match.session.last_ms for match in matches)
    if not last_ms:
        return RondoError("the matching sessions have no ticks", exit_code=EX_NOTHING)
    seen = f"the matching sessions were last seen at {question.face.time(last_ms)}"
    what = "two values for a rate" if question.rate else "values"
    return RondoError(
        f"no {what} from {question.span.text(question.face.time)} ({seen})", exit_code=EX_NOTHING
    )
