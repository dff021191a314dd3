"""Rewrites a file of frames without the data of some sessions.

Strategy: the new file has the same length, and every frame keeps its offset; so positions in cursors, offsets
in an INDEX and places in descriptions stay valid. A session keeps its number, and the times and the space of
its rows; its name and labels are removed, and its values become zero. Series that no other session in the
file has lose their names. Damaged frames are not copied.

The new file is renamed over the old one: a crash leaves the one or the other, and a reader that has the old
one open continues with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from rondo_tools import files
from rondo_tools.store.format import frames
from rondo_tools.store.format.frame_file import FrameFile
from rondo_tools.store.format.frames import (
    DESCRIPTIONS,
    END,
    FILE_SIZE,
    HEAD_SIZE,
    ROWS,
    SCHEMA,
    SESSION,
    VOID,
    Frame,
    Rows,
)
from rondo_tools.store.format.records import (
    UNDECODABLE,
    Labels,
    SessionKey,
    declared_in,
    descriptions_in,
    ends_in,
    without_descriptions,
    without_sessions,
)
from rondo_tools.store.format.schema import without_names

IsMeant = Callable[[str, Labels], bool]
"""Whether sessions of this instance, with these labels, are to be forgotten."""

_BUFFER = 1 << 20


@dataclass(slots=True)
class Survey:
    """The sessions of a file to forget, their numbers, and the numbers of the others.

    Sessions that were forgotten before are in neither.
    """

    keys: set[SessionKey] = field(default_factory=set)
    numbers: set[int] = field(default_factory=set)
    others: set[int] = field(default_factory=set)
    is_damaged: bool = False


def survey(file: FrameFile, end: int, is_meant: IsMeant) -> Survey:
    """Survey the frames before `end`. Raises StoreError if they cannot be read."""
    found = Survey()
    for _, head, payload in file.frames(FILE_SIZE, end, (SESSION, DESCRIPTIONS)):
        try:
            if head.kind == SESSION:
                for one in list(declared_in(payload)):
                    if one.is_forgotten:
                        continue
                    if is_meant(one.instance, one.labels):
                        found.keys.add(one.key)
                        found.numbers.add(one.number)
                    else:
                        found.others.add(one.number)
            elif head.kind == DESCRIPTIONS:
                descriptions = list(descriptions_in(payload, head.entries))
                found.keys |= {one.key for one in descriptions if is_meant(one.instance, one.labels)}
        except UNDECODABLE:
            found.is_damaged = True
    found.is_damaged |= file.damage.bytes > 0
    return found


def rewrite(
    file: FrameFile, end: int, found: Survey, is_meant: IsMeant, pseudonym: Callable[[str], int]
) -> int:
    """Rewrite the file up to `end`, after `survey`; gives the number of rows that became void.

    `pseudonym` gives the number that replaces an instance. Raises OSError; then the old file is unchanged.
    Raises StoreError if the old file cannot be read.
    """
    one = _Rewriting(file, end, found, is_meant, pseudonym)
    with _Copy(file.path, end) as copy:
        one.copy_to(copy)
        copy.commit()
    return one.rows


class _Rewriting:
    def __init__(
        self,
        file: FrameFile,
        end: int,
        found: Survey,
        is_meant: IsMeant,
        pseudonym: Callable[[str], int],
    ) -> None:
        self.rows = 0
        self._file, self._end, self._found = file, end, found
        self._is_meant, self._pseudonym = is_meant, pseudonym
        # By number; the last entry is for all undeclared numbers.
        self._is_other = np.zeros(max(found.others, default=-1) + 2, np.bool_)
        self._is_other[list(found.others)] = True
        self._others_schemas = self._used_by_others()

    def copy_to(self, copy: _Copy) -> None:
        copy.put(0, self._file.header.pack())
        end = FILE_SIZE
        for at, head, payload in self._file.frames(FILE_SIZE, self._end):
            copy.put(at, self._anew(head, payload))
            end = at + head.size
        self._copy_torn(copy, end)

    def _anew(self, head: Frame, payload: memoryview) -> bytes:
        made, kind, entries = bytes(payload), head.kind, head.entries
        try:
            if kind == SESSION:
                made = without_sessions(
                    payload, lambda one: not self._is_meant(one.instance, one.labels), self._pseudonym
                )
            elif kind == DESCRIPTIONS:
                made, entries = without_descriptions(
                    payload, entries, lambda one: not self._is_meant(one.instance, one.labels)
                )
            elif kind == SCHEMA and head.schema not in self._others_schemas:
                made = without_names(made)
            elif kind == ROWS:
                made = self._without_values(head, payload)
        except UNDECODABLE:
            entries = 0
        if not entries:
            kind, made = VOID, bytes(len(payload))
        return frames.frame(
            self._file.seed, kind, made, schema=head.schema, entries=entries,
            least_ms=head.least_ms, greatest_ms=head.greatest_ms, least_session=head.least_session,
            greatest_session=head.greatest_session, origin=head.origin,
        )  # fmt: skip

    def _without_values(self, head: Frame, payload: memoryview) -> bytes:
        rows = _rows(head, payload)
        is_void = ~self._are_others(rows)
        if not is_void.any():
            return bytes(payload)
        self.rows += int(np.isin(rows["session"][is_void], list(self._found.numbers)).sum())
        rows = rows.copy()
        rows["values"][is_void] = 0.0
        return rows.tobytes()

    def _are_others(self, rows: Rows) -> npt.NDArray[np.bool_]:
        are: npt.NDArray[np.bool_] = self._is_other[np.minimum(rows["session"], self._is_other.size - 1)]
        return are

    def _used_by_others(self) -> set[int]:
        """The schemas of rows of other sessions, and of their ends."""
        used: set[int] = set()
        for _, head, payload in self._file.frames(FILE_SIZE, self._end, (ROWS, END)):
            if head.schema in used:
                continue
            try:
                if (head.kind == ROWS and self._are_others(_rows(head, payload)).any()) or (
                    head.kind == END and any(one.number in self._found.others for one in ends_in(payload))
                ):
                    used.add(head.schema)
            except UNDECODABLE:
                continue
        return used

    def _copy_torn(self, copy: _Copy, at: int) -> None:
        """Copy the header of an incomplete frame at the end of the file: zeros would count as damage."""
        rest = self._file.read(at, max(self._end - at, 0))
        place = 0
        while place + HEAD_SIZE <= len(rest):
            head = frames.parse_head(rest, place, self._file.seed)
            if head is not None and place + HEAD_SIZE + head.length > len(rest):
                copy.put(at + place, rest[place : place + HEAD_SIZE])
                return
            place += 8 if head is None else head.size


def _rows(head: Frame, payload: memoryview) -> Rows:
    """The rows of a frame, without its schema. Raises ValueError if their size is invalid."""
    if not head.entries or head.length % head.entries:
        raise ValueError("its rows are of no size")
    return frames.rows_of(payload, (head.length // head.entries - 12) // 8)


class _Copy:
    """A file of `size` bytes that replaces the one at `path`; zero where nothing is put."""

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._fd = os.open(self._temporary, flags, 0o600)
        self._at, self._gathered = 0, bytearray()

    def put(self, at: int, data: bytes) -> None:
        """Write at `at`, after everything that was put before. Raises OSError."""
        gap = at - self._at - len(self._gathered)
        if gap or len(self._gathered) >= _BUFFER:
            self._write()
            self._at = at
        self._gathered += data

    def commit(self) -> None:
        """Replace the old file, and force the new one to the disk. Raises OSError."""
        self._write()
        os.ftruncate(self._fd, self._size)
        files.look_like(self._fd, self._path)
        os.fsync(self._fd)
        self._temporary.replace(self._path)
        files.sync_folder(self._path.parent)

    def _write(self) -> None:
        os.lseek(self._fd, self._at, os.SEEK_SET)
        data = memoryview(bytes(self._gathered))
        self._at, self._gathered = self._at + len(data), bytearray()
        while data:
            data = data[os.write(self._fd, data) :]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
        self._temporary.unlink(missing_ok=True)
