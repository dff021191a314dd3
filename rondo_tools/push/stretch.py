"""A stretch of the journal, [begin, end), frozen, and its slices of time in the order of sending.

Strategy: the journal is in the order in which ticks came, but Prometheus refuses what is an hour
behind its newest sample from anyone. So a stretch is sent in slices of time, at most half an hour
and about a million samples each, oldest first; in a slice by instance, then by time. A stretch never
changes, so its slices and their rows are always the same: a cursor needs no more than the slice and
the number of its rows that are done.

An instance is one line of time. What is not later than what its instance had before the stretch is
passed over, and of rows with equal times all but the first. An END adds a row of its own: all NaN,
one millisecond after the session's last tick.

The first look reads headers of frames only; a slice reads the frames that touch it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rondo_tools.errors import EX_DATAERR, StoreError
from rondo_tools.prom.lives import in_order, is_marked, marker_ms
from rondo_tools.push.vanished import (
    LOOKBACK_MS,
    Change,
    Earlier,
    Fresh,
    Had,
    Vanished,
    search,
    worth_a_search,
)
from rondo_tools.store.format.cursor import Position
from rondo_tools.store.format.frame_file import FrameFile, has_no_header
from rondo_tools.store.format.frames import END, FILE_SIZE, ROWS, SCHEMA, SESSION, Frame
from rondo_tools.store.format.layout import Layout, tier_name
from rondo_tools.store.format.records import EndRecord, SessionRecord, declared_in, ends_in
from rondo_tools.store.format.schema import Schema

SLICE_MS = 1_800_000  # half of the hour that Prometheus allows
SLICE_SAMPLES = 1_000_000
_SECOND_MS = 1000  # slices are cut between seconds

log = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Session(NamedTuple):
    """A session of the stretch. `instance` numbers the instances."""

    record: SessionRecord
    instance: int


_Rows = tuple[npt.NDArray[np.intp], Ints, Floats]
"""Of some rows: whose they are (an index of the stretch's sessions), their times, their values."""


class Slice(NamedTuple):
    """Rows of a slice of time, in the order of sending, as parallel arrays.

    `session` is an index into the stretch's sessions; `part` and `row` say where the values are:
    `parts[part]` is (schema, values). `passed_over` counts the samples that are left out. With `changes`,
    series of an instance vanish.
    """

    session: npt.NDArray[np.intp]
    t_ms: Ints
    part: npt.NDArray[np.intp]
    row: npt.NDArray[np.intp]
    parts: list[tuple[Schema, Floats]]
    passed_over: int
    changes: list[Change]


@dataclass(slots=True)
class _File:
    """A file of the stretch: its ROWS frames and ENDs in it, and whose its session numbers are."""

    file: FrameFile
    rows: list[tuple[int, Frame]]
    ends: list[tuple[Schema, EndRecord]]
    sessions: npt.NDArray[np.intp]


class Stretch:
    """Files of `tier` from `begin` to `end`. Raises StoreError, or FileNotFoundError if one went.

    A file without a right header has no rows.

    `line` is what each instance had at `begin`, where that is known already; else it is read out of
    the files. What is not later than `floor_ms` is passed over; so is what is not later than `since_ms`,
    but for the last `span_ms` of sessions that end in the stretch. With `future_ms`, what an instance had
    that is later holds nothing back. `origins` restricts a coarse tier to
    rows of these journals, those of the first one later than `first_origin_floor_ms`. The owner closes it.
    """

    def __init__(
        self,
        layout: Layout,
        begin: Position,
        end: Position,
        *,
        tier: int = 0,
        line: Mapping[str, int] | None = None,
        floor_ms: int = 0,
        since_ms: int = 0,
        future_ms: int = 0,
        span_ms: int = 0,
        origins: range | None = None,
        first_origin_floor_ms: int = 0,
    ) -> None:
        self.sessions: list[Session] = []
        self._tier = tier
        self._origins = origins
        self._first_origin_floor_ms = first_origin_floor_ms
        self._instances: dict[str, int] = {}
        self._index: dict[tuple[str, int], int] = {}
        self._line: list[int] = []
        self._known_line = line
        self._floor_ms = floor_ms
        self._since_ms = since_ms
        self._future_ms = future_ms
        self._span_ms = span_ms
        self._files: list[_File] = []
        self._layout, self._begin = layout, begin
        self._earlier: Earlier | None = None  # of the file that the stretch begins in
        self._declared_before: set[int] = set()
        self._new: set[int] = set()  # sessions that begin in the stretch
        self._vanished: tuple[int, Vanished] | None = None  # and the slice that it is to see next
        self._samples: Counter[int] = Counter()  # of each second
        try:
            for number in layout.numbers(tier_name(tier)):
                if begin.number <= number <= end.number:
                    self._look(layout, number, begin, end)
        except BaseException:
            self.close()
            raise
        self.cuts = cut_times(self._samples)

    # --- the first look ------------------------------------------------------------------------------

    def _look(self, layout: Layout, number: int, begin: Position, end: Position) -> None:
        path = layout.file(tier_name(self._tier), number)
        try:
            file = FrameFile(path)
        except StoreError as exc:
            if exc.exit_code != EX_DATAERR:
                raise
            if not has_no_header(path):
                log.warning("%s; nothing of it is sent", exc)
            return
        one = _File(file, [], [], np.empty(0, np.intp))
        self._files.append(one)
        begin_at = begin.offset if number == begin.number else FILE_SIZE
        end_at = end.offset if number == end.number else file.size
        sessions: dict[int, int] = {}
        earlier = Earlier(file, self._tier)
        for at, head, payload in file.frames(FILE_SIZE, end_at, (SCHEMA, SESSION, END)):
            if head.kind == SESSION:
                records = list(declared_in(payload))
                for record in records:
                    index = sessions[record.number] = self._session(record)
                    if at < begin_at:
                        self._declared_before.add(index)
                    elif not record.last_ms and index not in self._declared_before:
                        self._new.add(index)
                if at < begin_at:
                    earlier.add_sessions(records)
            elif at < begin_at:
                earlier.add(at, head, payload)
            elif head.schema not in file.schemas:
                continue  # it is damaged
            elif self._origins is not None and head.origin not in self._origins:
                continue
            elif head.kind == END:
                one.ends += ((file.schemas[head.schema], ended) for ended in self._ends_in(head, payload))
            elif head.kind == ROWS:
                one.rows.append((at, head))
        one.sessions = np.full(max(sessions, default=-1) + 1, -1, np.intp)
        one.sessions[list(sessions)] = list(sessions.values())
        if self._known_line is None:
            self._raise(self._line, one, earlier.rows)
        if number == begin.number:
            self._earlier = earlier
        for schema, ended in one.ends:
            self._samples[marker_ms(ended.last_ms) // _SECOND_MS] += schema.width
        for at, head in one.rows:
            width = file.schemas[head.schema].width
            if head.least_ms // _SECOND_MS == head.greatest_ms // _SECOND_MS:
                self._samples[head.least_ms // _SECOND_MS] += head.entries * width
            else:
                seconds, counts = np.unique(self._read(one, at, head)[1] // _SECOND_MS, return_counts=True)
                for second, count in zip(seconds.tolist(), counts.tolist(), strict=True):
                    self._samples[second] += count * width

    def _ends_in(self, head: Frame, payload: memoryview) -> Iterable[EndRecord]:
        if not self._is_first_origin(head):
            return ends_in(payload)
        return (end for end in ends_in(payload) if marker_ms(end.last_ms) > self._first_origin_floor_ms)

    def _is_first_origin(self, head: Frame) -> bool:
        """Whether it is of the journal of which a part was delivered."""
        return self._origins is not None and head.origin == self._origins.start

    def _session(self, record: SessionRecord) -> int:
        index = self._index.get(record.key)
        if index is None:
            instance = self._instances.get(record.instance)
            if instance is None:
                instance = self._instances[record.instance] = len(self._instances)
                had_ms = max(record.last_ms, record.before_ms)
                if self._known_line is not None:
                    had_ms = self._known_line.get(record.instance, had_ms)
                elif self._tier:
                    had_ms = 0  # a coarse file is continued by what was there before
                if self._future_ms and had_ms > self._future_ms:
                    had_ms = 0
                self._line.append(max(had_ms, self._floor_ms))
            index = self._index[record.key] = len(self.sessions)
            self.sessions.append(Session(record, instance))
        return index

    def _raise(self, line: list[int], one: _File, rows: Iterable[tuple[int, Frame]]) -> None:
        """Raise each instance's line to its newest row in some frames."""
        for at, head in rows:
            session, t_ms, _ = self._read(one, at, head)
            firsts = np.flatnonzero(np.diff(session, prepend=-1))
            if firsts.size:
                newest = np.maximum.reduceat(t_ms, firsts)
                for index, last_ms in zip(session[firsts].tolist(), newest.tolist(), strict=True):
                    if self._future_ms and last_ms > self._future_ms:
                        continue
                    instance = self.sessions[index].instance
                    line[instance] = max(line[instance], last_ms)

    # --- slices --------------------------------------------------------------------------------------

    @property
    def slices(self) -> int:
        """How many slices there are."""
        return max(0, len(self.cuts) - 1)

    @property
    def rows(self) -> int:
        """How many rows there are, passed over or not."""
        return sum(head.entries for one in self._files for _, head in one.rows)

    def line_before(self) -> dict[str, int]:
        """What each instance had before the stretch."""
        return self._named(self._line)

    def line(self) -> dict[str, int]:
        """What each instance has at the stretch's end."""
        line = self._line.copy()
        for one in self._files:
            self._raise(line, one, one.rows)
        return self._named(line)

    def _named(self, line: list[int]) -> dict[str, int]:
        """By instance; what was forgotten has no name."""
        forgotten = {one.instance for one in self.sessions if one.record.is_forgotten}
        return {name: line[number] for name, number in self._instances.items() if number not in forgotten}

    def slice(self, number: int) -> Slice:
        """Slice `number`, from 0 on."""
        if self._vanished is None or self._vanished[0] != number:
            made = Vanished(
                [one.record for one in self.sessions],
                [one.instance for one in self.sessions],
                self._new,
                self._had_before,
            )
            first = next(n for n in range(number + 1) if self.cuts[n + 1] > self.cuts[number] - LOOKBACK_MS)
            self._vanished = first, made
            for earlier in range(first, number):  # what instances have at its begin
                self.slice(earlier)
        self._vanished = number + 1, self._vanished[1]
        return self._slice(number, self._vanished[1])

    def _slice(self, number: int, vanished: Vanished) -> Slice:
        begin_ms, until_ms = self.cuts[number], self.cuts[number + 1]
        rows: dict[Schema, list[_Rows]] = {}
        markers: dict[Schema, list[_Rows]] = {}
        for one in self._files:
            for at, head in one.rows:
                if head.greatest_ms < begin_ms or head.least_ms >= until_ms:
                    continue
                session, t_ms, values = self._read(one, at, head)
                if head.least_ms < begin_ms or head.greatest_ms >= until_ms:
                    within = (t_ms >= begin_ms) & (t_ms < until_ms)
                    session, t_ms, values = session[within], t_ms[within], values[within]
                rows.setdefault(one.file.schemas[head.schema], []).append((session, t_ms, values))
            for schema, record in one.ends:
                at_ms = marker_ms(record.last_ms)
                if begin_ms <= at_ms < until_ms and self._is_marked(one, record):
                    nothing = np.full((1, schema.width_in(self._tier)), np.nan)
                    session = one.sessions[[record.number]]
                    markers.setdefault(schema, []).append((session, np.array([at_ms], np.int64), nothing))
        return self._in_order([*rows.items()], [*markers.items()], vanished)

    def _is_marked(self, one: _File, record: EndRecord) -> bool:
        """Whether an end gets a marker."""
        if record.number >= one.sessions.size or one.sessions[record.number] < 0:
            return False
        mine = self.sessions[int(one.sessions[record.number])]
        return is_marked(mine.record.start_ms, record.last_ms, self._starts_ms[mine.instance])

    @cached_property
    def _starts_ms(self) -> dict[int, list[int]]:
        """When the lives of each instance began."""
        found: dict[int, list[int]] = {}
        for session in self.sessions:
            found.setdefault(session.instance, []).append(session.record.start_ms)
        return found

    def _in_order(
        self,
        rows: list[tuple[Schema, list[_Rows]]],
        markers: list[tuple[Schema, list[_Rows]]],
        vanished: Vanished,
    ) -> Slice:
        parts: list[tuple[Schema, Floats]] = []
        columns = []
        for schema, some in (*rows, *markers):
            session, t_ms, values = (np.concatenate(column) for column in zip(*some, strict=True))
            columns.append((session, t_ms, np.full(session.size, len(parts)), np.arange(session.size)))
            parts.append((schema, values))
        if not parts:
            empty = np.empty(0, np.intp)
            return Slice(empty, np.empty(0, np.int64), empty, empty, [], 0, [])
        session, t_ms, part, row = (np.concatenate(column) for column in zip(*columns, strict=True))
        instance = np.array([one.instance for one in self.sessions], np.intp)[session]
        start_ms = np.array([one.record.start_ms for one in self.sessions], np.int64)[session]
        past_ms = np.maximum(np.array(self._line)[instance], self._floors()[session])
        order = in_order(instance, start_ms, t_ms, part >= len(rows), past_ms)
        samples = np.where(part < len(rows), np.array([schema.width for schema, _ in parts])[part], 0)
        passed_over = int(samples.sum() - samples[order].sum())
        session, t_ms, part = session[order], t_ms[order], part[order]
        changes = vanished.changes(session, part, t_ms, [schema for schema, _ in parts], len(rows))
        return Slice(session, t_ms, part, row[order], parts, passed_over, changes)

    def _had_before(self, fresh: dict[int, Fresh]) -> dict[int, Had]:
        """What was before the stretch, for `Vanished`."""
        if self._since_ms or self._origins is not None or self._earlier is None:
            return {}  # what was before is not delivered, or not in these files
        wanted = worth_a_search(fresh, self._declared_before)
        return search(wanted, self._earlier, self._layout, self._tier, self._begin.number)

    def _floors(self) -> Ints:
        """For each session, the time up to which a first delivery leaves its rows."""
        floors = np.full(len(self.sessions), self._since_ms, np.int64)
        if self._since_ms:
            for one in self._files:
                for _, record in one.ends:
                    if record.number < one.sessions.size and (index := one.sessions[record.number]) >= 0:
                        floors[index] = min(floors[index], record.last_ms - self._span_ms)
        return floors

    def _read(self, one: _File, at: int, head: Frame) -> _Rows:
        """A frame's rows; none of a damaged one, and none of a session whose declaration was damaged."""
        rows = one.file.read_rows(at, head, self._tier)
        if rows is None:
            width = one.file.schemas[head.schema].width_in(self._tier)
            return np.empty(0, np.intp), np.empty(0, np.int64), np.empty((0, width))
        if self._is_first_origin(head):
            rows = rows[rows["t_ms"] > self._first_origin_floor_ms]
        number = rows["session"]
        known = number < one.sessions.size
        if not known.all():
            rows, number = rows[known], number[known]
        session = one.sessions[number]
        if session.size and session.min() < 0:
            rows, session = rows[session >= 0], session[session >= 0]
        return session, rows["t_ms"].astype(np.int64), rows["values"]

    def close(self) -> None:
        for one in self._files:
            one.file.close()

    def __enter__(self) -> Stretch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def cut_times(samples: Mapping[int, int]) -> list[int]:
    """Where slices begin and the last one ends, in ms: at half-hours, and where a million samples are full.

    `samples` maps seconds to how many samples are in them. A second is never cut.
    """
    cuts: list[int] = []
    seen = 0
    half_hour = -1
    for second in sorted(samples):
        at_ms = second * _SECOND_MS
        if at_ms // SLICE_MS != half_hour or seen + samples[second] > SLICE_SAMPLES:
            cuts.append(at_ms)
            half_hour, seen = at_ms // SLICE_MS, 0
        seen += samples[second]
    return [*cuts, (max(samples) + 1) * _SECOND_MS] if cuts else []
