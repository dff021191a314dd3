"""Looking without touching: what would be sent, and how far delivery is behind.

Strategy: the drain as it is, and the cursor as it stands in its file; no lock is taken, nothing is
written, nothing is sent. Lines are for people and for awk: one fact a line, tabs between.
"""

from __future__ import annotations

from collections.abc import Iterator

from rondo_tools.catalog import Series
from rondo_tools.errors import StoreError
from rondo_tools.push.cursor import Cursor
from rondo_tools.push.drain import Drain
from rondo_tools.store.reader import Store

STALE = "stale"


def dry_run(drain: Drain, cursor: Cursor, now_ms: int, *, backfill: bool) -> Iterator[str]:
    """``t_ms<TAB>series<TAB>value`` for each sample, in the order of sending; NaN is ``stale``."""
    if cursor.in_flight is not None:
        for series in (one for piece in cursor.in_flight.pieces for one in piece.request.timeseries):
            name = _spelled(tuple((label.name, label.value) for label in series.labels))
            for sample in series.samples:
                yield f"{sample.timestamp}\t{name}\t{_number(sample.value)}"
        cursor.advance(cursor.in_flight.marks)
    begun_ms = drain.begin_ms(now_ms) if cursor.begun_ms is None else cursor.begun_ms
    for batch in drain.batches(cursor.marks(), now_ms, begun_ms=0 if backfill else begun_ms):
        for block in batch.blocks:
            names = [_spelled(labels) for labels in block.series_set.labels]
            for t_ms, values in zip(block.t_ms.tolist(), block.values.tolist(), strict=True):
                for name, value in zip(names, values, strict=True):
                    yield f"{t_ms}\t{name}\t{_number(value)}"


def status(store: Store, cursor: Cursor) -> Iterator[str]:
    """``instance<TAB>delivered_ms<TAB>newest_ms<TAB>seconds behind`` for each instance of the store.

    0 is "never"; an instance whose last session has ended and is delivered is 0 seconds behind.
    """
    places: dict[str, tuple[int, int, bool]] = {}
    for session in store.sessions():
        try:
            t_ms = session.rows().t_ms
        except StoreError:
            continue  # a push says what is wrong with it
        mark = cursor.mark(session.key)
        delivered_ms, newest_ms, is_done = places.get(session.instance, (0, 0, True))
        places[session.instance] = (
            max(delivered_ms, mark.delivered_ms),
            max(newest_ms, int(t_ms[-1]) if t_ms.size else 0),
            is_done and mark.ended,
        )
    for instance, (delivered_ms, newest_ms, is_done) in places.items():
        behind_ms = 0 if is_done or not newest_ms else max(0, newest_ms - delivered_ms)
        behind = f"{behind_ms / 1000:.1f}" if delivered_ms or not behind_ms else "-"
        yield f"{instance}\t{delivered_ms}\t{newest_ms}\t{behind}"


def _spelled(labels: tuple[tuple[str, str], ...]) -> str:
    named = dict(labels)
    return str(Series(named.pop("__name__", ""), tuple(named.items()), "", "", ""))


def _number(value: float) -> str:
    return STALE if value != value else repr(value)
