"""The journals of a restore: copies of the dump's journals, frame by frame.

Strategy: a frame with only new data is copied unchanged, so a cursor between two frames keeps its place.
Numbers follow those of the store's journals and keep their distances, because coarse rows name the journal
that they come from. A journal without new data is not kept.
"""

from __future__ import annotations

from collections.abc import Callable

import msgpack

from rondo_tools import files
from rondo_tools.errors import StoreError
from rondo_tools.store import dump_parts
from rondo_tools.store.dump_parts import DumpedStore, Part
from rondo_tools.store.format import dump, frames
from rondo_tools.store.format.frames import END, ROWS, SESSION, Frame
from rondo_tools.store.format.layout import JOURNALS, Layout
from rondo_tools.store.format.records import SessionRecord, pack_ends, pack_sessions
from rondo_tools.store.frame_writer import FrameWriter
from rondo_tools.store.restore_cursors import Landing
from rondo_tools.store.restore_rows import RestoredRows
from rondo_tools.store.restore_sessions import RestoredSessions

_MAX_WRITE = 8 << 20


class RestoredJournals:
    """Makes the journals of `source` in the folder `made`; the newest of the store is `newest`.

    `is_new` is called before a new row is written. `ticks` counts new rows.
    """

    def __init__(
        self,
        source: DumpedStore,
        made: Layout,
        store_id: bytes,
        newest: int,
        sessions: RestoredSessions,
        rows: RestoredRows,
        landing: Landing,
        is_new: Callable[[], None],
    ) -> None:
        self.ticks = 0
        self.shift: int | None = None
        self._source, self._made, self._store_id, self._newest = source, made, store_id, newest
        self._sessions, self._rows, self._landing, self._is_new = sessions, rows, landing, is_new
        self._part: Part | None = None
        self._writer: FrameWriter | None = None
        self._is_kept = False

    def moved(self, number: int) -> int:
        """The number in this store of a journal of the dump; 0 if the store had a journal of that number."""
        if not number:
            return 0
        if self.shift is None:
            # The numbers of all journals in the dump, or owed by its cursors, follow those of the store.
            oldest = min([number, self._source.rolled_up + 1, *self._landing.oldest()])
            self.shift = max(0, self._newest + 1 - oldest)
            if self._source.rolled_up + self.shift >= dump_parts.MAX_NUMBER:
                raise StoreError("the numbers of the dump's journals are too high; nothing was restored")
        moved = number + self.shift
        return moved if moved > self._newest else 0

    @property
    def is_open(self) -> bool:
        return self._writer is not None

    @property
    def _is_rolled_up(self) -> bool:
        assert self._part is not None
        return self._part.number <= self._source.rolled_up

    def begin(self, part: Part) -> None:
        """Begin a journal. Raises ValueError if it is out of order, and OSError."""
        number = self.moved(part.number)
        if not self._landing.newest < number < dump_parts.MAX_NUMBER:
            raise ValueError("journals out of order")
        files.make_folder(self._made.folder(JOURNALS))
        header = frames.new_file(number, self._store_id)
        self._writer = FrameWriter(self._made.file(JOURNALS, number), header)
        self._part = part
        self._is_kept = not self._is_rolled_up
        self._landing.begin_journal(part.number, part.file_id, header)

    def copy(self, head: Frame, payload: bytes) -> None:
        assert self._writer is not None
        self._add(frames.copied(self._writer.seed, head, payload))

    def declare(self, some: list[SessionRecord]) -> None:
        assert self._writer is not None
        known = [self._sessions.known(one.key).last_ms for one in some]
        some = [one._replace(last_ms=max(one.last_ms, ms)) for one, ms in zip(some, known, strict=True)]
        self._add(frames.frame(self._writer.seed, SESSION, pack_sessions(some), entries=len(some)))

    def take(self, head: Frame, payload: bytes) -> None:
        """Take any other frame. Raises ValueError if it does not belong in a journal."""
        assert self._writer is not None
        if head.kind == ROWS:
            self._take_rows(head, payload)
        elif head.kind == END:
            self._take_ends(head, payload)
        elif head.kind == dump.MARK:
            name, which = msgpack.unpackb(payload)
            self._landing.mark(name, which, self._writer.header, self._writer.end)
        else:
            raise ValueError("a frame that does not belong in a journal")

    def _take_rows(self, head: Frame, payload: bytes) -> None:
        assert self._part is not None and self._writer is not None
        schema, rows = self._part.rows(head, payload, 0)
        # Ticks that are not rolled up yet will be rolled up here, once.
        new, slots = self._sessions.new_rows(
            self._part, rows, lambda known: known.ticks_ms if self._is_rolled_up else known.last_ms
        )
        if new.size < rows.size:
            self._landing.is_changed = True
        if not new.size:
            return
        self._is_new()
        self._is_kept = True
        self.ticks += new.size
        if new.size == rows.size:
            self.copy(head, payload)
        else:
            for frame in frames.rows_frames(self._writer.seed, new, head.schema):
                self._add(frame)
        if self._is_rolled_up and self._rows.folding:
            new, slots = self._sessions.new_rows(self._part, new, lambda known: known.last_ms)
            self._rows.fold(schema, slots, new, self._writer.header.number)

    def _take_ends(self, head: Frame, payload: bytes) -> None:
        assert self._part is not None and self._writer is not None
        some = [
            one
            for one in self._part.ends(payload)
            if self._sessions.is_new_end(self._part.sessions[one.number].key, one)
        ]
        if some:
            self._is_kept = True
            packed = pack_ends(some)
            self._add(frames.frame(self._writer.seed, END, packed, schema=head.schema, entries=len(some)))

    def _add(self, frame: bytes) -> None:
        assert self._writer is not None
        self._writer.add(frame)
        if self._writer.gathered > _MAX_WRITE:
            self._writer.write()

    def end(self) -> None:
        """Force the journal to the disk; remove it if it has no new data. Raises OSError."""
        assert self._writer is not None
        self._writer.write()
        self._writer.sync()
        writer = self._writer
        self.close()
        if self._is_kept:
            self._landing.end_journal(writer.header, writer.size)
        else:
            writer.path.unlink()

    def close(self) -> None:
        """Close the descriptor."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
