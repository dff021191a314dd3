"""Stores made by the real writer, with sessions as a test describes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rondo_tools.catalog import COUNTER, GAUGE, Series
from rondo_tools.store.tiers import parse_tiers
from rondo_tools.store.writer import StoreWriter
from rondo_tools.stream import End, Header, Tick

SERIES = (
    Series("exits_total", (("reason", "io"),), COUNTER, "exits", "Exits."),
    Series("exits_total", (("reason", "hlt"),), COUNTER, "exits", "Exits."),
    Series("rss_bytes", (), GAUGE, "bytes", "Memory."),
)
T0 = 1_795_395_000_000  # 2026-11-23T00:50:00Z, a multiple of all intervals
TIERS = parse_tiers("1s:40s,5s:100s,20s:10m")

Row = tuple[int, Sequence[float]]


def add_session(
    path: Path,
    rows: Sequence[Row],
    *,
    instance: str = "vm-1",
    start_ms: int = T0,
    end: str | None = None,
    labels: tuple[tuple[str, str], ...] = (),
    interval_ms: int = 1000,
) -> None:
    """Write `rows`, (t_ms, values) each, as one session of the store at `path`."""
    header = Header(instance, start_ms, labels, interval_ms, SERIES)
    with StoreWriter(path, TIERS) as writer:
        session = writer.open(header)
        session.ring.append(Tick(t_ms, np.asarray(values, "<f8").tobytes()) for t_ms, values in rows)
        if end:
            session.finish(End(end, rows[-1][0] + 1))
        session.close()
