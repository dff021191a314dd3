"""A snapshot of a store's files, which may be written meanwhile.

Strategy: list and open the journals, then read state.json, then open the files that it names. A journal is
removed only after a state.json that counts it as rolled up; so the data of a journal that this look missed is
in the files of the state.json that it read. A missing number in between means that the writer went on: look
again. Two equal looks in a row have found everything.

Views of files are kept for the next look, and then read what was appended. A rolled-up journal is read when
its rows are asked for: all else is in the files that state.json names.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from rondo_tools import files
from rondo_tools.errors import EX_UNAVAILABLE, StoreError
from rondo_tools.store.carry import Carry, parse_carry
from rondo_tools.store.derived_view import DerivedView, EndedView, RowsView
from rondo_tools.store.format.frame_file import has_no_header
from rondo_tools.store.format.frames import FILE_SIZE
from rondo_tools.store.format.layout import ENDED, JOURNALS, LAST_ROWS, Layout, tier_name
from rondo_tools.store.format.opened import state_bytes, state_of
from rondo_tools.store.format.state import State
from rondo_tools.store.journal_view import JournalView

_LOOKS = 100
View = TypeVar("View", bound=JournalView | DerivedView)
Derived = TypeVar("Derived", bound=DerivedView)

log = logging.getLogger(__name__)


class Snapshot(NamedTuple):
    """The files that a look found: journals by number, derived files by number.

    Rolled-up journals in `journals` may not have been read: `whole_journals` reads them.
    """

    layout: Layout
    state: State
    carry: Carry
    journals: dict[int, JournalView]
    ended: dict[int, EndedView]
    last_rows: dict[int, RowsView]
    tiers: dict[int, dict[int, RowsView]]  # by the number of a coarse tier
    missing: list[Path]  # files that state.json names and that are not there

    @property
    def not_rolled_up(self) -> list[JournalView]:
        return [view for number, view in self.journals.items() if number > self.state.rolled_up]

    def whole_journals(self) -> list[JournalView]:
        """All journals, oldest first; reads the rolled-up ones. Raises StoreError."""
        for view in self.journals.values():
            if not view.is_read:
                view.update()
        return list(self.journals.values())


class Files:
    """Looks at the files of the store at `path`, which has `tiers` tiers.

    A file that cannot be read is logged once, noted in `unread`, and skipped.
    """

    def __init__(self, path: Path, tiers: int) -> None:
        self._layout = Layout(path)
        self._tiers = tiers
        self._views: dict[Path, tuple[tuple[int, int], JournalView | DerivedView]] = {}
        self._state: tuple[bytes | None, State] = None, State()
        self._carry = 0, Carry()
        self._warned: set[Path] = set()
        self._denied: dict[Path, PermissionError] = {}  # of this look
        self.unread: dict[Path, str] = {}

    def look(self) -> Snapshot:
        """Raises StoreError for a state.json that cannot be read."""
        seen: tuple[object, ...] = ()
        for _ in range(_LOOKS):
            snapshot = self._look()
            self._pass_over_denied()
            before, seen = seen, (list(snapshot.journals), self._state[0], snapshot.missing)
            if not snapshot.missing or seen == before:
                break
        journals = self._layout.folder(JOURNALS)
        snapshot.missing[:] = [
            path for path in snapshot.missing if path.parent != journals or not has_no_header(path)
        ]
        for path in snapshot.missing:
            self._pass_over_missing(path)
        self._forget_others(snapshot)
        return snapshot

    def views(self) -> list[JournalView | DerivedView]:
        """The files that are open, by path."""
        return [view for _, (_, view) in sorted(self._views.items())]

    def _look(self) -> Snapshot:
        missing: list[Path] = []
        journals = {}
        for number in self._layout.numbers(JOURNALS):
            view = self._view(self._layout.file(JOURNALS, number), JournalView, [])
            if view is not None:
                journals[number] = view
        state = self._read_state()
        for number, view in journals.items():
            if number > state.rolled_up or view.is_read:
                view.update()
                self._warn_of_damage(view)
        newest = max(journals, default=0)
        expected = state.journals.keys() | set(range(state.rolled_up + 1, newest))
        for number in sorted(expected - journals.keys()):
            path = self._layout.file(JOURNALS, number)
            if path not in self.unread and path not in self._denied:
                missing.append(path)
        return Snapshot(
            self._layout,
            state,
            self._read_carry(state.carry, missing),
            journals,
            self._derived(ENDED, EndedView, state, missing),
            self._derived(LAST_ROWS, RowsView, state, missing),
            {
                tier: self._derived(tier_name(tier), RowsView, state, missing)
                for tier in range(1, self._tiers)
            },
            missing,
        )

    def _derived(
        self, folder: str, kind: type[Derived], state: State, missing: list[Path]
    ) -> dict[int, Derived]:
        found = {}
        for number, file in sorted(state.files.get(folder, {}).items()):
            view = self._view(self._layout.file(folder, number), kind, missing)
            if view is not None:
                view.update(file)
                self._warn_of_damage(view)
                found[number] = view
        return found

    def _view(self, path: Path, kind: type[View], missing: list[Path]) -> View | None:
        """The view of a file, kept if it is the same file as at the last look."""
        try:
            status = os.stat(path)  # noqa: PTH116  (hundreds at each look)
            identity = status.st_dev, status.st_ino
            if path in self._views and self._views[path][0] == identity:
                view = self._views[path][1]
                assert isinstance(view, kind)
                return view
            if kind is JournalView and status.st_size < FILE_SIZE:
                return None  # it was just made
            view = kind(path)
        except FileNotFoundError:
            missing.append(path)
            return None
        except OSError as exc:
            self._pass_over(path, f"{path}: {exc.strerror}")
            return None
        except StoreError as exc:
            if isinstance(exc.__cause__, PermissionError):
                self._denied[path] = exc.__cause__
            else:
                self._pass_over(path, str(exc))
            return None
        self._views[path] = identity, view
        return view

    def _pass_over(self, path: Path, why: str) -> None:
        if path not in self.unread:
            log.warning("%s; left out", why)
        self.unread[path] = why

    def _pass_over_denied(self) -> None:
        """Raises StoreError where no file is readable: a store of another user."""
        denied, self._denied = self._denied, {}
        for path, exc in denied.items():
            if not self._views:
                raise StoreError(f"{path}: {files.why(exc, path)}", exit_code=EX_UNAVAILABLE) from exc
            self._pass_over(path, f"{path}: {exc.strerror}")

    def _pass_over_missing(self, path: Path) -> None:
        if path not in self._warned:
            self._warned.add(path)
            log.warning("%s: not there; left out", path)

    def _warn_of_damage(self, view: JournalView | DerivedView) -> None:
        """Log a file's damage, once for each file."""
        damage = view.file.damage
        if damage.bytes and view.path not in self._warned:
            self._warned.add(view.path)
            log.warning(
                "%s: %d bytes are damaged, the first at byte %d; the rest is read",
                view.path, damage.bytes, damage.first_at,
            )  # fmt: skip

    def _forget_others(self, snapshot: Snapshot) -> None:
        """Drop the views of removed files: a file is closed with the last session that reads it."""
        folders: list[Mapping[int, JournalView | DerivedView]] = [
            snapshot.journals, snapshot.ended, snapshot.last_rows, *snapshot.tiers.values(),
        ]  # fmt: skip
        there = {view.path for views in folders for view in views.values()}
        self._views = {path: kept for path, kept in self._views.items() if path in there}

    def _read_state(self) -> State:
        data = state_bytes(self._layout)
        if data != self._state[0]:
            self._state = data, state_of(self._layout, data)
        return self._state[1]

    def _read_carry(self, number: int, missing: list[Path]) -> Carry:
        if number != self._carry[0]:
            path = self._layout.carry(number)
            try:
                self._carry = number, parse_carry(path.read_bytes()) if number else Carry()
            except FileNotFoundError:
                missing.append(path)
                return Carry()
            except OSError as exc:
                self._pass_over(path, f"{path}: {exc.strerror}")
                return Carry()
            except StoreError as exc:
                self._pass_over(path, f"{path}: {exc}")
                return Carry()
        return self._carry[1]
