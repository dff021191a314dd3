"""Aligns curves of many sessions: rows at common times, so that they can be added or printed in one row.

Strategy: the step is the shortest one in which every session has a row (`steps`). It depends on the tier
that each session has to be read from, which is known only after its rows were found. So there are two
passes, and the first keeps its rows if they are few. A session that is complete in tier 0 is rolled up from
its ticks, even if the step is that of a coarser tier, which may not have it any more; all others are read
from the coarsest tier that one of them needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rondo_tools.catalog import COUNTER
from rondo_tools.query import steps
from rondo_tools.query.curve import LAST, Curve, CurveReader, Match
from rondo_tools.view.rates import rates

_KEPT_BYTES = 64 << 20


def lined_up(reader: CurveReader, matches: Sequence[Match]) -> Iterator[Curve]:
    """The curves of `matches` in steps, session by session; counters as rates, if the question has `rate`.

    A rate is the increase between the last values of two steps of one session, over the time between them.
    """
    tiers: dict[int, int] = {}
    kept: dict[int, list[Curve]] = {}
    free_bytes = _KEPT_BYTES
    for number, match in enumerate(matches):
        found = reader.find(match)
        if found is None or not found.rows.t_ms.size:
            continue
        tiers[number] = found.tier
        size = found.rows.t_ms.nbytes * (1 + len(match.series))
        if size <= free_bytes:
            free_bytes -= size
            # Copies, because a view would keep all series of the session in memory.
            kept[number] = [curve._replace(values=curve.values.copy()) for curve in reader.cut(match, found)]
    if not tiers:
        return
    tier = max(tiers.values())
    step_ms = steps.common_step_ms(
        reader.tiers[tier].interval_ms if tier else 0,
        (matches[number].session.interval_ms for number in tiers),
    )
    for number, own in tiers.items():
        match, wanted = matches[number], tier if own else 0
        if own == wanted and number in kept:
            curves = kept.pop(number)
        else:
            again = reader.find(match, wanted)
            curves = [] if again is None else list(reader.cut(match, again))
        for curve in curves:
            yield _in_steps(curve, step_ms, reader.question.aggregate, rate=reader.question.rate)


def _in_steps(curve: Curve, step_ms: int, aggregate: str, *, rate: bool) -> Curve:
    if rate:
        t_ms, values = steps.lasts(curve.t_ms, curve.values, step_ms)
        t_ms, values = t_ms[1:] // step_ms * step_ms, rates(t_ms, values)
    else:
        how = LAST if curve.series.kind == COUNTER else aggregate
        t_ms, values = steps.rolled_up(curve.t_ms, curve.values, step_ms, how)
    return curve._replace(step_ms=step_ms, t_ms=t_ms, values=values)
