"""Ticks of many sessions as columns: sorts them, and computes rates and means.

Strategy: pure functions of arrays. `which` is the session number of each tick, ascending, and `first` the
index of each session's first tick.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from rondo_tools.store.format.frames import Rows
from rondo_tools.store.format.schema import Schema
from rondo_tools.view.buckets import Numbers, Values


def in_order(parts: list[tuple[Schema, Rows]]) -> Iterator[tuple[Schema, Rows]]:
    """Rows of several schemas, so that those of each session are in time order."""
    of_schema: dict[Schema, list[npt.NDArray[np.uint32]]] = {}
    for schema, rows in parts:
        of_schema.setdefault(schema, []).append(rows["session"])
    found, counts = np.unique(
        np.concatenate(
            [np.zeros(0, np.uint32), *(np.unique(np.hstack(some)) for some in of_schema.values())]
        ),
        return_counts=True,
    )
    changed = found[counts > 1]  # few, and each is sorted separately
    for schema, rows in parts:
        yield schema, rows[~np.isin(rows["session"], changed)] if changed.size else rows
    for number in changed.tolist():
        mine = [(schema, rows[rows["session"] == number]) for schema, rows in parts]
        which = np.repeat(np.arange(len(mine)), [rows.size for _, rows in mine])
        place = np.concatenate([np.arange(rows.size) for _, rows in mine])
        order = np.argsort(np.concatenate([rows["t_ms"] for _, rows in mine]), kind="stable")
        begins = np.flatnonzero(np.diff(which[order], prepend=-1))
        for run in np.split(order, begins[1:]):
            schema, rows = mine[which[run[0]]]
            yield schema, rows[place[run]]


def rates(
    grew: Values, took_ms: Numbers, latest: npt.NDArray[np.bool_], which: Numbers, first: Numbers
) -> Values:
    """The increase per second of each VM's counters over its latest ticks; NaN if it is not known."""
    total = np.add.reduceat(np.where(latest[:, np.newaxis], grew, 0), first)
    ms = np.bincount(which, weights=np.where(latest, took_ms, 0))
    return np.asarray(total * 1000 / np.where(ms > 0, ms, np.nan)[:, np.newaxis])


def means(values: Values, columns: Values) -> Values:
    """The mean of the columns of each measure that have a finite value.

    In a product of matrices an infinite value would take those of all other measures with it.
    """
    there = np.isfinite(values)
    count = there @ columns
    return np.asarray(np.where(there, values, 0) @ columns / np.where(count > 0, count, np.nan))
