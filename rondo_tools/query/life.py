"""Lives: what `rondo-query STORE list` tells of each session, one record each.

Strategy: a session whose end was recorded ended so. One without is running while its ticks keep
coming, and silent once three of them and five seconds more have passed: its producer, or the way to
the store, died. So it is where its last tick is as far ahead of our clock, which was set back since:
nothing shows that it is alive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rondo_tools.errors import StoreError, UsageError
from rondo_tools.query.damage import Damage
from rondo_tools.query.times import format_time
from rondo_tools.store.reader import Session, Store
from rondo_tools.units import format_duration

RUNNING, SILENT = "running", "silent"


def fields(store: Store) -> list[str]:
    """The names of a record's fields: one for the rows of each tier among them."""
    rows = (f"rows_{format_duration(tier.interval_ms)}" for tier in store.tiers)
    return ["instance", "session", "first", "last", "state", "age_s", "series", *rows, "bytes"]


class Order:
    """The order that --sort and --reverse ask for: by `field`, one of `names`."""

    def __init__(self, field: str, names: list[str], *, reverse: bool) -> None:
        if field not in names:
            raise UsageError(f"--sort {field}: the fields are {', '.join(names)}")
        self._field = field
        self._reverse = reverse

    def sorted(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """`records` in this order, equals as they were; what has no value comes last, up and down."""
        there = [record for record in records if record[self._field] is not None]
        there.sort(key=lambda record: record[self._field], reverse=self._reverse)
        return there + [record for record in records if record[self._field] is None]


def lives(
    store: Store, sessions: Sequence[Session], damage: Damage, now_ms: int, *, unix: bool = False
) -> list[dict[str, Any]]:
    """One record for each of `sessions`, by start, but for those that cannot be read.

    Times are ISO 8601, or Unix ms if `unix`.
    """
    records = []
    for session in sorted(sessions, key=lambda session: session.start_ms):
        try:
            records.append(_life(session, store, now_ms, unix=unix))
        except (StoreError, OSError) as exc:
            damage.unread(session, exc)
    return records


def _life(session: Session, store: Store, now_ms: int, *, unix: bool) -> dict[str, Any]:
    tiers = [session.rows(number).t_ms for number in range(len(store.tiers))]
    last_ms = int(tiers[0][-1]) if tiers[0].size else None
    first_ms = min((int(t_ms[0]) for t_ms in tiers if t_ms.size), default=None)
    age_ms = now_ms - (last_ms or session.start_ms)

    def time(t_ms: int | None) -> str | int | None:
        return t_ms if t_ms is None or unix else format_time(t_ms)

    values = [
        session.instance,
        time(session.start_ms),
        time(first_ms),
        time(last_ms),
        state(session, age_ms),
        int(age_ms / 1000),  # half a second ahead is no second
        len(session.header.series),
        *(int(t_ms.size) for t_ms in tiers),
        session.bytes_on_disk(),
    ]
    return dict(zip(fields(store), values, strict=True))


def state(session: Session, age_ms: int) -> str:
    """How the session ended, or `running` or `silent`.

    `age_ms` is the time since its last tick, negative where that is ahead of the clock.
    """
    if session.end is not None:
        return session.end.reason
    return RUNNING if abs(age_ms) <= 3 * session.header.interval_ms + 5_000 else SILENT
