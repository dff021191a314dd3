"""Arrivals: the ticks and ends that came into a store since the last look.

Strategy: for each journal we keep the number of ROWS frames and of ends that were taken, so each look reads
only what was appended. A journal is identified by its file id: rewriting it keeps its frames. Any other
journal is taken from its begin; so after a backup was put back, an end or a tick may come twice, and is late
then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from rondo_tools import stream
from rondo_tools.catalog import Series
from rondo_tools.store.format.frames import FileHeader, Rows
from rondo_tools.store.format.records import EndRecord, SessionRecord
from rondo_tools.store.format.schema import Schema
from rondo_tools.store.journal_view import JournalView
from rondo_tools.store.session_rows import Times, Values
from rondo_tools.store.snapshot import Snapshot


class News(NamedTuple):
    """New rows and ends of one journal. Rows of each schema are in their order of arrival. `sessions` has all
    sessions of the journal, by number."""

    sessions: Mapping[int, SessionRecord]
    ticks: list[tuple[Schema, Rows]]
    ends: list[EndRecord]


class Arrival(NamedTuple):
    """Ticks of one session: `t_ms` (n,) ascending, `values` (n, series)."""

    session: SessionRecord
    series: tuple[Series, ...]
    t_ms: Times
    values: Values


class Ending(NamedTuple):
    """The end of a session; `last_ms` is its last tick then. A later tick undoes an end `lost`."""

    session: SessionRecord
    end: stream.End
    last_ms: int


class Arrivals:
    """Takes the new data of each snapshot."""

    def __init__(self) -> None:
        self._taken: dict[FileHeader, tuple[int, int]] = {}  # ROWS frames, ends

    def skip(self, snapshot: Snapshot, since_ms: int | None = None) -> None:
        """Skip the data of a snapshot, or the part of it before the first tick since `since_ms`."""
        self._taken = {
            view.file.header: (
                (view.heads.size, len(view.all_ends)) if since_ms is None else _before(view, since_ms)
            )
            for view in snapshot.whole_journals()
        }

    def skip_rolled_up(self, snapshot: Snapshot) -> None:
        """Skip the journals that are rolled up."""
        self.skip(snapshot)
        for view in snapshot.not_rolled_up:
            del self._taken[view.file.header]

    def news(self, snapshot: Snapshot) -> Iterator[News]:
        """The new data, journal by journal, the oldest first."""
        for view in snapshot.whole_journals():
            frames, ends = self._taken.get(view.file.header, (0, 0))
            if frames == view.heads.size and ends == len(view.all_ends):
                continue
            sessions = {record.number: record for record in view.records.values()}
            ticks = [part for piece in view.pieces(frames) for part in piece.items()]
            yield News(sessions, ticks, view.all_ends[ends:])
        self.skip(snapshot)

    def take(self, snapshot: Snapshot) -> tuple[list[Arrival], list[Ending]]:
        """The new data by session; the ticks of a session in the order of its schemas."""
        ticks: list[Arrival] = []
        ends: list[Ending] = []
        for news in self.news(snapshot):
            for schema, rows in news.ticks:
                ticks += _by_session(news.sessions, schema, rows)
            ends += [
                Ending(news.sessions[one.number], stream.End(one.reason, one.t_ms), one.last_ms)
                for one in news.ends
                if one.number in news.sessions
            ]
        return ticks, ends


def _before(view: JournalView, since_ms: int) -> tuple[int, int]:
    """The number of frames and of ends of a journal before its first tick since `since_ms`."""
    late = view.heads["greatest_ms"] >= since_ms
    ended = (number for number, one in enumerate(view.all_ends) if one.last_ms >= since_ms)
    frames = int(late.argmax()) if late.any() else view.heads.size
    return frames, next(ended, len(view.all_ends))


def _by_session(sessions: Mapping[int, SessionRecord], schema: Schema, rows: Rows) -> Iterator[Arrival]:
    rows = rows[np.argsort(rows["session"], kind="stable")]
    numbers, first = np.unique(rows["session"], return_index=True)
    for number, some in zip(numbers.tolist(), np.split(rows, first[1:]), strict=True):
        if number in sessions:
            yield Arrival(sessions[number], schema.series, some["t_ms"], some["values"])
