"""A frozen stretch of the journal, [begin, end), and its slices of time in sending order.

Strategy: the journal has ticks in the order of arrival, but Prometheus refuses samples more than an hour
behind its newest sample from any sender. So a stretch is sent in slices of time, at most half an hour
and about a million samples each, oldest first; a slice is sorted by instance, then by time. A stretch
never changes, so its slices and rows are always the same: a cursor needs only the slice and the number of
its done rows.

An instance is one line of time. Rows not later than its last row before the stretch are passed over, and
so are all but the first of rows with equal times. An END adds a row: all NaN, one millisecond after the
session's last tick.

The constructor reads only the headers of frames; a slice reads the frames that overlap it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rondo_tools.errors import EX_DATAERR, StoreError
from rondo_tools.prom.lives import in_order, is_marked, marker_ms
from rondo_tools.push.stretch_file import SECOND_MS, End, Floats, Ints, Owed, Rows, StretchFile
from rondo_tools.push.vanished import (
    LOOKBACK_MS,
    Change,
    Fresh,
    Had,
    Vanished,
    search,
    worth_a_search,
)
from rondo_tools.store.format.cursor import Position
from rondo_tools.store.format.frame_file import has_no_header
from rondo_tools.store.format.frames import FILE_SIZE
from rondo_tools.store.format.layout import Layout, tier_name
from rondo_tools.store.format.records import SessionRecord
from rondo_tools.store.format.schema import Schema

SLICE_MS = 1_800_000  # half of the hour that Prometheus allows
SLICE_SAMPLES = 1_000_000

log = logging.getLogger(__name__)


class Session(NamedTuple):
    """A session of the stretch. `instance` numbers the instances."""

    record: SessionRecord
    instance: int


class Slice(NamedTuple):
    """Rows of a slice of time, in sending order, as parallel arrays.

    `session` is an index into the stretch's sessions; `part` and `row` locate the values: `parts[part]` is
    (schema, values). `passed_over` counts the samples that are left out. `changes` are the rows at which
    series of an instance vanish.
    """

    session: npt.NDArray[np.intp]
    t_ms: Ints
    part: npt.NDArray[np.intp]
    row: npt.NDArray[np.intp]
    parts: list[tuple[Schema, Floats]]
    passed_over: int
    changes: list[Change]


class Stretch:
    """Files of `tier` from `begin` to `end`. Raises StoreError, or FileNotFoundError if a file is gone.

    A file with a damaged header has no rows.

    `line` is each instance's last time at `begin`, if it is known; otherwise it is read from the files.
    Rows not later than `floor_ms` are passed over; so are rows not later than `since_ms`, except the last
    `span_ms` of sessions that end in the stretch. With `future_ms`, earlier rows later than that do not
    hold back an instance. `owed` restricts a coarse tier to the rows of removed journals. The owner closes
    it.
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
        owed: Owed | None = None,
    ) -> None:
        self.sessions: list[Session] = []
        self._tier = tier
        self._owed = owed
        self._instances: dict[str, int] = {}
        self._index: dict[tuple[str, int], int] = {}
        self._line: list[int] = []
        self._known_line = line
        self._floor_ms = floor_ms
        self._since_ms = since_ms
        self._future_ms = future_ms
        self._span_ms = span_ms
        self._files: list[StretchFile] = []
        self._layout, self._begin = layout, begin
        self._declared_before: set[int] = set()  # sessions, in the stretch's first file
        self._new: set[int] = set()  # sessions that begin in the stretch
        self._vanished: tuple[int, Vanished] | None = None  # with the number of its next slice
        samples: Counter[int] = Counter()  # of each second
        try:
            for number in layout.numbers(tier_name(tier)):
                if begin.number <= number <= end.number:
                    self._look(number, end, samples)
        except BaseException:
            self.close()
            raise
        self.cuts = cut_times(samples)

    # --- headers -------------------------------------------------------------------------------------

    def _look(self, number: int, end: Position, samples: Counter[int]) -> None:
        begin_at = self._begin.offset if number == self._begin.number else FILE_SIZE
        end_at = end.offset if number == end.number else None
        path = self._layout.file(tier_name(self._tier), number)
        try:
            file = StretchFile(path, self._tier, begin_at, end_at, self._declare, self._owed)
        except StoreError as exc:
            if exc.exit_code != EX_DATAERR:
                raise
            if not has_no_header(path):
                log.warning("%s; its rows are not sent", exc)
            return
        self._files.append(file)
        if self._known_line is None:
            self._raise(self._line, file.each_before())
        file.count(samples)

    def _declare(self, record: SessionRecord, is_before: bool) -> int:
        index = self._session(record)
        if is_before:
            self._declared_before.add(index)
        elif not record.last_ms and index not in self._declared_before:
            self._new.add(index)
        return index

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
                    had_ms = 0  # in a coarse file the rows before the stretch have it
                if self._future_ms and had_ms > self._future_ms:
                    had_ms = 0
                self._line.append(max(had_ms, self._floor_ms))
            index = self._index[record.key] = len(self.sessions)
            self.sessions.append(Session(record, instance))
        return index

    def _raise(self, line: list[int], some: Iterable[Rows]) -> None:
        """Set each instance's line to the time of its newest row."""
        for rows in some:
            firsts = np.flatnonzero(np.diff(rows.session, prepend=-1))
            if firsts.size:
                newest = np.maximum.reduceat(rows.t_ms, firsts)
                for index, last_ms in zip(rows.session[firsts].tolist(), newest.tolist(), strict=True):
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
        """How many rows there are, including those passed over."""
        return sum(one.rows for one in self._files)

    def line_before(self) -> dict[str, int]:
        """Each instance's last time before the stretch."""
        return self._named(self._line)

    def line(self) -> dict[str, int]:
        """Each instance's last time at the stretch's end."""
        line = self._line.copy()
        for one in self._files:
            self._raise(line, one.each())
        return self._named(line)

    def _named(self, line: list[int]) -> dict[str, int]:
        """The line by instance name, without forgotten instances."""
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
            for earlier in range(first, number):  # for the series that instances have before the slice
                self.slice(earlier)
        self._vanished = number + 1, self._vanished[1]
        return self._slice(number, self._vanished[1])

    def _slice(self, number: int, vanished: Vanished) -> Slice:
        begin_ms, until_ms = self.cuts[number], self.cuts[number + 1]
        rows: dict[Schema, list[Rows]] = {}
        markers: dict[Schema, list[Rows]] = {}
        for one in self._files:
            for some in one.each(begin_ms, until_ms):
                rows.setdefault(some.schema, []).append(some)
            for end in one.ends:
                at_ms = marker_ms(end.last_ms)
                if begin_ms <= at_ms < until_ms and self._is_marked(end):
                    nothing = np.full((1, end.schema.width_in(self._tier)), np.nan)
                    marker = Rows(end.schema, np.array([end.session]), np.array([at_ms], np.int64), nothing)
                    markers.setdefault(end.schema, []).append(marker)
        return self._in_order([*rows.items()], [*markers.items()], vanished)

    def _is_marked(self, end: End) -> bool:
        """Whether an end gets a stale marker."""
        mine = self.sessions[end.session]
        return is_marked(mine.record.start_ms, end.last_ms, self._starts_ms[mine.instance])

    @cached_property
    def _starts_ms(self) -> dict[int, list[int]]:
        """The start times of each instance's lives."""
        found: dict[int, list[int]] = {}
        for session in self.sessions:
            found.setdefault(session.instance, []).append(session.record.start_ms)
        return found

    def _in_order(
        self,
        rows: list[tuple[Schema, list[Rows]]],
        markers: list[tuple[Schema, list[Rows]]],
        vanished: Vanished,
    ) -> Slice:
        parts: list[tuple[Schema, Floats]] = []
        columns = []
        for schema, some in (*rows, *markers):
            _, *in_pieces = zip(*some, strict=True)
            session, t_ms, values = map(np.concatenate, in_pieces)
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
        """The series that sessions had before the stretch, for `Vanished`."""
        if self._since_ms or self._owed is not None:
            return {}  # earlier rows were not delivered, or are not in these files
        wanted = worth_a_search(fresh, self._declared_before)
        return search(wanted, self._files[0].earlier, self._layout, self._tier, self._begin.number)

    def _floors(self) -> Ints:
        """For each session, the time up to which a first delivery passes over its rows."""
        floors = np.full(len(self.sessions), self._since_ms, np.int64)
        if self._since_ms:
            for one in self._files:
                for end in one.ends:
                    floors[end.session] = min(floors[end.session], end.last_ms - self._span_ms)
        return floors

    def close(self) -> None:
        for one in self._files:
            one.close()

    def __enter__(self) -> Stretch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def cut_times(samples: Mapping[int, int]) -> list[int]:
    """The times, in ms, at which slices begin, and the end of the last: each half-hour or million samples.

    `samples` maps a second to its number of samples. A second is never split.
    """
    cuts: list[int] = []
    seen = 0
    half_hour = -1
    for second in sorted(samples):
        at_ms = second * SECOND_MS
        if at_ms // SLICE_MS != half_hour or seen + samples[second] > SLICE_SAMPLES:
            cuts.append(at_ms)
            half_hour, seen = at_ms // SLICE_MS, 0
        seen += samples[second]
    return [*cuts, (max(samples) + 1) * SECOND_MS] if cuts else []
