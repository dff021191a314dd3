"""What has come into a store since somebody looked last: ticks, and ends of sessions.

Strategy: of each journal we know how many frames of rows and how many ends were taken, so each look
reads what was appended, whatever the journals hold. A journal is known by its file id, as one may be
written anew with the same frames. Any other is taken from its begin; so an end or a tick may come twice,
if a store is put back, and is late then.
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
    """What has come into one journal: rows by schema, in the order in which they came within each, and
    ends. `sessions` are all of the journal, by their numbers in it."""

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
    """A session ended; `last_ms` is its last tick then, and a later one undoes an end `lost`."""

    session: SessionRecord
    end: stream.End
    last_ms: int


class Arrivals:
    """Takes what has come from one snapshot to the next."""

    def __init__(self) -> None:
        self._taken: dict[FileHeader, tuple[int, int]] = {}  # frames of rows, ends

    def skip(self, snapshot: Snapshot, since_ms: int | None = None) -> None:
        """What is there now is no news, but for what came with or after the first tick since then."""
        self._taken = {
            view.file.header: (
                (view.heads.size, len(view.all_ends)) if since_ms is None else _before(view, since_ms)
            )
            for view in snapshot.whole_journals()
        }

    def skip_rolled_up(self, snapshot: Snapshot) -> None:
        """All is news that no roll-up has taken up."""
        self.skip(snapshot)
        for view in snapshot.not_rolled_up:
            del self._taken[view.file.header]

    def news(self, snapshot: Snapshot) -> Iterator[News]:
        """What has come since, journal by journal, the oldest first."""
        for view in snapshot.whole_journals():
            frames, ends = self._taken.get(view.file.header, (0, 0))
            if frames == view.heads.size and ends == len(view.all_ends):
                continue
            sessions = {record.number: record for record in view.records.values()}
            ticks = [part for piece in view.pieces(frames) for part in piece.items()]
            yield News(sessions, ticks, view.all_ends[ends:])
        self.skip(snapshot)

    def take(self, snapshot: Snapshot) -> tuple[list[Arrival], list[Ending]]:
        """The same by session; the ticks of a session in the order of its schemas."""
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
    """How many frames and ends of a journal come before its first tick since then."""
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
