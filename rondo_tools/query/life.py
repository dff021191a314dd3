"""The table of `rondo-query STORE list`: one record for each session.

Strategy: the state of a session is its recorded end; without an end it is running or silent (view.state).

No rows are read, and times are formatted together, because there may be 100,000 sessions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from rondo_tools.errors import UsageError
from rondo_tools.query.face import UTC, Face
from rondo_tools.store.reader import Session
from rondo_tools.view.state import RUNNING, running_or_silent

FIELDS = ("instance", "session", "first", "last", "state", "age_s", "series", "ticks")
Columns = dict[str, list[Any]]
"""The values of all sessions, by field."""


class Order:
    """The order of --sort and --reverse, by `field`."""

    def __init__(self, field: str, *, reverse: bool) -> None:
        if field not in FIELDS:
            raise UsageError(f"--sort {field}: the fields are {', '.join(FIELDS)}")
        self._field = field
        self._reverse = reverse

    def sorted(self, columns: Columns) -> Columns:
        """`columns` in this order; equal rows keep theirs, and rows without a value come last in both."""
        if self._field == "session" and not self._reverse:
            return columns  # by start
        by = columns[self._field]
        order = [row for row, value in enumerate(by) if value is not None]
        order.sort(key=by.__getitem__, reverse=self._reverse)
        order += [row for row, value in enumerate(by) if value is None]
        return {name: [column[row] for row in order] for name, column in columns.items()}


def newest(sessions: Iterable[Session], count: int | None) -> list[Session]:
    """The `count` newest sessions, by start."""
    ordered = sorted(sessions, key=attrgetter("start_ms"))
    starts = [one.start_ms for one in ordered]
    if len(set(starts)) < len(starts):
        ordered.sort(key=attrgetter("start_ms", "instance"))
    return ordered if count is None else ordered[max(len(ordered) - count, 0) :]


def lives(sessions: Sequence[Session], now_ms: int, face: Face = UTC) -> Columns:
    """The FIELDS of `sessions`, in their order. Times are text, or integers for Unix ms."""

    def times(column: list[int]) -> list[Any]:
        return column if face.unix else face.times(column)

    def times_or_none(column: list[int]) -> list[Any]:
        """None for 0."""
        shown = times(column)
        return (
            shown
            if all(column)
            else [time if t_ms else None for time, t_ms in zip(shown, column, strict=True)]
        )

    started = [one.start_ms for one in sessions]
    last = [one.last_ms for one in sessions]
    seen = np.array(last, np.int64)
    ages_ms = now_ms - np.where(seen > 0, seen, np.array(started, np.int64))
    columns = (
        [one.instance for one in sessions],
        times(started),
        times_or_none([one.first_ms for one in sessions]),
        times_or_none(last),
        [
            one.reason or running_or_silent(one.interval_ms, age_ms)
            for one, age_ms in zip(sessions, ages_ms.tolist(), strict=True)
        ],
        np.fix(ages_ms / 1000).astype(np.int64).tolist(),  # half a second ahead is 0
        [one.series for one in sessions],
        [one.ticks for one in sessions],
    )
    return dict(zip(FIELDS, columns, strict=True))


def in_state(sessions: Iterable[Session], states: frozenset[str], now_ms: int) -> list[Session]:
    """The `sessions` in any of these states."""
    return [one for one in sessions if state(one, _age_ms(one, now_ms)) in states]


def alive_since(sessions: Iterable[Session], since_ms: int, now_ms: int) -> list[Session]:
    """The `sessions` that had a tick since `since_ms`, or are running."""
    return [
        one
        for one in sessions
        if (one.last_ms or one.start_ms) >= since_ms or state(one, _age_ms(one, now_ms)) == RUNNING
    ]


def _age_ms(session: Session, now_ms: int) -> int:
    return now_ms - (session.last_ms or session.start_ms)


def state(session: Session, age_ms: int) -> str:
    """The session's end, or `running` or `silent`.

    `age_ms` is the time since its last tick, negative if that is ahead of the clock.
    """
    return session.reason or running_or_silent(session.interval_ms, age_ms)
