"""Series that an instance loses, because its session's schema changed or its next life has other series:
each gets a stale marker at the time of the first row without it.

Strategy: compare the session and the schema of a row with those of the row before; ignore the values. For
the first row, search backwards in the files: in the stretch's first file, then in those before it, but not
beyond the time for which Prometheus shows a series without samples. Markers are not rows, and the cursor
does not count them, so a failed search costs a marker and never a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rondo_tools.errors import StoreError
from rondo_tools.store.format.frame_file import FrameFile
from rondo_tools.store.format.frames import END, FILE_SIZE, ROWS, SCHEMA, SESSION, Frame
from rondo_tools.store.format.layout import Layout, tier_name
from rondo_tools.store.format.records import SessionRecord, ends_in, sessions_in
from rondo_tools.store.format.schema import Schema

LOOKBACK_MS = 300_000  # Prometheus' --query.lookback-delta, by default

Places = npt.NDArray[np.intp]
Ints = npt.NDArray[np.int64]


class Had(NamedTuple):
    """The last rows of an instance: their session and schema."""

    record: SessionRecord
    schema: Schema


class Change(NamedTuple):
    """At row `at` of a slice, an instance's session or schema differs from what it `had`."""

    at: int
    had: Had


class Fresh(NamedTuple):
    """A session whose first row in the stretch is at `t_ms`; `is_new` if it is the first of its life."""

    record: SessionRecord
    t_ms: int
    is_new: bool


Before = Callable[[dict[int, Fresh]], Mapping[int, Had]]
"""Returns, by session index, what a session had before the stretch; for a new life, what its instance had."""


class Vanished:
    """Finds the changes in one stretch, slice by slice, in order.

    `records` and `instances` belong to the stretch's sessions; `new` are the sessions that begin in it.
    """

    def __init__(
        self, records: list[SessionRecord], instances: list[int], new: set[int], before: Before
    ) -> None:
        self._records, self._instances, self._new, self._before = records, instances, new, before
        self._of_session: dict[int, Schema] = {}
        self._of_instance: dict[int, Had | None] = {}  # None: its series have ended

    def changes(
        self, session: Places, part: Places, t_ms: Ints, schemas: list[Schema], first_marker: int
    ) -> list[Change]:
        """The changes in the next slice. Its rows are in sending order; `session` and `part` are indices
        into the stretch's sessions and `schemas`. Parts from `first_marker` on are markers of ends."""
        at = np.flatnonzero((np.diff(session, prepend=-1) != 0) | (np.diff(part, prepend=-1) != 0))
        runs = list(zip(*(column.tolist() for column in (at, session[at], part[at], t_ms[at])), strict=True))
        fresh: dict[int, Fresh] = {}
        for _, one, _, at_ms in runs:
            if one not in self._of_session and one not in fresh:
                fresh[one] = Fresh(self._records[one], at_ms, one in self._new)
        before = self._before(fresh) if fresh else {}
        found = []
        for place, one, number, _ in runs:
            instance, schema, record = self._instances[one], schemas[number], self._records[one]
            if number >= first_marker:
                self._of_instance[instance] = None
            else:
                had = self._had(one, instance, before)
                if had is not None and (had.schema, had.record.labels) != (schema, record.labels):
                    found.append(Change(place, had))
                self._of_instance[instance] = Had(record, schema)
            self._of_session[one] = schema
        return found

    def _had(self, session: int, instance: int, before: Mapping[int, Had]) -> Had | None:
        schema = self._of_session.get(session)
        if schema is not None:
            return Had(self._records[session], schema)
        if session in self._new and instance in self._of_instance:
            return self._of_instance[instance]
        return before.get(session)


