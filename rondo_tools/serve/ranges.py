"""One life of a VM over a range, for charts: columns of times and values, counters as rates.

Strategy: the finest tier that reaches back to the start and has at most `points` rows is used. The answer has
the tier and the reason, so that a chart of a week is not mistaken for seconds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rondo_tools.catalog import COUNTER
from rondo_tools.store.reader import Rows, Session, Store
from rondo_tools.view.rates import rates

POINTS = 2_200  # a little more than a week of 5 min, or six hours of 10 s

WHOLE, COARSER, KEPT = "every tick", "zoom in for a finer tier", "nothing finer is kept that far back"


def answer(
    store: Store, sessions: list[Session], session: Session, start_ms: int, end_ms: int, points: int
) -> dict[str, Any]:
    """The series of `session` from `start_ms` to `end_ms`; `sessions` are all lives of its instance."""
    tier, rows, why = _rows(store, session, start_ms, end_ms, points)
    columns = session.columns(tier)
    first = int(rows.t_ms.searchsorted(start_ms))  # rows before that are for the first one's rate
    series = []
    for at, column in enumerate(columns):
        one = session.header.series[column.series]
        values = rows.values[:, at]
        if one.kind == COUNTER:
            values = _rates(rows.t_ms, values)
        series.append(
            {
                "name": one.name,
                "labels": dict(one.labels),
                "kind": one.kind,
                "unit": one.unit,
                "aggregate": column.aggregate,
                "values": _numbers(values[first:]),
            }
        )
    return {
        "instance": session.instance,
        "session_ms": session.start_ms,
        "start_ms": start_ms,
        "end_ms": end_ms,
        "tier": tier,
        "interval_ms": store.tiers[tier].interval_ms if tier else session.interval_ms,
        "why": why,
        "restarts_ms": sorted(one.start_ms for one in sessions if start_ms <= one.start_ms <= end_ms),
        "t_ms": rows.t_ms[first:].tolist(),
        "series": series,
    }


def _rows(store: Store, session: Session, start_ms: int, end_ms: int, points: int) -> tuple[int, Rows, str]:
    why = WHOLE
    for tier, one in enumerate(store.tiers):
        interval_ms = one.interval_ms if tier else session.interval_ms
        rows = session.rows(tier, max(start_ms - 2 * interval_ms, 0)).between(0, end_ms + 1)
        reaches = _reaches(store, session, tier, rows, max(start_ms, session.first_ms), end_ms)
        if reaches and rows.t_ms.size <= points:
            break
        if tier + 1 < len(store.tiers):
            why = COARSER if reaches else KEPT
    return tier, rows, why


def _reaches(store: Store, session: Session, tier: int, rows: Rows, since_ms: int, end_ms: int) -> bool:
    """Whether `rows` of a tier are complete since `since_ms`: the first one may follow a time without ticks.

    A row of a coarse tier has the time of a tick. If that is earlier, the tick is missing here.
    """
    interval_ms = store.tiers[tier].interval_ms if tier else session.interval_ms
    first_ms = int(rows.t_ms[0]) if rows.t_ms.size else end_ms + 1
    if first_ms <= since_ms + 2 * interval_ms:
        return True
    coarser = range(tier + 1, len(store.tiers))
    return not any(session.rows(one, since_ms - 1).between(0, first_ms).t_ms.size for one in coarser)


def _rates(t_ms: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The rate between each value and the previous one; NaN for the first, and without a value."""
    found = np.full(values.size, np.nan)
    there = np.flatnonzero(~np.isnan(values))
    found[there[1:]] = rates(t_ms[there], values[there])
    return found


def _numbers(values: npt.NDArray[np.float64]) -> list[float | None]:
    return [float(f"{value:.5g}") if value - value == 0 else None for value in values.tolist()]
