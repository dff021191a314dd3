"""Dumps and restores in a test, and all that a store answers."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from rondo_tools.store import restore as module
from rondo_tools.store.format.records import SessionKey
from rondo_tools.store.format.tiers import Tier
from rondo_tools.store.reader import Session, Store


def dumped(path: Path, keys: Collection[SessionKey] | None = None) -> bytes:
    out = io.BytesIO()
    Store(path).dump(out.write, keys)
    return out.getvalue()


def restored(
    data: bytes,
    path: Path,
    now_ms: Callable[[], int],
    *,
    tiers: tuple[Tier, ...] | None = None,
    bring_cursors: bool = True,
    partial: bool = False,
) -> Path:
    module.restore(
        str(path),
        io.BytesIO(data).read,
        now_ms=now_ms,
        tiers=tiers,
        bring_cursors=bring_cursors,
        partial=partial,
    )
    return path


def answers(path: Path) -> dict[SessionKey, Any]:
    """All that a reader finds in a store, by session."""
    store = Store(path)
    found = {(one.instance, one.start_ms): answer(one, len(store.tiers)) for one in store.sessions()}
    assert not store.unread
    assert not list(store.damaged())
    return found


def answer(one: Session, tiers: int) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "start": (one.interval_ms, one.labels),
        "end": one.end,
        "ticks": (one.ticks, one.first_ms, one.last_ms),
        "series": sorted(one.header.series),  # a roll-up may change their order
        "runs": [(part.schema.packed, part.t_ms.tolist(), part.values.tobytes()) for part in one.runs()],
    }
    for tier in range(tiers):
        rows = one.rows(tier)
        assert rows.skipped == 0
        series = one.header.series
        columns = [(series[column.series], column.aggregate) for column in one.columns(tier)]
        order = sorted(range(len(columns)), key=columns.__getitem__)
        facts[f"tier {tier}"] = rows.t_ms.tolist(), rows.values[:, order].tobytes()
    return facts
