"""The roll-up of closed journals: coarse rows, descriptions of ended sessions, and last rows.

Strategy: a function over the store's folder, which shares no memory with the writer of the journals. A
journal is read once, in pieces; its open sessions and windows go into `carry_N`. Then, in this order: sync
the journal, append to derived files, sync them, write `carry_N`, replace `state.json`, remove the carry
before it. Replacing `state.json` is the commit: after a crash or a full disk before it the old state is
valid, and appended bytes beyond its lengths are no data.

All sessions are processed together, as arrays by slot; only the begin or the end of a session runs Python
code of its own.
"""

from __future__ import annotations

import copy
import errno
import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Protocol

import numpy as np

from rondo_tools import files
from rondo_tools.errors import StoreError
from rondo_tools.store import ended
from rondo_tools.store.carry import Carry, parse_carry
from rondo_tools.store.coarse_ends import Ends
from rondo_tools.store.derived import FILES_A_SPAN, MAX_FILE, Derived, Part
from rondo_tools.store.derived_view import RowsView, schemas_in
from rondo_tools.store.format.frame_file import has_no_header
from rondo_tools.store.format.frames import row_dtype
from rondo_tools.store.format.layout import ENDED, JOURNALS, LAST_ROWS, Layout, tier_name
from rondo_tools.store.format.records import LOST, Description, EndRecord
from rondo_tools.store.format.rollup import Groups, Ticks, Windows, by_session, coarse_rows, concatenated
from rondo_tools.store.format.schema import Schema, union
from rondo_tools.store.format.state import State
from rondo_tools.store.format.tiers import Tier
from rondo_tools.store.journal_pieces import PIECE, JournalPieces, Piece
from rondo_tools.store.last_rows import LastRowsReader
from rondo_tools.store.looks import stamp
from rondo_tools.store.remembered import DescriptionFrames, Remembered
from rondo_tools.store.slots import Slots

log = logging.getLogger(__name__)

_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # not an error of the file: the next try may work


class Finder(Protocol):
    def find(self, instance: str, start_ms: int) -> Description | None:
        """The newest description of an ended session, or None."""


@dataclass(slots=True)
class Counts:
    """The results of a roll-up, in numbers."""

    journals: int = 0
    unread_journals: int = 0  # missing or unreadable
    rows: int = 0
    ended: int = 0
    back: int = 0  # sessions that came back after their end
    damaged_bytes: int = 0

    def add(self, other: Counts) -> None:
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


@dataclass(slots=True)
class Result:
    """The committed state, and the frames of its new descriptions."""

    state: State
    frames: list[DescriptionFrames] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)


def roll_up(
    layout: Layout,
    state: State,
    tiers: tuple[Tier, ...],
    store_id: bytes,
    now_ms: Callable[[], int],
    upto_journal: int,
    remembered: Finder,
    *,
    piece: int = PIECE,
    max_file: int = MAX_FILE,
) -> Result:
    """Roll up the closed journals after `state.rolled_up` up to `upto_journal`, each with a commit.

    `state` is not changed. Raises OSError if no journal could be committed; then try again. A derived file is
    closed once it has `max_file` bytes, a small part of the store's limit, because an open file cannot be
    evicted. The caller holds the store's lock, and runs one roll-up at a time.
    """
    result = Result(state)
    fresh = Remembered(layout)

    def find(instance: str, start_ms: int) -> Description | None:
        return fresh.find(instance, start_ms) or remembered.find(instance, start_ms)

    for number in range(state.rolled_up + 1, upto_journal + 1):
        one = _RollUp(layout, result.state, tiers, number, find, piece, max_file)
        try:
            one.run(store_id, stamp(now_ms(), state.looks_ms))
        except OSError as exc:
            if not result.counts.journals:
                raise
            log.warning("%s: cannot be rolled up: %s", layout.file(JOURNALS, number), exc.strerror or exc)
            break
        result.state = one.state
        result.frames += one.new
        result.counts.add(one.counts)
        fresh.add(one.new)
    return result


def clean_up(layout: Layout, state: State, tiers: tuple[Tier, ...]) -> None:
    """Remove the files of roll-ups that were never committed. For the holder of the lock, at start-up.

    Raises OSError if `state` cannot be forced to the disk; then nothing is removed.
    """
    for path in layout.temporaries():
        _remove(path)
    if not layout.state_json.exists():
        return  # no commit, or its state.json is lost: the files may be data
    files.sync_folder(layout.path)  # the process that wrote the state may have been killed before its sync
    paths = [layout.carry(number) for number in layout.carries() if number != state.carry]
    for folder in (*(tier_name(tier) for tier in range(1, len(tiers))), ENDED, LAST_ROWS):
        named = state.files.get(folder, {})
        paths += [layout.file(folder, number) for number in layout.numbers(folder) if number not in named]
    for path in paths:
        _remove(path)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as exc:
        log.warning("%s: cannot be removed: %s", path, exc.strerror)


