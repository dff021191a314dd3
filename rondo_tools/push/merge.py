"""A slice of time, of all sessions, cut into batches.

Strategy: rows are indices until the last moment, and all sessions are one array. All rows of a
slice are put in one order, by instance and then by time; what its instance has gone past is marked;
the order is cut where a request is full. Only then are the values of each run of one session taken
together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rondo_tools.push.backlog import Backlog
from rondo_tools.push.model import MAX_BYTES, SAMPLE_BYTES, Batch, Block, Mark
from rondo_tools.store.reader import Rows

Times = npt.NDArray[np.int64]


class New(NamedTuple):
    """What a session has in a slice; with `has_end`, its end as well."""

    backlog: Backlog
    rows: Rows
    has_end: bool

    @property
    def instance(self) -> str:
        return instance_of(self.backlog.session.key)


def instance_of(key: str) -> str:
    """The instance's folder, of a session's key."""
    return key.partition("/")[0]


class _Order(NamedTuple):
    """Rows of several sessions in the order of sending, as parallel arrays.

    `owner` is an index into the slice's sessions, `row` one into the owner's rows, or -1 for its
    end. What is not to `keep` is passed over.
    """

    owner: Times
    t_ms: Times
    row: Times
    keep: npt.NDArray[np.bool_]

    def part(self, which: slice | npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> _Order:
        return _Order(self.owner[which], self.t_ms[which], self.row[which], self.keep[which])


def cut(
    new: Sequence[New],
    delivered_ms: Mapping[str, int],
    oldest_ms: int,
    max_samples: int,
    max_bytes: int = MAX_BYTES,
) -> Iterator[Batch]:
    """Merge by instance and time and cut into batches. Sessions of one instance stand together.

    A batch has at most `max_samples` and about `max_bytes` before compression, or is one row.

    Passed over is what is not later than `delivered_ms` of its instance (0 where there is none),
    what is older than `oldest_ms`, and of several rows of one instance and time all but the first.
    """
    if not new:
        return
    order = _ordered(new, delivered_ms, oldest_ms)
    width = np.array([len(item.backlog.numbers) for item in new])
    total = np.cumsum(np.where(order.keep, width[order.owner], 0))
    edges = np.flatnonzero(np.diff(order.owner, prepend=-1, append=-1))  # where another session begins
    # Labels are in a request once for each run of a session's rows.
    labels = np.array([item.backlog.series_set.label_bytes for item in new])
    runs = np.diff(order.owner, prepend=-1) != 0
    size = SAMPLE_BYTES * total + np.cumsum(np.where(runs, labels[order.owner], 0))
    start = 0
    while start < len(total):
        before = int(total[start - 1]) if start else 0
        full = int(total.searchsorted(before + max_samples, "right"))
        before = int(size[start - 1]) if start else 0
        again = 0 if runs[start] else int(labels[order.owner[start]])
        full = min(full, int(size.searchsorted(before + max_bytes - again, "right")))
        full = max(full, start + 1)
        # To cut a session's rows in two costs more than it saves, where they are few.
        whole = int(edges[edges.searchsorted(full, "right") - 1])
        stop = whole if 8 * (whole - start) >= 7 * (full - start) else full
        yield _batch(new, order.part(slice(start, stop)))
        start = stop


def _ordered(new: Sequence[New], delivered_ms: Mapping[str, int], oldest_ms: int) -> _Order:
    sizes = [item.rows.t_ms.size for item in new]
    ends = [at for at, item in enumerate(new) if item.has_end]
    end_ms = [new[at].backlog.end_ms for at in ends]
    owner = np.concatenate((np.repeat(np.arange(len(new)), sizes), np.array(ends, np.int64)))
    t_ms = np.concatenate((*(item.rows.t_ms for item in new), np.array(end_ms, np.int64)))
    row = np.concatenate((*map(np.arange, sizes), np.full(len(ends), -1)))
    instances = [item.instance for item in new]
    passed_ms = np.array([max(delivered_ms.get(instance, 0), oldest_ms - 1) for instance in instances])
    end_is_sent = np.array([item.backlog.end_is_sent for item in new])
    keep = (t_ms > passed_ms[owner]) & ((row >= 0) | end_is_sent[owner])
    of_instance = np.cumsum([0, *(a != b for a, b in pairwise(instances))])[owner]
    in_order = np.lexsort((owner, t_ms, of_instance))
    kept = in_order[keep[in_order]]
    again = (np.diff(t_ms[kept]) == 0) & (np.diff(of_instance[kept]) == 0)
    keep[kept[1:][again]] = False
    return _Order(owner, t_ms, row, keep).part(in_order)


def _batch(new: Sequence[New], rows: _Order) -> Batch:
    by_owner = rows.part(np.argsort(rows.owner, kind="stable"))
    firsts = np.flatnonzero(np.diff(by_owner.owner, prepend=-1))
    is_end = by_owner.row < 0
    # An end that is not sent takes no time: the last tick, 1 ms before, is as far as it goes.
    through_ms = np.maximum.reduceat(by_owner.t_ms - (is_end & ~by_owner.keep), firsts)
    ended = np.logical_or.reduceat(is_end, firsts)
    passed_over = np.add.reduceat(~is_end & ~by_owner.keep, firsts, dtype=np.int64)
    marks: dict[str, Mark] = {}
    samples_passed_over = 0
    columns = (by_owner.owner[firsts], through_ms, ended, passed_over)
    for at, through, has_ended, count in zip(*(column.tolist() for column in columns), strict=True):
        backlog = new[at].backlog
        marks[backlog.session.key] = Mark(max(backlog.mark.delivered_ms, through), has_ended)
        samples_passed_over += count * len(backlog.numbers)
    return Batch(tuple(_blocks(new, rows.part(rows.keep))), marks, samples_passed_over)


def _blocks(new: Sequence[New], rows: _Order) -> Iterator[Block]:
    """A block for each run of one session."""
    edges = [*np.flatnonzero(np.diff(rows.owner, prepend=-1)).tolist(), len(rows.owner)]
    for start, stop in pairwise(edges):
        item = new[int(rows.owner[start])]
        if item.backlog.numbers:
            t_ms, row = rows.t_ms[start:stop], rows.row[start:stop]
            yield Block(item.backlog.series_set, t_ms, _values(item, row), item.backlog.session.start_ms)


def _values(item: New, row: Times) -> npt.NDArray[np.float64]:
    """The values of some rows, which ascend; of the end there are none."""
    first, last = int(row[0]), int(row[-1])
    if last - first == len(row) - 1 and first >= 0:
        return item.rows.values[first : last + 1]
    values = np.full((len(row), len(item.backlog.numbers)), np.nan)
    values[row >= 0] = item.rows.values[row[row >= 0]]
    return values
