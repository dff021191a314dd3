"""Resolves a command's arguments: finds the sessions, series and range in the store.

numpy and the store's reader are imported where they are used, so that --help is fast.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rondo_tools import clock
from rondo_tools.errors import RondoError, UsageError
from rondo_tools.query import flags as share
from rondo_tools.selector import Matcher, Selector, is_metric_name, parse_selector

if TYPE_CHECKING:
    from rondo_tools.query.curve import Curve, CurveReader, Match
    from rondo_tools.store.reader import Session, Store

# A word in place of a selector that can only be a metric's or an instance's name.
_WORD = re.compile(r"[^\s{}()\[\]\"'`=~,]+")

log = logging.getLogger(__name__)


def open_store(path: str, text: str) -> tuple[Store, Selector]:
    """A store and a selector. A bare word is the metric of that name if the store has one, else the instance.

    Raises UsageError for an invalid selector, before the store is read; StoreError.
    """
    from rondo_tools.query import curve
    from rondo_tools.store.reader import Store

    is_word = _WORD.fullmatch(text) is not None
    instance = Selector((Matcher("instance", "=", text),))
    wanted = instance if is_word and not is_metric_name(text) else parse_selector(text)
    store = Store(path)
    if is_word and wanted != instance and any(store.each_session(instance=text)):
        if not curve.find_in(list(store.each_session()), wanted):
            return store, instance
        log.warning("%s is a metric and an instance; the metric is shown, %s is the other", text, instance)
    return store, wanted


def find(store: Store, selector: Selector, since_ms: int = 0) -> list[Match]:
    """The matches of a selector in sessions with a tick since `since_ms` or without an end.

    Raises RondoError (EX_NOTHING) if there are none, StoreError if a part could not be read.
    """
    from rondo_tools.query import curve
    from rondo_tools.query.damage import EX_NOTHING, Damage

    named = [one.value for one in selector.matchers if (one.label, one.operator) == ("instance", "=")]
    some = store.sessions(instance=named[0] if named else None, since_ms=since_ms)
    sessions: list[Session] = []
    found = curve.find_in(some, selector)
    if not found:
        sessions = store.sessions()
        found = curve.find_in(sessions, selector)
    if not found:
        nothing = f"nothing matches {selector} ({_why_nothing(sessions, selector)})"
        if store.unread:
            log.warning("%s", nothing)
        Damage(store).finish()
        raise RondoError(nothing, exit_code=EX_NOTHING)
    return found


def _why_nothing(sessions: Sequence[Session], selector: Selector) -> str:
    from rondo_tools.query.known import all_of, why_nothing

    return why_nothing(selector, all_of(sessions)) if sessions else "the store is empty"


def ask(selector: str, flags: dict[str, Any]) -> tuple[list[Match], CurveReader]:
    """Open the store and find the matches. Raises RondoError before anything is printed."""
    from rondo_tools.query import curve
    from rondo_tools.query.damage import Damage
    from rondo_tools.query.face import face
    from rondo_tools.query.pick import parse_lives, pick
    from rondo_tools.query.times import make_span

    now_ms = clock.now_ms()
    span = make_span(flags["range"], flags["start"], flags["end"], now_ms, utc=flags["utc"])
    if not re.fullmatch(r"auto|[0-9]", flags["tier"]):
        raise UsageError(f"--tier {flags['tier']!r}: write auto, or the number of a tier")
    tier = None if flags["tier"] == "auto" else int(flags["tier"])
    log_face = face(sys.stderr, utc=flags["utc"])
    question = curve.Question(span, tier, flags["aggregate"], flags["rate"], flags["since_birth"], log_face)
    lives = None
    if flags["session"] is not None:
        lives = parse_lives(flags["session"], now_ms, utc=flags["utc"])
    store, wanted = open_store(flags["store"], selector)
    # All lives are counted, also those before the span.
    matches = find(store, wanted, 0 if lives else span.start_ms or 0)
    if lives:
        matches = pick(matches, lives, flags["session"])
    curve.check(question, matches, store.tiers)
    return matches, curve.CurveReader(question, store, Damage(store))


def answer(matches: Sequence[Match], reader: CurveReader, flags: dict[str, Any]) -> Iterable[Curve]:
    """The curves of `matches`, grouped and chosen by the flags. Raises UsageError before any is read."""
    from rondo_tools.query.group import SESSION, Grouping, highest
    from rondo_tools.query.lineup import lined_up

    how = share.how(flags)
    if flags["by"]:
        known = {SESSION, *label_names(matches)}
        for name in flags["by"]:
            if name not in known:
                raise UsageError(f"--by {name}: the labels of these series are {', '.join(sorted(known))}")
    if how:
        grouping = Grouping(how, flags["by"], flags["quantile"] or 0.0)
        curves: Iterable[Curve] = grouping.curves(lined_up(reader, matches))
    elif flags.get("pivot"):
        curves = lined_up(reader, matches)
    else:
        curves = reader.curves(matches)
    return curves if flags["topk"] is None else highest(curves, flags["topk"]).curves


def label_names(matches: Iterable[Match]) -> list[str]:
    """The labels of the series of `matches`: instance, and the others by name."""
    schemas = {(match.session.labels, match.session.header.series, match.series) for match in matches}
    found = {
        name
        for labels, series, numbers in schemas
        for some in (labels, *(series[number].labels for number in numbers))
        for name, _ in some
    }
    return ["instance", *sorted(found)]
