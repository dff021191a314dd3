"""Streams of ticks, and the expected content of a store, computed in the slow and obvious way.

Of the code under test only the reader is used, to compare its results.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from rondo_tools.catalog import COUNTER, SERIES, Series
from rondo_tools.store.reader import Session
from rondo_tools.stream import Header, Tick

NAN = float("nan")
T0 = 1_732_300_200_000  # a multiple of five minutes

COUNTS = Series("requests_total", (), "counter", "requests", "Requests.")
LEVEL = Series("level", (), "gauge", "bytes", "Level.")


def header(series: Sequence[Series] = SERIES, instance: str = "vm-1", start_ms: int = T0 - 1) -> Header:
    return Header(instance, start_ms, (), 1000, tuple(series))


def tick(t_ms: int, *values: float) -> Tick:
    return Tick(t_ms, struct.pack(f"<{len(values)}d", *values))


def ticks(count: int, begin_ms: int = T0, step_ms: int = 1000, width: int = len(SERIES)) -> list[Tick]:
    """Consecutive ticks, all values different."""
    return [
        tick(begin_ms + i * step_ms, *(i * 1000.0 + column / 8 for column in range(width)))
        for i in range(count)
    ]


def accepted(all_ticks: Iterable[Tick]) -> list[Tick]:
    """The ticks that are later than all before them."""
    last_ms, kept = 0, []
    for one in all_ticks:
        if one.t_ms > last_ms:
            kept.append(one)
            last_ms = one.t_ms
    return kept


def roll_up(series: Sequence[Series], rows: Sequence[tuple[float, ...]]) -> list[float]:
    """The coarse row of one window from its rows in time order."""
    row: list[float] = []
    for one, values in zip(series, zip(*rows, strict=True), strict=True):
        there = [value for value in values if value == value]
        if one.kind == COUNTER:
            row += [there[-1] if there else NAN]
        elif not there:
            row += [NAN] * 3
        else:
            total = 0.0
            for value in there:
                total += value
            low = high = there[0]
            for value in there:
                low = value if value < low else low
                high = value if value > high else high
            row += [total / len(there), low, high]
    return [NAN if value != value else value + 0.0 for value in row]


def bits(values: Iterable[float]) -> bytes:
    """The bytes of a value; NaN is canonical and without a sign: inf - inf has one on x86."""
    return b"".join(
        struct.pack("<d", value) if value == value else bytes.fromhex("000000000000f87f") for value in values
    )


def coarse(series: Sequence[Series], interval_ms: int, all_ticks: Iterable[Tick]) -> dict[int, bytes]:
    """The coarse rows of all windows, by the time of their last tick."""
    windows: dict[int, list[Tick]] = {}
    for one in all_ticks:
        windows.setdefault(one.t_ms // interval_ms, []).append(one)
    width = f"<{len(series)}d"
    return {
        some[-1].t_ms: bits(roll_up(series, [struct.unpack(width, one.values) for one in some]))
        for some in windows.values()
    }


def served(session: Session, tier: int = 0) -> dict[int, bytes]:
    """A reader's rows of a tier, by time."""
    rows = session.rows(tier)
    assert not rows.skipped
    return {t_ms: bits(row) for t_ms, row in zip(rows.t_ms.tolist(), rows.values.tolist(), strict=True)}


def check(
    session: Session, all_ticks: Iterable[Tick], series: Sequence[Series] = SERIES, *, whole: bool = True
) -> None:
    """Fails unless a session has these ticks, and the windows that they make in each tier.

    If the tiers are not `whole`, some rows may have expired.
    """
    kept = accepted(all_ticks)
    assert session.ticks == len(kept)
    assert (session.first_ms, session.last_ms) == ((kept[0].t_ms, kept[-1].t_ms) if kept else (0, 0))
    width = f"<{len(series)}d"
    expected = {one.t_ms: bits(struct.unpack(width, one.values)) for one in kept}
    found = served(session)
    assert found.items() <= expected.items()
    assert not whole or len(found) == len(expected)
    for number, tier in enumerate(session.tiers[1:], 1):
        expected = coarse(series, tier.interval_ms, kept)
        found = served(session, number)
        assert found.items() <= expected.items()
        assert not whole or len(found) == len(expected)
