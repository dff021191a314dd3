"""What a reader must find in a store, worked out from the ticks that its `journal_fixtures.Writer` got."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rondo_tools.catalog import COUNTER
from rondo_tools.store.format.schema import AVG, LAST, MAX, MIN
from rondo_tools.store.reader import Piece, Session
from tests.support.store.journal_fixtures import End, Life, Tick, union_of

Row = dict[tuple[str, str], bytes]
"""The bits of each (series, aggregate) that has a value."""


def bits(value: float) -> bytes:
    return float(value + 0.0).hex().encode()


def served(session: Session, tier: int, after_ms: int = 0) -> dict[int, Row]:
    """What a session serves, by time; what is NaN is left out."""
    rows = session.rows(tier, after_ms)
    assert rows.skipped == 0
    assert (rows.t_ms[1:] > rows.t_ms[:-1]).all()
    columns = [(session.header.series[one.series].name, one.aggregate) for one in session.columns(tier)]
    return {
        t_ms: {
            column: bits(value)
            for column, value in zip(columns, values, strict=True)
            if not math.isnan(value)
        }
        for t_ms, values in zip(rows.t_ms.tolist(), rows.values.tolist(), strict=True)
    }


def in_pieces(pieces: Sequence[Piece]) -> dict[int, dict[str, bytes]]:
    """What pieces hold, by time and name; what is NaN is left out."""
    found: dict[int, dict[str, bytes]] = {}
    for piece in pieces:
        for t_ms, values in zip(piece.t_ms.tolist(), piece.values.tolist(), strict=True):
            assert not found or t_ms > max(found)
            found[t_ms] = {
                series.name: bits(value)
                for series, value in zip(piece.series, values, strict=True)
                if not math.isnan(value)
            }
    return found


def raw(ticks: Sequence[Tick]) -> dict[int, Row]:
    return {
        one.t_ms: {
            (series.name, LAST): bits(value)
            for series, value in zip(one.schema.series, one.values, strict=True)
            if not math.isnan(value)
        }
        for one in ticks
    }


def rolled_up(ticks: Sequence[Tick], interval_ms: int) -> dict[int, Row]:
    """A plain loop over the ticks of each window."""
    windows: dict[int, list[Tick]] = {}
    for one in ticks:
        windows.setdefault(one.t_ms // interval_ms, []).append(one)
    return {some[-1].t_ms: _window(some) for some in windows.values()}


def _window(ticks: Sequence[Tick]) -> Row:
    row: Row = {}
    for series in union_of(ticks).series:
        values = [
            value
            for one in ticks
            for each, value in zip(one.schema.series, one.values, strict=True)
            if each == series and not math.isnan(value)
        ]
        if not values:
            continue
        if series.kind == COUNTER:
            row[series.name, LAST] = bits(values[-1])
            continue
        total = 0.0
        for value in values:
            total += value
        row[series.name, AVG] = bits(total / len(values))
        row[series.name, MIN], row[series.name, MAX] = bits(min(values)), bits(max(values))
    return row


def check_listed(session: Session, life: Life) -> None:
    """What is known of a session without reading its rows."""
    ticks = life.ticks
    assert (session.first_ms, session.last_ms, session.ticks) == (
        (ticks[0].t_ms, ticks[-1].t_ms, len(ticks)) if ticks else (0, 0, 0)
    )
    end: End | None = life.end
    assert (session.end and (session.end.reason, session.end.t_ms)) == (end and (end.reason, end.t_ms))
    assert (session.labels, session.interval_ms) == (life.labels, life.interval_ms)
    assert session.header.series == union_of(ticks).series
    assert session.series == len(session.header.series)
