"""Journals: every tick of every session, in order of arrival.

Strategy: a turn of the loop gathers rows and ends; one write appends them, with a ROWS frame for each
schema. A session and a schema are declared before their first row in a journal; so each journal can be read
alone. A journal is made with its first row, under the next number. A process does not continue the journal
of another one.

If a write fails (a full disk, a limit), everything stays gathered. If a part was written, the rest is
gathered for the next journal: whole frames in the file are valid, and are never written twice.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rondo_tools.store.format import frames
from rondo_tools.store.format.layout import JOURNALS, Layout
from rondo_tools.store.format.records import EndRecord, SessionRecord, pack_ends, pack_sessions
from rondo_tools.store.format.schema import Schema
from rondo_tools.store.frame_writer import FrameWriter
from rondo_tools.store.live import Session

MAX_ROW_BYTES = 64 << 20  # of one journal
# A journal with 16 MiB of schemas is full, but not before it has as many bytes of rows: else many live
# sessions with large headers, declared again in each journal, would fill the journals with declarations.
SCHEMA_BYTES = 16 << 20
MAX_SCHEMA_BYTES = 256 << 20
MAX_SCHEMAS = 1 << 14  # far below the format's limit, because a turn may bring thousands
MAX_WRITE = 8 << 20  # gathered bytes: more are written in the middle of a turn
_ENDS_A_FRAME = 8192
_HEAD = struct.Struct("<Iq")  # of a row: session, t_ms

Describe = Callable[[Session, int], SessionRecord]
"""Gives the declaration of a session under a number."""


class PendingEnd(NamedTuple):
    """An END that is not written yet."""

    session: Session
    t_ms: int
    reason: str
    last_ms: int


class Rest(NamedTuple):
    """The unwritten data of a journal: rows, with their schemas and sessions by number, and ends."""

    rows: list[tuple[Schema, frames.Rows]]
    sessions: list[Session]
    ends: list[PendingEnd]


class Journal:
    """One journal, from its first row to its last. The owner closes it.

    `turn` identifies the rows that are gathered now; `row_bytes` is the size of all its rows.
    """

    def __init__(self, layout: Layout, header: frames.FileHeader, describe: Describe) -> None:
        self.path = layout.file(JOURNALS, header.number)
        self.number = header.number
        self.turn = object()
        self.row_bytes = 0
        self._header = header
        self._describe = describe
        self._writer: FrameWriter | None = None
        self._sessions: list[Session] = []
        self._records: list[SessionRecord] = []
        self._rows: dict[Schema, list[Any]] = {}
        self._ends: list[PendingEnd] = []
        # Frames that the writer has gathered: the end and the content of each.
        self._framed: list[tuple[int, Schema | None, Any]] = []

    @property
    def is_made(self) -> bool:
        """Whether there is a file."""
        return self._writer is not None

    @property
    def size(self) -> int:
        return 0 if self._writer is None else self._writer.size

    @property
    def has_pending(self) -> bool:
        """Whether anything waits for `write`."""
        return bool(self._rows or self._ends or self._framed)

    @property
    def pending_ticks(self) -> int:
        """The number of ticks that wait for `write`."""
        sizes = [
            (schema, len(body))
            for end, schema, body in self._framed
            if schema is not None and end > self.size
        ]
        for schema, parts in self._rows.items():
            sizes.append((schema, sum(memoryview(part).nbytes for part in parts)))
        return sum(size // (_HEAD.size + 8 * schema.width) for schema, size in sizes)

    @property
    def is_linked(self) -> bool:
        """Whether the file, if there is one, still has a name. Raises OSError."""
        return self._writer is None or self._writer.is_linked

    @property
    def is_over(self) -> bool:
        """Whether a write stopped in the middle."""
        return self._writer is not None and self._writer.is_over

    @property
    def is_full(self) -> bool:
        """Whether the next rows belong in another journal."""
        if self._writer is None:
            return False
        schemas, schema_bytes = self._writer.schemas, self._writer.schema_bytes
        return (
            self.row_bytes >= MAX_ROW_BYTES
            or schemas >= MAX_SCHEMAS
            or schema_bytes >= MAX_SCHEMA_BYTES
            or SCHEMA_BYTES <= schema_bytes <= self.row_bytes
        )

    def append(self, session: Session, t_ms: int, values: bytes) -> None:
        """Gather a tick, later than all earlier ones of the session."""
        if session.journal is not self:
            self._declare(session)
        if session.turn is not self.turn:
            session.turn, session.written_ms = self.turn, session.last_ms
        session.last_ms = t_ms
        schema = session.schema
        assert schema is not None
        self._rows.setdefault(schema, []).extend((_HEAD.pack(session.number, t_ms), values))

    def extend(self, session: Session, t_ms: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> None:
        """Gather one or more ticks, ascending and later than all earlier ones of the session."""
        if session.journal is not self:
            self._declare(session)
        if session.turn is not self.turn:
            session.turn, session.written_ms = self.turn, session.last_ms
        session.last_ms = int(t_ms[-1])
        schema = session.schema
        assert schema is not None
        made = np.empty(len(t_ms), frames.row_dtype(schema.width))
        made["session"], made["t_ms"], made["values"] = session.number, t_ms, values
        self._rows.setdefault(schema, []).append(made)

    def end(self, session: Session, t_ms: int, reason: str, last_ms: int) -> None:
        """Gather an end; it is written after the rows of its turn."""
        if session.journal is not self:
            self._declare(session)
        self._ends.append(PendingEnd(session, t_ms, reason, last_ms))

    def write(self) -> list[PendingEnd]:
        """Append what was gathered; gives the written ends.

        Raises OSError. Then everything stays gathered, unless the journal `is_over`: see `rest`.
        """
        if self._writer is None:
            self._writer = FrameWriter(self.path, self._header)
        self._frame(self._writer)
        self._writer.write()
        return self._wrote()

    def rest(self) -> tuple[list[PendingEnd], Rest]:
        """After a failed write, if the journal `is_over`: the written ends, and the unwritten data.

        It sets `last_ms` of the sessions in the rest to their last written tick.
        """
        assert self._writer is not None
        is_whole = [end <= self._writer.size for end, _, _ in self._framed].count(True)
        whole, torn = self._framed[:is_whole], self._framed[is_whole:]
        rows = [
            (schema, frames.rows_of(body, schema.width)) for _, schema, body in torn if schema is not None
        ]
        rows += [
            (schema, frames.rows_of(b"".join(parts), schema.width)) for schema, parts in self._rows.items()
        ]
        ends = [end for _, schema, some in torn if schema is None for end in some] + self._ends
        sessions = self._sessions
        for number in _numbers(rows):
            sessions[number].last_ms = sessions[number].written_ms
        for _, schema, body in whole:
            if schema is not None:
                written = frames.rows_of(body, schema.width)
                for number, t_ms in zip(written["session"].tolist(), written["t_ms"].tolist(), strict=True):
                    sessions[number].last_ms = max(sessions[number].last_ms, t_ms)
        self._framed, self._rows, self._ends, self._records = whole, {}, [], []
        return self._wrote(), Rest(rows, sessions, ends)

    def take_over(self, rest: Rest) -> None:
        """Gather the unwritten data of another journal."""
        numbers = _numbers(rest.rows)
        ending = {id(end.session) for end in rest.ends}
        renumbered = np.zeros(len(rest.sessions), np.uint32)
        # All are declared before their rows are gathered, so with `last_ms` of the written ones.
        for number, session in enumerate(rest.sessions):
            if number in numbers or id(session) in ending:
                self._declare(session)
                session.turn, session.written_ms = self.turn, session.last_ms
                renumbered[number] = session.number
        for schema, part in rest.rows:
            part = part.copy()
            for number, t_ms in zip(part["session"].tolist(), part["t_ms"].tolist(), strict=True):
                rest.sessions[number].last_ms = t_ms
            part["session"] = renumbered[part["session"]]
            self._rows.setdefault(schema, []).append(part)
        self._ends += rest.ends

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._sessions = []  # silent sessions still refer to this journal

    def _declare(self, session: Session) -> None:
        session.journal = self
        session.number = len(self._sessions)
        self._sessions.append(session)
        self._records.append(self._describe(session, session.number))

    def _frame(self, writer: FrameWriter) -> None:
        """Make frames of the gathered data, in the order that a reader needs."""
        while self._records:
            self._frame_sessions(writer)
        while self._rows:
            schema, parts = self._rows.popitem()  # in any order: a session has rows of one schema only
            self._frame_rows(writer, schema, parts)
            if writer.gathered > MAX_WRITE:
                writer.write()
        if self._ends:
            self._frame_ends(writer)

    def _frame_ends(self, writer: FrameWriter) -> None:
        ends, self._ends = self._ends, []
        # An end names the schema of the session's last row: a reader ends its series.
        for schema, of_schema in groupby(ends, key=lambda end: end.session.schema):
            number = frames.NO_SCHEMA if schema is None else writer.schema(schema)
            for some in _batched(of_schema, _ENDS_A_FRAME):
                payload = pack_ends(EndRecord(one.session.number, *one[1:]) for one in some)
                frame = frames.frame(writer.seed, frames.END, payload, schema=number, entries=len(some))
                at = writer.add(frame)
                self._framed.append((at + frames.HEAD_SIZE + len(payload), None, some))

    def _frame_sessions(self, writer: FrameWriter) -> None:
        payload, count = bytearray(), 0
        for record in self._records:
            packed = pack_sessions((record,))
            if len(payload) + len(packed) > frames.MAX_PAYLOAD:
                break
            payload += packed
            count += 1
        del self._records[:count]
        writer.add(frames.frame(writer.seed, frames.SESSION, bytes(payload), entries=count))

    def _frame_rows(self, writer: FrameWriter, schema: Schema, parts: list[Any]) -> None:
        number = writer.schema(schema)
        size = _HEAD.size + 8 * schema.width
        body = b"".join(parts)
        self.row_bytes += len(body)
        if len(body) == size:
            session, t_ms = _HEAD.unpack_from(body)
            frame = frames.frame(
                writer.seed, frames.ROWS, body, schema=number, least_ms=t_ms, greatest_ms=t_ms,
                least_session=session, greatest_session=session,
            )  # fmt: skip
            self._framed.append((writer.add(frame) + frames.HEAD_SIZE + size, schema, body))
            return
        rows, view = frames.rows_of(body, schema.width), memoryview(body)
        most = frames.MAX_PAYLOAD // size
        for at in range(0, len(rows), most):
            sessions, t_ms = rows["session"][at : at + most], rows["t_ms"][at : at + most]
            payload = view[at * size : (at + most) * size]
            frame = frames.frame(
                writer.seed, frames.ROWS, payload, schema=number, entries=len(t_ms),
                least_ms=int(t_ms.min()), greatest_ms=int(t_ms.max()),
                least_session=int(sessions.min()), greatest_session=int(sessions.max()),
            )  # fmt: skip
            self._framed.append((writer.add(frame) + frames.HEAD_SIZE + len(payload), schema, payload))

    def _wrote(self) -> list[PendingEnd]:
        ended = [end for _, schema, ends in self._framed if schema is None for end in ends]
        self._framed.clear()
        self.turn = object()
        return ended


def _batched(items: Iterable[PendingEnd], size: int) -> Iterator[list[PendingEnd]]:
    """The items in lists of at most `size`."""
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def _numbers(rows: list[tuple[Schema, frames.Rows]]) -> set[int]:
    """The session numbers of all these rows."""
    return {number for _, part in rows for number in part["session"].tolist()}
