"""Stores made by the real writing path, with the sessions of a test.

Each `add_session` acts as a separate process: it opens the store, stores a stream, and leaves a journal.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from rondo_tools.catalog import COUNTER, GAUGE, Series
from rondo_tools.store import compaction
from rondo_tools.store.format.layout import JOURNALS, Layout
from rondo_tools.store.format.state import State, parse_state
from rondo_tools.store.format.store_json import parse_store_json
from rondo_tools.store.format.tiers import Tier, parse_tiers
from rondo_tools.store.housekeeping import Housekeeper
from rondo_tools.store.intake import Intake
from rondo_tools.store.opened import OpenStore
from rondo_tools.store.remembered import Remembered
from rondo_tools.stream import End, Header, Tick, encode

SERIES = (
    Series("exits_total", (("reason", "io"),), COUNTER, "exits", "Exits."),
    Series("exits_total", (("reason", "hlt"),), COUNTER, "exits", "Exits."),
    Series("rss_bytes", (), GAUGE, "bytes", "Memory."),
)
T0 = 1_795_395_000_000  # 2026-11-23T00:50:00Z, a multiple of all intervals
TIERS = parse_tiers("1s:40s,5s:100s,20s:10m")
MINUTE_MS = 60_000

Row = tuple[int, Sequence[float]]


class Clock:
    """The wall clock of a store."""

    def __init__(self, now_ms: int = T0) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


def add_session(
    path: Path,
    rows: Sequence[Row],
    *,
    instance: str = "vm-1",
    start_ms: int = T0,
    end: str | None = None,
    labels: tuple[tuple[str, str], ...] = (),
    interval_ms: int = 1000,
    series: tuple[Series, ...] = SERIES,
    tiers: tuple[Tier, ...] = TIERS,
) -> None:
    """Store `rows`, (t_ms, values) each, as one session; if it exists, only new rows. A session without a
    tick and an end leaves nothing.

    An end `lost` is written by the store: the pipe ended without one.
    """
    clock = Clock(start_ms)
    known = None if Layout(path).store_json.exists() else tiers
    with OpenStore(path, known, now_ms=clock, latest_ms=clock) as opened:
        intake = Intake(opened.keeper)
        intake.feed(encode(Header(instance, start_ms, labels, interval_ms, series)))
        for _, some in groupby(rows, lambda row: row[0] // MINUTE_MS):
            minute = list(some)
            clock.now_ms = minute[-1][0]
            intake.feed(b"".join(encode(Tick(t, np.asarray(v, "<f8").tobytes())) for t, v in minute))
        if end and end != "lost":
            intake.feed(encode(End(end, (rows[-1][0] if rows else start_ms) + 1)))
        intake.close(give_up=end == "lost")


def roll_up(path: Path, now_ms: int = T0) -> None:
    """Roll up all journals, which are closed at `now_ms`."""
    layout, known = Layout(path), parse_store_json(Layout(path).store_json.read_bytes())
    state = state_of(layout)
    remembered = Remembered(layout)
    remembered.load(state)
    newest = max(layout.numbers(JOURNALS), default=state.rolled_up)
    compaction.roll_up(layout, state, known.tiers, known.store_id, lambda: now_ms, newest, remembered)


def keep_house(path: Path, now_ms: int, max_bytes: int | None = None) -> None:
    """Remove files that have expired at `now_ms`, and evict files for `max_bytes`."""
    layout, hour_ms = Layout(path), 60 * MINUTE_MS
    tiers = parse_store_json(layout.store_json.read_bytes()).tiers
    state, clock = state_of(layout), Clock()
    keeper = Housekeeper(layout, tiers, list, clock, max_bytes, lambda: clock.now_ms / 1000)
    for clock.now_ms in range(now_ms - hour_ms, now_ms + 1, 10 * MINUTE_MS):  # looks that agree
        state = keeper.look(state).state


def state_of(layout: Layout) -> State:
    return parse_state(layout.state_json.read_bytes()) if layout.state_json.exists() else State()


def journal_of(path: Path, t_ms: int, instance: str = "vm-1") -> Path:
    """The journal with the tick of an instance at `t_ms`."""
    layout, name = Layout(path), instance.encode()
    journals = (layout.file(JOURNALS, number) for number in layout.numbers(JOURNALS))
    wanted = name, t_ms.to_bytes(8, "little")
    (found,) = (one for one in journals if all(part in one.read_bytes() for part in wanted))
    return found


def flip_a_bit(path: Path, t_ms: int, instance: str = "vm-1") -> Path:
    """Damage the frame with the tick of an instance at `t_ms`. Returns the journal."""
    journal = journal_of(path, t_ms, instance)
    data = bytearray(journal.read_bytes())
    data[data.rindex(t_ms.to_bytes(8, "little")) + 8] ^= 1
    journal.write_bytes(data)
    return journal
