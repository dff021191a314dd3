"""Prints the samples that a push would send, and changes nothing.

Strategy: use the real drain and the cursor's file; take no lock, write nothing, send nothing. Lines are
for people and for awk: one sample a line, fields separated by tabs.
"""

from __future__ import annotations

from collections.abc import Iterator

from rondo_tools.catalog import Series
from rondo_tools.push.cursor import Cursor
from rondo_tools.push.drain import Drain

STALE = "stale"


def dry_run(drain: Drain, cursor: Cursor, now_ms: int, *, backfill: bool) -> Iterator[str]:
    """``t_ms<TAB>series<TAB>value`` for each sample, in sending order; NaN is ``stale``."""
    progress = cursor.progress
    if cursor.in_flight is not None:
        for series in (one for piece in cursor.in_flight.pieces for one in piece.request.timeseries):
            name = _spelled(tuple((label.name, label.value) for label in series.labels))
            for sample in series.samples:
                yield f"{sample.timestamp}\t{name}\t{_number(sample.value)}"
        progress.done = cursor.in_flight.rows
    while (stretch := drain.next(progress, now_ms, backfill=backfill)) is not None:
        with stretch:
            batches = drain.batches(stretch, progress)
            while progress.slice < stretch.slices:
                one = stretch.slice(progress.slice)
                for batch in batches.of(one, progress.done, drain.oldest_ms(now_ms)):
                    for block in batch.blocks:
                        names = [_spelled(labels) for labels in block.series_set.labels]
                        for t_ms, values in zip(block.t_ms.tolist(), block.values.tolist(), strict=True):
                            for name, value in zip(names, values, strict=True):
                                yield f"{t_ms}\t{name}\t{_number(value)}"
                progress.finish_slice(int(one.t_ms.max(initial=0)))
            drain.finish(progress, stretch, now_ms)


def _spelled(labels: tuple[tuple[str, str], ...]) -> str:
    named = dict(labels)
    return str(Series(named.pop("__name__", ""), tuple(named.items()), "", "", ""))


def _number(value: float) -> str:
    return STALE if value != value else repr(value)