class Earlier:
    """The frames of one file before a stretch."""

    def __init__(self, file: FrameFile, tier: int) -> None:
        self.rows: list[tuple[int, Frame]] = []
        self._file, self._tier = file, tier
        self._records: dict[int, SessionRecord] = {}  # by number in the file
        self._ends: list[bytes] = []

    def read(self) -> None:
        """Add the whole file."""
        for at, head, payload in self._file.frames(FILE_SIZE, None, (SCHEMA, SESSION, END)):
            if head.kind == SESSION:
                self.add_sessions(sessions_in(payload))
            else:
                self.add(at, head, payload)

    def add_sessions(self, records: Iterable[SessionRecord]) -> None:
        self._records.update((one.number, one) for one in records)

    def add(self, at: int, head: Frame, payload: memoryview) -> None:
        """Add the next frame of ROWS or END; other kinds are ignored."""
        if head.kind == ROWS and head.schema in self._file.schemas:
            self.rows.append((at, head))
        elif head.kind == END:
            self._ends.append(bytes(payload))

    def find(self, wanted: dict[int, Fresh], since_ms: int) -> dict[int, Had]:
        """The last rows of `wanted` in this file, since `since_ms`; removes settled ones from `wanted`."""
        of_number = self._of_number(wanted)
        self._without_ended(of_number, wanted)
        found = self._if_of_one_schema(of_number, wanted)
        for at, head in reversed(self.rows):
            if not any(index in wanted for indices in of_number.values() for index in indices):
                break
            if head.greatest_ms < since_ms or (rows := self._file.read_rows(at, head, self._tier)) is None:
                continue
            for number in set(rows["session"].tolist()) & of_number.keys():
                had = Had(self._records[number], self._file.schemas[head.schema])
                for index in of_number.pop(number):
                    if wanted.pop(index, None) is not None:
                        found[index] = had
        return found

    def _of_number(self, wanted: Mapping[int, Fresh]) -> dict[int, list[int]]:
        """By session number in this file, the indices of the wanted sessions that it may belong to."""
        of_name: dict[str, list[int]] = {}
        for index, fresh in wanted.items():
            of_name.setdefault(fresh.record.instance, []).append(index)
        found: dict[int, list[int]] = {}
        for number, record in self._records.items():
            for index in of_name.get(record.instance, ()):
                if wanted[index].is_new or record.start_ms == wanted[index].record.start_ms:
                    found.setdefault(number, []).append(index)
        return found

    def _without_ended(self, of_number: Mapping[int, list[int]], wanted: dict[int, Fresh]) -> None:
        """Remove new lives from `wanted` if the last life has ended: it got its markers."""
        if not any(wanted[index].is_new for indices in of_number.values() for index in indices):
            return
        for payload in self._ends:
            for end in ends_in(payload):
                for index in of_number.get(end.number, ()):
                    if index in wanted and wanted[index].record.before_ms == end.last_ms:
                        del wanted[index]

    def _if_of_one_schema(
        self, of_number: Mapping[int, list[int]], wanted: dict[int, Fresh]
    ) -> dict[int, Had]:
        """The wanted sessions that are found without reading rows, because all rows have one schema."""
        schemas = {head.schema for _, head in self.rows}
        if len(schemas) != 1:
            return {}
        schema = self._file.schemas[schemas.pop()]
        return {
            index: Had(self._records[number], schema)
            for number, indices in of_number.items()
            for index in indices
            if index in wanted and not wanted[index].is_new and wanted.pop(index)
        }


def worth_a_search(fresh: Mapping[int, Fresh], declared_before: set[int]) -> dict[int, Fresh]:
    """The sessions that had a row in the last LOOKBACK_MS. `declared_before` are the sessions declared in
    the stretch's first file before it; the records of the others have the time of the last row."""
    return {
        index: one
        for index, one in fresh.items()
        if index in declared_before
        or one.t_ms - max(one.record.last_ms, one.record.before_ms if one.is_new else 0) <= LOOKBACK_MS
    }


def search(
    wanted: dict[int, Fresh], first: Earlier, layout: Layout, tier: int, number: int
) -> dict[int, Had]:
    """What `wanted` had before a stretch that begins in file `number` of a tier, after `first`."""
    since_ms = min((one.t_ms for one in wanted.values()), default=0) - LOOKBACK_MS
    found = first.find(wanted, since_ms)
    numbers = [one for one in layout.numbers(tier_name(tier)) if one < number] if wanted else []
    while wanted and numbers:
        try:
            with FrameFile(layout.file(tier_name(tier), numbers.pop())) as file:
                earlier = Earlier(file, tier)
                earlier.read()
                if max((head.greatest_ms for _, head in earlier.rows), default=0) < since_ms:
                    break
                found |= earlier.find(wanted, since_ms)
        except (FileNotFoundError, StoreError):
            break
    return found
