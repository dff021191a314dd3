"""What is new in many slabs, looked at together: what a push does for each session, every few seconds.

Strategy: a stretch of slots is a few rows, and a thousand stretches in sequence are a block of rows
like any other. So one `crc32` verifies all of them, and numpy works out all of their times at once.
Where anything is out of the ordinary nothing is said here: that slab has to be read by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple
from zlib import crc32

import numpy as np

from rondo_tools.store.slab import Rows, crc_of_rows, row_dtype
from rondo_tools.store.tiers import Tier


class Stretch(NamedTuple):
    """What stands in a slab's slots from number `first` (t_ms // interval_ms) on, as bytes.

    Wanted of it are rows later than `after_ms`.
    """

    after_ms: int
    first: int
    data: bytes


def rows_of(stretches: Sequence[Stretch], tier: Tier, columns: int) -> list[Rows | None]:
    """The wanted rows of each stretch, in time order; rows of earlier laps are left out.

    None for a stretch that may not be all: its last slot is taken already, or a later lap has come.
    None for all of them if any row of any of them is not whole, or not in its place.
    """
    dtype = row_dtype(columns)
    block = np.frombuffer(b"".join(stretch.data for stretch in stretches), dtype)
    counts = [len(stretch.data) // dtype.itemsize for stretch in stretches]
    written = np.flatnonzero(block["t_ms"] | block["crc"])
    rows = block if written.size == block.size else block[written]
    owner = np.repeat(np.arange(len(stretches)), counts)[written]
    # The slot's number at each row, counted without going round.
    offset = np.array([stretch.first for stretch in stretches]) - np.cumsum([0, *counts[:-1]])
    number = offset[owner] + written
    t_ms = rows["t_ms"].astype(np.int64)
    lap, stray = np.divmod(t_ms // tier.interval_ms - number, tier.slots)
    if crc32(rows.data) != crc_of_rows(dtype.itemsize, rows.size) or stray.any():
        return [None] * len(stretches)
    last = np.array([stretch.first for stretch in stretches]) + counts - 1
    goes_on = np.zeros(len(stretches), np.bool_)
    goes_on[owner[(lap > 0) | (lap == 0) & (number == last[owner])]] = True
    wanted = (lap == 0) & (t_ms > np.array([stretch.after_ms for stretch in stretches])[owner])
    t_ms, values, owner = t_ms[wanted], rows["values"][wanted], owner[wanted]
    np.copyto(values, np.nan, where=np.isnan(values))  # a tick may carry any payload; readers see one
    edges = np.searchsorted(owner, np.arange(len(stretches) + 1)).tolist()
    return [
        None if is_more else Rows(t_ms[start:stop], values[start:stop], 0)
        for is_more, (start, stop) in zip(goes_on.tolist(), pairwise(edges), strict=True)
    ]
