"""From what was asked to what the store has: the sessions, series and range that a command is about.

numpy and the store's reader are imported where they are needed, so that --help is quick.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import TYPE_CHECKING, Any

from rondo_tools import clock
from rondo_tools.errors import RondoError, UsageError
from rondo_tools.selector import Selector, parse_selector

if TYPE_CHECKING:
    from rondo_tools.query.curve import CurveReader, Match
    from rondo_tools.store.reader import Store

log = logging.getLogger(__name__)


def find(store: Store, selector: Selector, since_ms: int = 0) -> list[Match]:
    """What a selector means, of the sessions with a tick since then or without an end.

    Raises RondoError if that is nothing, StoreError if not all could be read.
    """
    from rondo_tools.query import curve
    from rondo_tools.query.damage import Damage

    named = [one.value for one in selector.matchers if (one.label, one.operator) == ("instance", "=")]
    some = store.sessions(instance=named[0] if named else None, since_ms=since_ms)
    found = curve.find_in(some, selector)
    if found:
        return found
    try:
        return curve.find(store.sessions(), selector)
    except RondoError as exc:
        if store.unread:
            log.warning("%s", exc)
        Damage(store).finish()
        raise


def ask(selector: str, flags: dict[str, Any]) -> tuple[list[Match], CurveReader]:
    """Open the store and find what is asked for. Raises RondoError before anything is printed."""
    from rondo_tools.query import curve
    from rondo_tools.query.damage import Damage
    from rondo_tools.query.face import face
    from rondo_tools.query.times import make_span
    from rondo_tools.store.reader import Store

    wanted = parse_selector(selector)
    span = make_span(flags["range"], flags["start"], flags["end"], clock.now_ms(), utc=flags["utc"])
    if not re.fullmatch(r"auto|[0-9]", flags["tier"]):
        raise UsageError(f"--tier {flags['tier']!r}: write auto, or the number of a tier")
    tier = None if flags["tier"] == "auto" else int(flags["tier"])
    said = face(sys.stderr, utc=flags["utc"])
    question = curve.Question(span, tier, flags["aggregate"], flags["rate"], said)
    store = Store(flags["store"])
    matches = find(store, wanted, span.start_ms or 0)
    curve.check(question, matches, store.tiers)
    return matches, curve.CurveReader(question, store, Damage(store))
