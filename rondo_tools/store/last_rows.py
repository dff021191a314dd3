"""Reads the last rows of ended sessions: the rows that their descriptions point at."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Self
from zlib import crc32

import numpy as np

from rondo_tools.errors import StoreError
from rondo_tools.store.derived import index_tables
from rondo_tools.store.format import frames
from rondo_tools.store.format.frame_file import FrameFile
from rondo_tools.store.format.frames import HEAD_SIZE, Frame, Rows
from rondo_tools.store.format.layout import LAST_ROWS, Layout
from rondo_tools.store.format.records import Description, Place
from rondo_tools.store.format.schema import Schema, unpack_schema

log = logging.getLogger(__name__)


class LastRowsReader:
    """Reads the rows that descriptions point at. The owner closes it."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._files: dict[int, FrameFile | None] = {}

    def read(self, description: Description, after_ms: int) -> list[tuple[Schema, Rows]]:
        """The rows with t_ms > after_ms that are still there, by schema and in time order."""
        found: dict[Schema, list[Rows]] = {}
        for place in description.places:
            for schema, rows in self._read(place):
                found.setdefault(schema, []).append(rows[rows["t_ms"] > after_ms])
        return [(schema, np.concatenate(parts)) for schema, parts in found.items()]

    def schemas(self, description: Description) -> list[Schema]:
        """The schemas of the rows, in time order of the first row of each."""
        found: dict[Schema, None] = {}
        for place in description.places:
            file = self._file(place.file)
            head = (
                None if file is None else frames.parse_head(file.read(place.offset, HEAD_SIZE), 0, file.seed)
            )
            schema = None if file is None or head is None else self._schema(file, head)
            if schema is not None:
                found[schema] = None
        return list(found)

    def _read(self, place: Place) -> Iterator[tuple[Schema, Rows]]:
        file = self._file(place.file)
        if file is None:
            return
        head = frames.parse_head(file.read(place.offset, HEAD_SIZE), 0, file.seed)
        if head is None or head.kind != frames.ROWS:
            log.warning("%s: no rows at byte %d", file.path, place.offset)
            return
        payload = file.read(place.offset + HEAD_SIZE, head.length)
        schema = self._schema(file, head)
        if crc32(payload, file.seed) != head.payload_crc or schema is None:
            log.warning("%s: the rows at byte %d are damaged", file.path, place.offset)
            return
        yield schema, frames.rows_of(payload, schema.width)[place.first : place.first + place.rows]

    def _file(self, number: int) -> FrameFile | None:
        if number not in self._files:
            path = self._layout.file(LAST_ROWS, number)
            try:
                self._files[number] = FrameFile(path)
            except FileNotFoundError:
                self._files[number] = None  # it expired, or was evicted
            except StoreError as exc:
                log.warning("%s", exc)
                self._files[number] = None
        return self._files[number]

    def _schema(self, file: FrameFile, head: Frame) -> Schema | None:
        if head.schema not in file.schemas:
            for table in index_tables(file, file.size):
                for at in table["offset"][table["kind"] == frames.SCHEMA].tolist():
                    one = frames.parse_head(file.read(at, HEAD_SIZE), 0, file.seed)
                    payload = b"" if one is None else file.read(at + HEAD_SIZE, one.length)
                    if one is not None and crc32(payload, file.seed) == one.payload_crc:
                        file.schemas[one.schema] = unpack_schema(payload)
                if head.schema in file.schemas:
                    break
        return file.schemas.get(head.schema)

    def close(self) -> None:
        for file in self._files.values():
            if file is not None:
                file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
