"""What has come into a store since somebody looked last: ticks, and ends of sessions.

Strategy: of each journal we know how many frames of rows and how many ends were taken, so each look
reads what was appended, whatever the journals hold. A journal is known by its file id, as one may be
written anew with the same frames. Any other is taken from its begin; so an end or a tick may come twice,
if a store is put back, and is late then.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from rondo_tools import stream
from rondo_tools.catalog import Series
from rondo_tools.store.format.frames import FileHeader
from rondo_tools.store.format.records import SessionRecord
from rondo_tools.store.journal_view import JournalView
from rondo_tools.store.session_rows import Times, Values
from rondo_tools.store.snapshot import Snapshot


class Arrival(NamedTuple):
    """Ticks of one session: `t_ms` (n,) ascending, `values` (n, series)."""

    session: SessionRecord
    series: tuple[Series, ...]
    t_ms: Times
    values: Values


class Ending(NamedTuple):
    """A session ended; `last_ms` is its last tick then, and a later one undoes an end `lost`."""

    session: SessionRecord
    end: stream.End
    last_ms: int


class Arrivals:
    """Takes what has come from one snapshot to the next."""

    def __init__(self) -> None:
        self._taken: dict[FileHeader, tuple[int, int]] = {}  # frames of rows, ends

    def skip(self, snapshot: Snapshot) -> None:
        """What is there now is no news."""
        self._taken = {
            view.file.header: (view.heads.size, len(view.all_ends)) for view in snapshot.whole_journals()
        }

    def take(self, snapshot: Snapshot) -> tuple[list[Arrival], list[Ending]]:
        """What has come since; the ticks of a session in the order of its schemas."""
        ticks: list[Arrival] = []
        ends: list[Ending] = []
        for view in snapshot.whole_journals():
            frames, known = self._taken.get(view.file.header, (0, 0))
            if frames == view.heads.size and known == len(view.all_ends):
                continue
            sessions = {record.number: record for record in view.records.values()}
            ticks += _ticks(view, frames, sessions)
            ends += [
                Ending(sessions[one.number], stream.End(one.reason, one.t_ms), one.last_ms)
                for one in view.all_ends[known:]
                if one.number in sessions
            ]
        self.skip(snapshot)
        return ticks, ends


def _ticks(view: JournalView, frames: int, sessions: dict[int, SessionRecord]) -> Iterator[Arrival]:
    for piece in view.pieces(frames):
        for schema, rows in piece.items():
            rows = rows[np.argsort(rows["session"], kind="stable")]
            numbers, first = np.unique(rows["session"], return_index=True)
            for number, some in zip(numbers.tolist(), np.split(rows, first[1:]), strict=True):
                if number in sessions:
                    yield Arrival(sessions[number], schema.series, some["t_ms"], some["values"])
