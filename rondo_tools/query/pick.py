"""Selects lives of an instance: the last one, the one before it, the one that began at a time.

Strategy: lives are counted back from the newest of each instance, like negative indices in Python: ``last``
is ``-1``. A time selects the lives that began in that day, minute, second or millisecond.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rondo_tools.errors import RondoError, UsageError
from rondo_tools.query.curve import Match
from rondo_tools.query.damage import EX_NOTHING
from rondo_tools.query.names import counted, word
from rondo_tools.query.times import parse_stretch

_BACK = re.compile(r"-[0-9]{1,9}")
Which = int | range
"""A number, counted back, or a range of start times."""


def parse_lives(text: str, now_ms: int, *, utc: bool) -> list[Which]:
    """``last``, ``-2``, a time, or several with commas. Raises UsageError that names --session."""
    return [_parse(one.strip(), now_ms, utc=utc) for one in text.split(",")]


def _parse(text: str, now_ms: int, *, utc: bool) -> Which:
    if text == "last":
        return -1
    if _BACK.fullmatch(text) and int(text):
        return int(text)
    try:
        if text.startswith("-"):
            raise UsageError(f"{text!r} is no life: write last, -1, -2, or its start, as list shows it")
        return parse_stretch(text, now_ms, utc=utc)
    except UsageError as exc:
        raise UsageError(f"--session: {exc}") from None


def pick(matches: Sequence[Match], wanted: Sequence[Which], asked: str) -> list[Match]:
    """The `matches` in `wanted` lives, in their order. Raises RondoError (EX_NOTHING) if there are none."""
    by_instance: dict[str, list[Match]] = {}
    for match in matches:
        by_instance.setdefault(match.session.instance, []).append(match)
    picked = []
    for lives in by_instance.values():
        lives.sort(key=lambda match: match.session.start_ms)
        for place, match in enumerate(lives):
            if any(_is_meant(one, place - len(lives), match.session.start_ms) for one in wanted):
                picked.append(match)
    if not picked:
        most = max(by_instance, key=lambda instance: len(by_instance[instance]))
        found = counted(len(by_instance[most]), "session")
        raise RondoError(
            f"--session {asked}: there is none; {word(most)} has {found} (see rondo-query STORE list)",
            exit_code=EX_NOTHING,
        )
    return picked


def _is_meant(which: Which, place: int, start_ms: int) -> bool:
    return place == which if isinstance(which, int) else start_ms in which
