"""A file of frames that this process made, and appends to.

Strategy: frames are gathered and written with one system call, each at a multiple of 8. After a
short write the file ends: its whole frames are valid, and the rest goes into another file. So nothing is
ever truncated, and nothing is appended after half a frame. A write that failed without changing the file's
length may be tried again.

Sessions and schemas are declared before the first row that needs them, in the same write.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from rondo_tools import files
from rondo_tools.store.format import frames
from rondo_tools.store.format.records import SessionKey, SessionRecord, pack_sessions
from rondo_tools.store.format.schema import Schema


class FrameWriter:
    """Makes the file at `path`, or continues one of exactly `size` bytes that an earlier process made.

    `size` is the written bytes, `gathered` the bytes for the next `write`, `schema_bytes` the size of the
    declared schemas; `is_over`: no more can be written. The owner closes it.
    """

    def __init__(self, path: Path, header: frames.FileHeader, size: int = 0) -> None:
        """Raises OSError."""
        self.path = path
        self.header = header
        self.seed = header.seed
        self.size = size
        self.is_over = False
        self._schemas: dict[Schema, int] = {}
        self.schema_bytes = 0
        self._sessions: dict[SessionKey, int] = {}
        self._gathered: list[bytes] = [] if size else [header.pack()]
        self.gathered = 0 if size else frames.FILE_SIZE
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(path, flags if size else flags | os.O_CREAT | os.O_EXCL, 0o640)
        if not size:
            try:
                files.sync_folder(path.parent)
            except BaseException:
                self.close()
                path.unlink(missing_ok=True)  # it is still empty
                raise

    @property
    def end(self) -> int:
        """The offset of the next frame."""
        return self.size + self.gathered

    @property
    def schemas(self) -> int:
        """The number of schemas that this file declares."""
        return len(self._schemas)

    @property
    def is_linked(self) -> bool:
        """Whether the file still has a name. Raises OSError."""
        return os.fstat(self._fd).st_nlink > 0

    def add(self, frame: bytes) -> int:
        """Gather a frame for the next `write`; gives its offset."""
        at = self.end
        self._gathered.append(frame)
        self.gathered += len(frame)
        return at

    def schema(self, schema: Schema) -> int:
        """The number of a schema in this file; declared if it was not."""
        number = self._schemas.get(schema)
        if number is None:
            number = self._schemas[schema] = len(self._schemas)
            self.schema_bytes += len(schema.packed)
            self.add(frames.frame(self.seed, frames.SCHEMA, schema.packed, schema=number))
        return number

    def session(self, key: SessionKey, describe: Callable[[int], SessionRecord]) -> int:
        """The number of a session in this file; declared by `describe(number)` if it was not."""
        number = self._sessions.get(key)
        if number is None:
            number = self._sessions[key] = len(self._sessions)
            record = describe(number)
            self.add(frames.frame(self.seed, frames.SESSION, pack_sessions([record])))
        return number

    def write(self) -> None:
        """Append the gathered frames. Raises OSError.

        Then, if nothing was written, they stay gathered for another try; else `is_over`.
        """
        if not self._gathered:
            return
        data = b"".join(self._gathered)
        try:
            written = os.write(self._fd, data)
        except OSError:
            size = os.fstat(self._fd).st_size
            self.is_over = size != self.size
            self.size = size
            raise
        self._gathered, self.gathered = [], 0
        self.size += written
        if written < len(data):
            # Writing the rest fails at once, with the reason: a full disk, a limit.
            self.is_over = True
            self.size += os.write(self._fd, data[written:])
            self.is_over = False

    def sync(self) -> None:
        """Force it to the disk. Raises OSError."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
