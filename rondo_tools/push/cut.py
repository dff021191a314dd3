"""A slice of time, of all sessions, cut into batches.

Strategy: rows are indices until the last moment. All rows of a slice are put in one order, by
instance and then by time, and cut where a request is full; only then are the values of each run of
one session taken together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rondo_tools.push.backlog import Backlog
from rondo_tools.push.batch import Batch, Block
from rondo_tools.push.cursor import Mark
from rondo_tools.store.reader import Rows

Times = npt.NDArray[np.int64]


class New(NamedTuple):
    """What a session has in a slice. `t_ms` and `row` (an index, -1 for the end) go together."""

    backlog: Backlog
    rows: Rows
    t_ms: Times
    row: Times
    keep: npt.NDArray[np.bool_]  # send it; else it is passed over

    @property
    def instance(self) -> str:
        return instance_of(self.backlog.session.key)


def instance_of(key: str) -> str:
    """The instance's folder, of a session's key."""
    return key.partition("/")[0]


def pass_over(new: list[New], delivered_ms: int) -> list[New]:
    """Mark what its instance has gone past, and all but the first of several rows of one time."""
    if not new:
        return []
    sizes = [len(item.t_ms) for item in new]
    t_ms = np.concatenate([item.t_ms for item in new])
    keep = np.concatenate([item.keep for item in new])
    keep &= t_ms > delivered_ms
    if len(new) > 1:
        candidates = np.flatnonzero(keep)
        by_time = candidates[np.argsort(t_ms[candidates], kind="stable")]
        keep[by_time[1:][np.diff(t_ms[by_time]) == 0]] = False
    cuts = np.cumsum(sizes)[:-1]
    return [item._replace(keep=part) for item, part in zip(new, np.split(keep, cuts), strict=True)]


def cut(new: list[New], max_samples: int) -> Iterator[Batch]:
    """Merge by instance and time (ties: by start) and cut into batches."""
    if not new:
        return
    owner = np.repeat(np.arange(len(new)), [len(item.t_ms) for item in new])
    t_ms = np.concatenate([item.t_ms for item in new])
    row = np.concatenate([item.row for item in new])
    keep = np.concatenate([item.keep for item in new])
    _, instance = np.unique([item.instance for item in new], return_inverse=True)
    order = np.lexsort((owner, t_ms, instance[owner]))
    owner, t_ms, row, keep = owner[order], t_ms[order], row[order], keep[order]
    width = np.array([len(item.backlog.numbers) for item in new])
    total = np.cumsum(np.where(keep, width[owner], 0))
    start = 0
    while start < len(t_ms):
        before = int(total[start - 1]) if start else 0
        stop = int(np.searchsorted(total, before + max_samples, side="right"))
        part = slice(start, max(stop, start + 1))
        yield _batch(new, owner[part], t_ms[part], row[part], keep[part])
        start = part.stop


def _batch(new: list[New], owner: Times, t_ms: Times, row: Times, keep: npt.NDArray[np.bool_]) -> Batch:
    """Rows by instance and time, of which each run of one session becomes a block."""
    marks: dict[str, Mark] = {}
    passed_over = 0
    for at in np.unique(owner).tolist():
        mine = owner == at
        backlog = new[at].backlog
        # An end that is not sent takes no time: the last tick, 1 ms before, is as far as it goes.
        silent_end = ~keep & (row < 0)
        through_ms = max(backlog.mark.delivered_ms, int((t_ms - silent_end)[mine].max()))
        marks[backlog.session.key] = Mark(through_ms, bool((row[mine] < 0).any()))
        passed_over += int((mine & ~keep & (row >= 0)).sum()) * len(backlog.numbers)
    owner, t_ms, row = owner[keep], t_ms[keep], row[keep]
    runs = np.flatnonzero(np.diff(owner)) + 1
    blocks = [
        _block(new[int(owner[run[0]])], t_ms[run], row[run])
        for run in np.split(np.arange(len(owner)), runs)
        if run.size and new[int(owner[run[0]])].backlog.numbers
    ]
    return Batch(tuple(blocks), marks, passed_over)


def _block(item: New, t_ms: Times, row: Times) -> Block:
    values = np.full((len(row), len(item.backlog.numbers)), np.nan)
    ticks = row >= 0
    values[ticks] = item.rows.values[row[ticks]]
    return Block(item.backlog.series, item.backlog.labels, t_ms, values, item.backlog.session.start_ms)
