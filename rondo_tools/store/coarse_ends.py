"""Ends of sessions in the files of a coarse tier, after the session's last row: a push of the tier sees there
that no other row will come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from rondo_tools.store.format import frames
from rondo_tools.store.format.records import EndRecord, pack_ends
from rondo_tools.store.format.rollup import Ints

_ENDS_A_FRAME = 8192  # of at most 70 bytes each


class Ends(NamedTuple):
    """The ends in a journal, by slot."""

    journal: int
    of_slots: Mapping[int, EndRecord]


def end_frames(seed: int, schema: int, slots: Ints, t_ms: Ints, numbers: Ints, ends: Ends) -> Iterator[bytes]:
    """END frames for rows of one schema: for the sessions whose last tick is in one of them.

    `numbers` gives a slot's number in the file.
    """
    over = ends.of_slots
    places = np.flatnonzero(np.isin(slots, np.fromiter(over, np.int64)))
    columns = (column.tolist() for column in (slots[places], t_ms[places], numbers[slots[places]]))
    found = [
        EndRecord(number, *over[slot][1:])
        for slot, at_ms, number in zip(*columns, strict=True)
        if at_ms == over[slot].last_ms
    ]
    for at in range(0, len(found), _ENDS_A_FRAME):
        some = found[at : at + _ENDS_A_FRAME]
        payload = pack_ends(some)
        yield frames.frame(seed, frames.END, payload, schema=schema, entries=len(some), origin=ends.journal)