class _RollUp:
    """The roll-up of journal `number`. `state` is the new state, `new` are the new descriptions."""

    def __init__(
        self,
        layout: Layout,
        state: State,
        tiers: tuple[Tier, ...],
        number: int,
        find: Callable[[str, int], Description | None],
        piece: int,
        max_file: int,
    ) -> None:
        self._max_file = max_file
        self.state = copy.deepcopy(state)
        self.new: list[DescriptionFrames] = []
        self.counts = Counts(journals=1)
        self._layout, self._tiers, self._number, self._piece = layout, tiers, number, piece
        self._carry = read_carry(layout, state, len(tiers) - 1)
        self._slots = Slots(self._carry, number, max(ended.LAST_MS, tiers[-1].interval_ms), find)
        self._windows = [
            Windows(tier.interval_ms, open) for tier, open in zip(tiers[1:], self._carry.windows, strict=True)
        ]
        self._closed: list[list[tuple[Schema, Groups]]] = [[] for _ in self._windows]
        self._whole: Piece | None = None  # the journal, if it comes in one piece

    def run(self, store_id: bytes, now_ms: int) -> None:
        """Raises OSError; then the old state is still valid."""
        over = self._read()
        derived = {}
        carry = self._layout.carry(self.state.carry + 1)
        try:
            for folder, tier in self._folders().items():
                known, span_ms = self._carry.files.get(folder), tier.span_ms // FILES_A_SPAN
                derived[folder] = Derived(
                    self._layout, folder, self.state, known, store_id, now_ms, span_ms, self._max_file
                )
            self._write(over, derived)
            for one in derived.values():
                one.sync()
            open_files = {folder: one.known for folder, one in derived.items()}
            open_windows = [windows.open for windows in self._windows]
            files.replace(carry, self._slots.keep(over, open_windows, open_files).pack())
            old_carry, self.state.carry = self.state.carry, self.state.carry + 1
            self.state.rolled_up = self._number
            self.state.journals[self._number] = now_ms
        except Exception:
            for one in derived.values():
                one.undo()
            _remove(carry)
            raise
        finally:
            for one in derived.values():
                one.close()
        if self._commit(derived, carry) and old_carry:
            _remove(self._layout.carry(old_carry))

    def _commit(self, derived: dict[str, Derived], carry: Path) -> bool:
        """Commit the new state. False if a power cut could still bring the old one back."""
        path, data = self._layout.state_json, self.state.pack()
        try:
            files.replace(path, data)
        except OSError as exc:
            if path.exists() and path.read_bytes() == data:
                log.warning("%s: cannot be forced to the disk: %s", path, exc.strerror)
                return False
            for one in derived.values():
                one.undo()
            _remove(carry)
            raise
        return True

    def _folders(self) -> dict[str, Tier]:
        """The folders of derived files, each with the tier that gives its span."""
        coarse = {tier_name(number): tier for number, tier in enumerate(self._tiers[1:], 1)}
        return coarse | {LAST_ROWS: self._tiers[-1], ENDED: self._tiers[-1]}

    def _read(self) -> dict[int, EndRecord]:
        """Fold the journal's ticks; gives the ended sessions, by slot."""
        path = self._layout.file(JOURNALS, self._number)
        try:
            journal = JournalPieces(path, self._slots.slot_of, self._piece)
        except FileNotFoundError:
            return self._pass_over(f"{path}: gone")
        except StoreError as exc:
            if isinstance(exc.__cause__, OSError) and exc.__cause__.errno in _PASSING:
                raise exc.__cause__ from None
            return {} if has_no_header(path) else self._pass_over(str(exc))
        with journal:
            files.sync_file(path)
            for some in journal.pieces():
                self._fold(some)
            self._slots.place_new()
            damage = journal.file.damage
        if damage.bytes:
            self.counts.damaged_bytes += damage.bytes
            log.warning(
                "%s: %d bytes are damaged, the first at byte %d; the rest is rolled up",
                path, damage.bytes, damage.first_at,
            )  # fmt: skip
        return self._over(journal.ends)

    def _pass_over(self, why: str) -> dict[int, EndRecord]:
        log.warning("%s; passed over", why)
        self.counts.unread_journals += 1
        return {}

    def _fold(self, piece: Piece) -> None:
        slots = self._slots
        slots.place_new()
        self._whole = piece if self._whole is None else {}
        ticks = {}
        for schema, (of_rows, rows) in piece.items():
            t_ms = rows["t_ms"].astype(np.int64)
            slots.count(schema, of_rows, t_ms)
            ticks[schema] = by_session(Ticks(of_rows, t_ms, rows["values"]))
            self.counts.rows += of_rows.size
        if slots.back:
            self._reopen()
        for closed, windows in zip(self._closed, self._windows, strict=True):
            closed += windows.add(ticks)

    def _reopen(self) -> None:
        """Make the last window of sessions that came back in it from its ticks, as if it had never closed."""
        slots = self._slots
        seeds: list[dict[Schema, list[Ticks]]] = [{} for _ in self._windows]
        with LastRowsReader(self._layout) as reader:
            for slot in [slot for slot in slots.back if slots.ticks[slot]]:
                description = slots.back.pop(slot)
                slots.had(slot, self._schemas_before(reader, description))
                self.counts.back += 1
                for windows, seed in zip(self._windows, seeds, strict=True):
                    window = description.last_ms // windows.interval_ms
                    if int(slots.first_ms[slot]) // windows.interval_ms == window:
                        for schema, rows in reader.read(description, window * windows.interval_ms - 1):
                            t_ms = rows["t_ms"].astype(np.int64)
                            one = Ticks(np.full(rows.size, slot), t_ms, rows["values"])
                            seed.setdefault(schema, []).append(one)
        for windows, seed in zip(self._windows, seeds, strict=True):
            windows.add({schema: concatenated(parts) for schema, parts in seed.items()})

    def _schemas_before(self, reader: LastRowsReader, description: Description) -> list[Schema]:
        """A session's schemas before it came back: of its last rows and, if some are missing, coarse rows."""
        found = reader.schemas(description)
        if not found or union(found).width < description.series:
            found[:0] = self._coarse_schemas(description)
        return found

    def _coarse_schemas(self, description: Description) -> list[Schema]:
        with ExitStack() as opened:
            views = []
            for tier in range(1, len(self._tiers)):
                folder = tier_name(tier)
                for number, file in sorted(self.state.files.get(folder, {}).items()):
                    try:
                        view = RowsView(self._layout.file(folder, number))
                    except (FileNotFoundError, StoreError):
                        continue  # readers of its rows report the error
                    opened.callback(view.close)
                    view.update(file)
                    views.append((tier, view))
            return schemas_in(views, description.key)

    def _over(self, ends: list[tuple[int, EndRecord]]) -> dict[int, EndRecord]:
        """The valid ends, by slot: a later tick, in any journal, undoes an end `lost`."""
        slots, over = self._slots, {}
        for slot, end in ends:
            if end.reason == LOST and (slots.last_ms[slot] > end.last_ms or slot in slots.back):
                continue
            over[slot] = end
        return over

    def _write(self, over: dict[int, EndRecord], derived: dict[str, Derived]) -> None:
        """Append the rows of closed windows, and the ended sessions."""
        slots = self._slots
        for closed, windows in zip(self._closed, self._windows, strict=True):
            closed += windows.close(np.array(sorted(over), np.int64))
        for tier, closed in enumerate(self._closed, 1):
            parts = [self._coarse_part(schema, groups) for schema, groups in _by_schema(closed)]
            derived[tier_name(tier)].append(parts, slots.describe, Ends(self._number, over))
        slots.advance()
        last_rows, descriptions = derived[LAST_ROWS], derived[ENDED]
        new = ended.write_ended(
            self._layout, slots, over, self._whole, last_rows, descriptions, piece=self._piece
        )
        if new is not None:
            self.new.append(new)
            self.counts.ended += len(over)

    def _coarse_part(self, schema: Schema, groups: Groups) -> Part:
        coarse = coarse_rows(groups, schema)
        rows = np.empty(groups.size, row_dtype(schema.coarse_width))
        rows["t_ms"], rows["values"] = coarse.t_ms, coarse.values
        return Part(schema, groups.session, self._slots.origins(groups), rows)


def read_carry(layout: Layout, state: State, coarse: int) -> Carry:
    """The carry that state.json names; empty, with a warning, if it cannot be read."""
    if state.carry:
        path = layout.carry(state.carry)
        try:
            carry = parse_carry(path.read_bytes())
            if len(carry.windows) == coarse:
                return carry
            why = f"has {len(carry.windows)} tiers, not {coarse}"
        except StoreError as exc:
            why = str(exc)
        except OSError as exc:
            if exc.errno in _PASSING:
                raise
            why = exc.strerror or str(exc)
        log.warning("%s: %s; what sessions had open is not rolled up", path, why)
    return Carry(windows=[{} for _ in range(coarse)])


def _by_schema(closed: list[tuple[Schema, Groups]]) -> list[tuple[Schema, Groups]]:
    parts: dict[Schema, list[Groups]] = {}
    for schema, groups in closed:
        parts.setdefault(schema, []).append(groups)
    return [(schema, concatenated(some)) for schema, some in parts.items()]
