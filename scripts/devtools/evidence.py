"""Compares a VM's expected ticks, those in the store, and those in a receiver."""

from __future__ import annotations

import math
from typing import NamedTuple

from devtools.pipeline import say
from devtools.receivers.prometheus import Labels
from rondo_tools.catalog import COUNTER
from rondo_tools.store.reader import Session

JOB = "rondo-vmm"  # rondo-push's default label `job`

Held = dict[Labels, list[tuple[int, str]]]


class Seconds(NamedTuple):
    """Counts of one session: expected ticks, ticks in tier 0, ticks with every value in the receiver."""

    lived: int
    stored: int
    received: int


def lived_ms(session: Session) -> int:
    return (session.end.t_ms if session.end else 0) - session.start_ms


def expected(session: Session) -> int:
    """The number of ticks: one at the end of each second, and the last one."""
    end_ms = session.start_ms + lived_ms(session)
    return max(1, end_ms // 1000 - session.start_ms // 1000 + (end_ms % 1000 > 0))


def _stored(session: Session) -> list[dict[int, float]]:
    """Tier 0: the values of each series by time, NaN without a value."""
    rows = session.rows()
    times = rows.t_ms.tolist()
    return [
        dict(zip(times, rows.values[:, number].tolist(), strict=True))
        for number in range(len(session.header.series))
    ]


def _received(session: Session, held: Held) -> list[dict[int, float]]:
    """The same in the receiver, which has no NaN."""
    found = []
    for series in session.header.series:
        labels = {"__name__": series.name, "job": JOB, "instance": session.instance}
        labels |= dict(session.header.labels) | dict(series.labels)
        found.append({t: float(value) for t, value in held.get(tuple(sorted(labels.items())), [])})
    return found


def seconds(session: Session, held: Held) -> Seconds:
    stored, received = _stored(session), _received(session, held)
    times = list(stored[0])
    whole = [
        t
        for t in times
        if all(
            math.isnan(here[t]) or there.get(t) == here[t]
            for here, there in zip(stored, received, strict=True)
        )
    ]
    return Seconds(expected(session), len(times), len(whole))


def evidence(session: Session, held: Held) -> bool:
    """Compare tier 0 with the receiver, value for value, and print a line for each series.

    `held` may contain other sessions of the instance: only samples since the start of this one count.
    """
    reason = session.end.reason if session.end else "no end"
    ticks = expected(session)
    say(f"\nThe VM lived {lived_ms(session) / 1000:.3f} s ({reason}): {ticks} ticks to expect.")
    say(f"\n{'series':44} {'in store':>8} {'received':>8}  {'equal':5}  last value")
    whole = True
    for series, stored, everything in zip(
        session.header.series, _stored(session), _received(session, held), strict=True
    ):
        received = {t: value for t, value in everything.items() if t >= session.start_ms}
        present = {t: value for t, value in stored.items() if not math.isnan(value)}
        equal = received == present and len(stored) == ticks
        whole &= equal
        without = len(stored) - len(present)
        note = f"  ({without} x no value)" if without and series.kind != COUNTER else ""
        last = list(present.values())[-1] if present else math.nan
        counts = f"{len(stored):8} {len(received):8}  {'yes' if equal else 'NO':5}"
        say(f"{series!s:44} {counts}  {last:,.0f}{note}")
    return whole
