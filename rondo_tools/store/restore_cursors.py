"""The cursors of a restore: their positions in the store that a dump is restored into.

Strategy: a cursor of the dump gets the position after the same rows, because the dump has a MARK where it
stood. So nothing is sent twice, and nothing is lost. A cursor of the store itself can only stand before or
after everything that is restored. So it must have delivered all of the store, and moves to the end.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from rondo_tools.errors import EX_TEMPFAIL, StoreError
from rondo_tools.store import dump_parts
from rondo_tools.store.format.cursor import Position, Progress, pack_progress, parse_progress
from rondo_tools.store.format.frame_file import FrameFile
from rondo_tools.store.format.frames import FILE_SIZE, FileHeader
from rondo_tools.store.format.layout import JOURNALS, Layout, is_cursor_name, tier_name
from rondo_tools.store.format.state import State

Cursor = tuple[Progress, dict[str, Any] | None]
End = Position | None

log = logging.getLogger(__name__)


class CursorsHere:
    """The cursors of the store, locked against pushes; use it as a context manager.

    Raises StoreError if a push holds one.
    """

    def __init__(self, layout: Layout, state: State) -> None:
        self.found: dict[str, Cursor] = {}
        self._layout, self._state = layout, state
        self._behind = ""
        self._locks: list[int] = []
        try:
            for name in layout.cursors():
                self._lock(name)
                try:
                    progress, in_flight = parse_progress(layout.cursor(name).read_bytes())
                except ValueError as exc:
                    raise StoreError(f"{layout.cursor(name)}: {exc}") from exc
                self.found[name] = progress, in_flight
                is_new = progress.begin is None and progress.coarse is None
                is_over = progress.end is None and progress.coarse is None and in_flight is None
                if not is_new and not (is_over and self._is_at_end(progress)):
                    self._behind = name
        except BaseException:
            self._close()
            raise

    def must_be_at_end(self) -> None:
        """Call it before adding new data. Raises StoreError if a cursor has not delivered the whole store."""
        if self._behind:
            raise StoreError(
                f"{self._layout.cursor(self._behind)} has not delivered all of this store, and would also "
                "deliver the restored data; nothing was restored. Run its rondo-push once and restore again, "
                "or remove the file",
                exit_code=EX_TEMPFAIL,
            )

    def _is_at_end(self, progress: Progress) -> bool:
        folder, begin = tier_name(progress.tier), progress.begin
        assert begin is not None
        if progress.tier:
            known = self._state.files.get(folder, {})
            return not known or begin[::2] == (max(known), known[max(known)].length)
        numbers = self._layout.numbers(JOURNALS)
        if not numbers:
            return begin.number >= self._state.rolled_up
        with FrameFile(self._layout.file(folder, numbers[-1])) as file:
            return begin.number == numbers[-1] and begin.offset >= file.end_of_frames()

    def _lock(self, name: str) -> None:
        fd = os.open(self._layout.cursor_lock(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._locks.append(fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(
                f"{self._layout.cursor(name)}: a rondo-push is delivering with this cursor; stop it, "
                "restore, then start it again",
                exit_code=EX_TEMPFAIL,
            ) from None

    def _close(self) -> None:
        while self._locks:
            os.close(self._locks.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()


class Landing:
    """The cursors of the dump, and the new places of their positions.

    `journals` has the end of each restored journal, by number. `newest` is the last that was begun.
    `is_changed`: rows were left out of the journals.
    """

    def __init__(self, store_id: bytes) -> None:
        self.journals: dict[int, Position] = {}
        self.newest = 0
        self.is_changed = False
        self._store = store_id.hex()
        self._cursors: dict[str, Cursor] = {}
        self._marks: dict[tuple[str, str], Position] = {}
        self._headers: dict[tuple[int, bytes], FileHeader] = {}  # by number and id in the dump

    def take(self, name: str, data: bytes) -> None:
        """Take a cursor of the dump. Raises ValueError if it is invalid."""
        if not is_cursor_name(name):
            raise ValueError(f"{name!r:.100} is no valid name of a cursor")
        progress, in_flight = parse_progress(data)
        if any(not 0 < number < dump_parts.MAX_NUMBER for number in _journals_of(progress)):
            raise ValueError("a cursor with an impossible journal number")
        self._cursors[name] = progress, in_flight

    def oldest(self) -> list[int]:
        """The journals of the dump that its cursors need."""
        mine = [one for one, _ in self._cursors.values() if not one.tier]
        return [number for one in mine for number in _journals_of(one)]

    def begin_journal(self, number: int, file_id: bytes, header: FileHeader) -> None:
        self.newest = header.number
        self._headers[number, file_id] = header

    def mark(self, name: str, which: str, header: FileHeader, offset: int) -> None:
        self._marks[name, which] = Position(header.number, header.file_id, offset)

    def end_journal(self, header: FileHeader, size: int) -> None:
        self.journals[header.number] = Position(header.number, header.file_id, size)

    def cursors(
        self, here: CursorsHere, shift: int, tier_of: Mapping[int, int | None], tier_ends: Mapping[int, End]
    ) -> dict[str, bytes]:
        """The cursor files to write, by name."""
        found: dict[str, bytes] = {}
        for name, (progress, in_flight) in self._cursors.items():
            kept = here.found.get(name)
            if kept is not None and kept[0].begin is not None and _purpose(kept[0]) != _purpose(progress):
                continue
            landed = self._landed(name, progress, shift, tier_of, tier_ends)
            if landed is None:
                log.warning("cursor %s is not restored: this store has no place for its position", name)
            else:
                found[name] = pack_progress(landed, in_flight)
        for name, (progress, in_flight) in here.found.items():
            end = tier_ends.get(progress.tier) if progress.tier else self._end()
            if name not in found and progress.begin is not None and end is not None:
                found[name] = pack_progress(replace(progress, begin=end), in_flight)
        return found

    def _landed(
        self,
        name: str,
        progress: Progress,
        shift: int,
        tier_of: Mapping[int, int | None],
        tier_ends: Mapping[int, End],
    ) -> Progress | None:
        """The cursor with its position in this store; None if there is none."""
        begin = progress.begin
        known = [
            (header.number, header.file_id) for one in progress.known if (header := self._headers.get(one))
        ]
        landed = replace(progress, store=self._store, known=known)
        if progress.tier:
            tier = tier_of.get(progress.tier)
            end = None if tier is None else tier_ends.get(tier)
            return None if tier is None else replace(landed, tier=tier, begin=end)
        landed.end = None
        if begin is None:
            return landed
        mark = self._marks.get((name, "from"))
        owes_gone = mark is None and begin.number < min((n for n, _ in self._headers), default=1 << 62)
        if progress.coarse is not None or owes_gone:
            # It owes coarse rows for journals that are gone: the same ones here.
            first = begin.number if progress.coarse is None else progress.coarse[1]
            until = min(self.journals, default=self.newest + 1)
            if progress.coarse is not None:
                until = min(until, progress.coarse[2] + shift)
            landed.begin = Position(begin.number + shift, begin.file_id, begin.offset)
            landed.coarse = 1, first + shift, max(until, first + shift)
        elif mark is None:
            first_journal = min(self.journals, default=None)
            if first_journal is None:
                return None
            landed.begin = self.journals[first_journal]._replace(offset=FILE_SIZE)
            landed.floor_ms = max(progress.floor_ms, progress.time_ms)
        else:
            landed.begin = self._placed(mark)
            to = self._marks.get((name, "to"))
            if to is not None and not self.is_changed:
                landed.end = self._placed(to)
        if landed.end is None:
            landed.slice = landed.done = 0
        return landed if landed.begin is not None else None

    def _placed(self, mark: Position) -> Position | None:
        """The place of a mark in this store; a journal without new data was not restored."""
        if mark.number in self.journals:
            return mark
        later = [number for number in self.journals if number > mark.number]
        return self.journals[min(later)]._replace(offset=FILE_SIZE) if later else self._end()

    def _end(self) -> Position | None:
        """The position after everything that was restored."""
        return self.journals[max(self.journals)] if self.journals else None


def _journals_of(progress: Progress) -> list[int]:
    """The oldest journals that a cursor refers to."""
    found = [] if progress.begin is None else [progress.begin.number]
    return found if progress.coarse is None else [*found, progress.coarse[1]]


def _purpose(progress: Progress) -> tuple[int, str]:
    return progress.tier, progress.selector
