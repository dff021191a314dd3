"""One file of a stretch: its frames in the stretch, and those before it.

Strategy: the constructor reads the headers of frames, and the frames that declare or end sessions; rows
are read when they are needed. The file's session numbers are mapped to indices of the whole stretch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rondo_tools.prom.lives import marker_ms
from rondo_tools.push.vanished import Earlier
from rondo_tools.store.format.frame_file import FrameFile
from rondo_tools.store.format.frames import END, FILE_SIZE, ROWS, SCHEMA, SESSION, Frame
from rondo_tools.store.format.records import EndRecord, SessionRecord, declared_in, ends_in
from rondo_tools.store.format.schema import Schema

SECOND_MS = 1000  # slices begin at whole seconds

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Owed(NamedTuple):
    """The part of a coarse tier that replaces removed journals: rows and ends of `origins`. Of the first
    journal, only those later than `floor_ms`, because a part of it was delivered."""

    origins: range
    floor_ms: int


class Rows(NamedTuple):
    """Rows of `schema`: their sessions (indices into the stretch's sessions), times and values."""

    schema: Schema
    session: npt.NDArray[np.intp]
    t_ms: Ints
    values: Floats


class End(NamedTuple):
    """A session that ends in the stretch: its index, last tick and last schema."""

    session: int
    last_ms: int
    schema: Schema


class StretchFile:
    """Raises StoreError or FileNotFoundError like FrameFile. The owner closes it.

    The bytes [begin_at, end_at) of the file are in the stretch; without `end_at`, up to its current end.
    `index(record, is_before)` returns a session's index, declared before the stretch or in it.
    """

    def __init__(
        self,
        path: Path,
        tier: int,
        begin_at: int,
        end_at: int | None,
        index: Callable[[SessionRecord, bool], int],
        owed: Owed | None,
    ) -> None:
        self._file = FrameFile(path)
        self._tier, self._owed = tier, owed
        self.earlier = Earlier(self._file, tier)
        self._rows: list[tuple[int, Frame]] = []
        ends: list[tuple[Schema, EndRecord]] = []
        sessions: dict[int, int] = {}
        try:
            for at, head, payload in self._file.frames(FILE_SIZE, end_at, (SCHEMA, SESSION, END)):
                if head.kind == SESSION:
                    records = list(declared_in(payload))
                    sessions.update((one.number, index(one, at < begin_at)) for one in records)
                    if at < begin_at:
                        self.earlier.add_sessions(records)
                elif at < begin_at:
                    self.earlier.add(at, head, payload)
                elif self._is_wanted(head):
                    if head.kind == ROWS:
                        self._rows.append((at, head))
                    elif head.kind == END:
                        schema = self._file.schemas[head.schema]
                        ends += ((schema, one) for one in self._later(head, ends_in(payload)))
        except BaseException:
            self.close()
            raise
        self._sessions = np.full(max(sessions, default=-1) + 1, -1, np.intp)
        self._sessions[list(sessions)] = list(sessions.values())
        self.ends = [
            End(sessions[one.number], one.last_ms, schema) for schema, one in ends if one.number in sessions
        ]

    @property
    def rows(self) -> int:
        return sum(head.entries for _, head in self._rows)

    def each(self, begin_ms: int = 0, until_ms: int = 1 << 62) -> Iterator[Rows]:
        """The rows with times in [begin_ms, until_ms), frame by frame."""
        for at, head in self._rows:
            if head.greatest_ms < begin_ms or head.least_ms >= until_ms:
                continue
            rows = self._read(at, head)
            if head.least_ms < begin_ms or head.greatest_ms >= until_ms:
                within = (rows.t_ms >= begin_ms) & (rows.t_ms < until_ms)
                rows = Rows(rows.schema, rows.session[within], rows.t_ms[within], rows.values[within])
            yield rows

    def each_before(self) -> Iterator[Rows]:
        """The rows before the stretch, frame by frame."""
        return (self._read(at, head) for at, head in self.earlier.rows)

    def count(self, samples: Counter[int]) -> None:
        """Count the samples of each second."""
        for end in self.ends:
            samples[marker_ms(end.last_ms) // SECOND_MS] += end.schema.width
        for at, head in self._rows:
            width = self._file.schemas[head.schema].width
            if head.least_ms // SECOND_MS == head.greatest_ms // SECOND_MS:
                samples[head.least_ms // SECOND_MS] += head.entries * width
            else:
                seconds, counts = np.unique(self._read(at, head).t_ms // SECOND_MS, return_counts=True)
                for second, count in zip(seconds.tolist(), counts.tolist(), strict=True):
                    samples[second] += count * width

    def close(self) -> None:
        self._file.close()

    def _is_wanted(self, head: Frame) -> bool:
        """Whether a frame has a known schema, and its journal is not excluded by `owed`."""
        is_owed = self._owed is None or head.origin in self._owed.origins
        return is_owed and head.schema in self._file.schemas

    def _floor_ms(self, head: Frame) -> int:
        """The time up to which a frame was delivered."""
        owed = self._owed
        return owed.floor_ms if owed is not None and head.origin == owed.origins.start else 0

    def _later(self, head: Frame, ends: Iterable[EndRecord]) -> Iterator[EndRecord]:
        floor_ms = self._floor_ms(head)
        return (one for one in ends if marker_ms(one.last_ms) > floor_ms)

    def _read(self, at: int, head: Frame) -> Rows:
        """A frame's rows, without those of sessions with a damaged declaration; none of a damaged frame."""
        schema = self._file.schemas[head.schema]
        rows = self._file.read_rows(at, head, self._tier)
        if rows is None:
            nothing = np.empty((0, schema.width_in(self._tier)))
            return Rows(schema, np.empty(0, np.intp), np.empty(0, np.int64), nothing)
        if floor_ms := self._floor_ms(head):
            rows = rows[rows["t_ms"] > floor_ms]
        number = rows["session"]
        known = number < self._sessions.size
        if not known.all():
            rows, number = rows[known], number[known]
        session = self._sessions[number]
        if session.size and session.min() < 0:
            rows, session = rows[session >= 0], session[session >= 0]
        return Rows(schema, session, rows["t_ms"].astype(np.int64), rows["values"])
