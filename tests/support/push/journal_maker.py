"""Journals made by hand, frame by frame, for tests of their readers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rondo_tools.catalog import COUNTER, GAUGE, Series
from rondo_tools.store.format import frames
from rondo_tools.store.format.cursor import Position
from rondo_tools.store.format.layout import JOURNALS, Layout
from rondo_tools.store.format.records import EndRecord, SessionKey, SessionRecord, pack_ends
from rondo_tools.store.format.schema import Schema, schema_of
from rondo_tools.store.frame_writer import FrameWriter

STORE_ID = b"8 bytes!"


def series(*names: str) -> Schema:
    """A name that begins with c is a counter, one with g a gauge."""
    return schema_of(tuple(Series(one, (), COUNTER if one[0] == "c" else GAUGE, "", "") for one in names))


class Maker:
    """Writes one frame per call. `begin` and `end` are the positions of everything written so far."""

    def __init__(self, folder: Path) -> None:
        self.layout = Layout(folder)
        self.layout.folder(JOURNALS).mkdir(parents=True)
        self._number = 0
        self._writer: FrameWriter | None = None
        self._newest: dict[SessionKey, int] = {}
        self._schemas: dict[SessionKey, Schema] = {}

    def rotate(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = None

    @property
    def writer(self) -> FrameWriter:
        if self._writer is None:
            self._number += 1
            header = frames.new_file(self._number, STORE_ID)
            self._writer = FrameWriter(self.layout.file(JOURNALS, self._number), header)
        return self._writer

    def rows(
        self, key: SessionKey, schema: Schema, t_ms: Sequence[int], values: Sequence[Sequence[float]]
    ) -> None:
        made = np.zeros(len(t_ms), frames.row_dtype(schema.width))
        made["session"] = self._session(key)
        made["t_ms"], made["values"] = t_ms, values
        for one in frames.rows_frames(self.writer.seed, made, self.writer.schema(schema)):
            self.writer.add(one)
        self._newest[key] = t_ms[-1]
        self._schemas[key] = schema
        self.writer.write()

    def end(self, key: SessionKey, reason: str = "poweroff") -> None:
        record = EndRecord(self._session(key), self._newest[key] + 1, reason, self._newest[key])
        schema = self.writer.schema(self._schemas[key])
        self.writer.add(frames.frame(self.writer.seed, frames.END, pack_ends([record]), schema=schema))
        self.writer.write()

    def position(self) -> Position:
        """The end of all frames."""
        return Position(self._number, self.writer.header.file_id, self.writer.size)

    def start(self) -> Position:
        """The beginning of the first journal."""
        with (self.layout.file(JOURNALS, 1)).open("rb") as file:
            return Position(
                1, frames.parse_file_header(file.read(frames.FILE_SIZE)).file_id, frames.FILE_SIZE
            )

    def close(self) -> None:
        self.rotate()

    def _session(self, key: SessionKey) -> int:
        before_ms = max(
            (t_ms for other, t_ms in self._newest.items() if other[0] == key[0] and other != key), default=0
        )

        def describe(number: int) -> SessionRecord:
            return SessionRecord(number, *key, 1000, (), self._newest.get(key, 0), before_ms)

        return self.writer.session(key, describe)
