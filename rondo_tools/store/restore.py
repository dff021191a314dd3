"""Restores a dump into a store: new data is added, and data that the store has is skipped as a replay.

Strategy: like a roll-up, and with its parts. Rows of coarse tiers, last rows and descriptions are appended
to derived files. Journals and cursors are made in a folder of their own (`restored`). Then the carry is
written and `state.json` replaced, which is the commit. So a restore is complete or has no effect, and may be
repeated.

Journals are copied frame by frame. Journals that were rolled up come with the coarse rows of the dump; a
tier that the dump does not have is rolled up from their ticks. The store rolls up the other journals.
"""

from __future__ import annotations

import copy
import logging
import os
import shutil
import time
from collections.abc import Callable

import numpy as np

from rondo_tools import files
from rondo_tools.errors import EX_TEMPFAIL, EX_UNAVAILABLE, StoreError
from rondo_tools.progress import Progress
from rondo_tools.store import dump_parts, ended
from rondo_tools.store.carry import Carry
from rondo_tools.store.compaction import read_carry
from rondo_tools.store.derived import FILES_A_SPAN, Derived
from rondo_tools.store.dump_parts import DumpedStore, Part
from rondo_tools.store.folder import Folder
from rondo_tools.store.format import dump, frames
from rondo_tools.store.format.cursor import Position
from rondo_tools.store.format.frames import DESCRIPTIONS, END, ROWS, SCHEMA, SESSION, Frame
from rondo_tools.store.format.layout import ENDED, JOURNALS, LAST_ROWS, Layout, tier_name
from rondo_tools.store.format.records import Description, Place, key_of
from rondo_tools.store.format.rollup import Flags, Groups, Windows, concatenated
from rondo_tools.store.format.schema import Schema
from rondo_tools.store.format.state import MAX_EVICTIONS, State
from rondo_tools.store.format.tiers import Tier, format_tiers
from rondo_tools.store.journal_folder import ClosedJournal
from rondo_tools.store.looks import stamp
from rondo_tools.store.opened import OpenStore
from rondo_tools.store.remembered import Remembered
from rondo_tools.store.reserve import FULL
from rondo_tools.store.restore_cursors import CursorsHere, Landing
from rondo_tools.store.restore_journals import RestoredJournals
from rondo_tools.store.restore_rows import RestoredRows
from rondo_tools.store.restore_sessions import RestoredSessions
from rondo_tools.store.restored import move_into_place, pack_incomplete, read_incomplete
from rondo_tools.store.slots import Slots
from rondo_tools.store.upkeep import Upkeep
from rondo_tools.units import format_count, format_duration

log = logging.getLogger(__name__)


def restore(
    directory: str,
    read: Callable[[int], bytes],
    *,
    tiers: tuple[Tier, ...] | None = None,
    max_bytes: int | None = None,
    bring_cursors: bool = True,
    partial: bool = False,
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> None:
    """Restore the dump from `read` into the store at `directory`; a new store gets the dump's tiers.

    Raises StoreError: with status 65 if only a part of the dump is restored, else if nothing is.
    """
    source = dump.DumpReader(read)
    begun = dump_parts.dumped_store(source)
    if tiers is None and not Layout(directory).store_json.exists():
        tiers = begun.tiers
    with _opened(directory, tiers, max_bytes, now_ms) as store:
        store.keep_house()
        if store.keeper.closed:
            raise StoreError(
                f"{directory}: has journals that cannot be rolled up; nothing was restored",
                exit_code=EX_TEMPFAIL,
            )
        folder, state = store.keeper.folder, store.upkeep.state
        one = Restore(begun, folder, state, _remembered(folder.layout, state).find, now_ms)
        one.run(source, bring_cursors=bring_cursors)
        if one.new_journals:
            remembered = _remembered(folder.layout, one.state)
            upkeep = Upkeep(folder, one.state, remembered, max_bytes=max_bytes, now_ms=now_ms)
            try:
                for number in one.new_journals:
                    upkeep.take_over(upkeep.run(ClosedJournal(number, now_ms())))
            except OSError as exc:
                log.warning("%s: not rolled up yet: %s", directory, exc.strerror or exc)
    one.report(source, partial=partial)


def _opened(
    directory: str, tiers: tuple[Tier, ...] | None, max_bytes: int | None, now_ms: Callable[[], int]
) -> OpenStore:
    try:
        return OpenStore(directory, tiers, max_bytes=max_bytes, now_ms=now_ms)
    except StoreError as exc:
        if exc.exit_code != EX_TEMPFAIL:
            raise
        raise StoreError(
            f"{exc}. Stop that rondo-store, restore, then start it again", exit_code=EX_TEMPFAIL
        ) from exc


def _remembered(layout: Layout, state: State) -> Remembered:
    found = Remembered(layout)
    found.load(state)
    return found


class Restore:
    """Restores a dump into the store that `folder` holds, in which no journal waits for its roll-up.

    `source` is the dump's description of its store, `find` gives the description of an ended session.
    After `run`, `state` is the new state, and `new_journals` wait for their roll-up.
    """

    def __init__(
        self,
        source: DumpedStore,
        folder: Folder,
        state: State,
        find: Callable[[str, int], Description | None],
        now_ms: Callable[[], int],
    ) -> None:
        self.state = copy.deepcopy(state)
        self.new_journals: list[int] = []
        self.coarse_rows = 0  # restored
        self.left_out: dict[int, int] = {}  # rows of intervals that no tier has, by interval
        self.is_whole = False
        self._source, self._folder = source, folder
        self._layout, self._tiers = folder.layout, folder.tiers
        self._now_ms = stamp(now_ms(), state.looks_ms)
        self._name = os.urandom(8).hex()
        self._made = self._layout.restore(self._name)
        newest = max([state.rolled_up, *self._layout.numbers(JOURNALS)])
        self._carry = read_carry(self._layout, state, len(self._tiers) - 1)
        self.sessions = RestoredSessions(
            Slots(self._carry, state.rolled_up, ended.LAST_MS, find), find, read_incomplete(self._layout)
        )
        here = {tier.interval_ms: number for number, tier in enumerate(self._tiers) if number}
        self._tier_of = {n: here.get(tier.interval_ms) for n, tier in enumerate(source.tiers) if n}
        folding = {
            number: Windows(interval_ms, self._carry.windows[number - 1])
            for interval_ms, number in here.items()
            if number not in self._tier_of.values()
        }
        self.rows = RestoredRows(self.sessions.slots, self._open_derived, folding)
        self.landing = Landing(folder.store_id)
        self._last_rows: dict[tuple[int, int], list[tuple[int, Place]]] | None = None
        self.journals = RestoredJournals(
            source, self._made, folder.store_id, newest, self.sessions, self.rows, self.landing,
            self._must_be_delivered,
        )  # fmt: skip
        self._here: CursorsHere | None = None

    def run(self, source: dump.DumpReader, *, bring_cursors: bool = True) -> None:
        """Restore everything undamaged. Raises StoreError; then nothing is restored."""
        try:
            with CursorsHere(self._layout, self.state) as self._here:
                self._read(source, bring_cursors=bring_cursors)
                if self.sessions.new:
                    self._finish()
        except OSError as exc:
            status = EX_TEMPFAIL if exc.errno in FULL else EX_UNAVAILABLE
            why = exc.strerror or str(exc)
            raise StoreError(f"{self._layout.path}: {why}; nothing was restored", exit_code=status) from exc
        finally:
            self.rows.close()
            if self.state.restored != self._name:
                self._undo()

    def _undo(self) -> None:
        self.journals.close()
        self.rows.undo()
        shutil.rmtree(self._made.path, ignore_errors=True)

    def _open_derived(self) -> dict[str, Derived]:
        spans = {tier_name(number): tier.span_ms for number, tier in enumerate(self._tiers[1:], 1)}
        spans |= {LAST_ROWS: self._tiers[-1].span_ms, ENDED: self._tiers[-1].span_ms}
        return {
            name: Derived(
                self._layout, name, self.state, self._carry.files.get(name), self._folder.store_id,
                self._now_ms, span_ms // FILES_A_SPAN,
            )
            for name, span_ms in spans.items()
        }  # fmt: skip

    # --- reading ------------------------------------------------------------------------------------

    def _read(self, source: dump.DumpReader, *, bring_cursors: bool) -> None:
        """Take all undamaged frames."""
        part: Part | None = None
        progress = Progress("restored", self._source.bytes)
        for head, payload in source:
            progress.add(head.size)
            try:
                if head.kind == dump.PART:
                    ending, part = part, None
                    try:
                        self._end_part(ending, bring_cursors=bring_cursors)
                    finally:
                        part = self._begin_part(payload)
                elif part is None:
                    raise ValueError("in no part")
                else:
                    self._take(part, head, payload)
            except dump_parts.BAD as exc:
                log.debug("byte %d of the dump: %s", source.frame_at, exc)
                source.damage.add(source.frame_at, head.size)
        if self.journals.is_open:
            self._end_part(part, bring_cursors=False)  # the dump ends in the middle of it
        self.is_whole = part is not None and part.name == dump.END and not source.damage.bytes

    def _begin_part(self, payload: bytes) -> Part:
        part = dump_parts.part_of(payload)
        if isinstance(part, DumpedStore):
            raise ValueError("two stores in a dump")  # noqa: TRY004  (it is damage)
        if part.name == JOURNALS:
            self.journals.begin(part)
        return part

    def _end_part(self, part: Part | None, *, bring_cursors: bool) -> None:
        """Raises ValueError if the content of the part is invalid."""
        if self.journals.is_open:
            self.journals.end()
        elif part is not None and part.name == dump.CARRY:
            self.sessions.take_carry(dump_parts.carry_of(bytes(part.data), self._source.rolled_up))
        elif part is not None and part.name == dump.CURSOR and bring_cursors:
            self.landing.take(part.cursor, bytes(part.data))

    def _take(self, part: Part, head: Frame, payload: bytes) -> None:
        if head.kind == dump.BYTES:
            part.take_bytes(payload)
        elif head.kind == SCHEMA:
            part.take_schema(head, payload)
            if self.journals.is_open:
                self.journals.copy(head, payload)
        elif head.kind == SESSION:
            some = part.take_sessions(payload)
            if self.journals.is_open:
                self.journals.declare(some)
        elif head.kind == DESCRIPTIONS and part.name == ENDED:
            for one in dump_parts.descriptions(head, payload):
                self.sessions.take_description(one)
        elif head.kind == ROWS and part.name == LAST_ROWS:
            self._take_last_rows(part, head, payload)
        elif self.journals.is_open:
            self.journals.take(head, payload)
        elif head.kind == ROWS:
            self._take_coarse(part, head, payload)
        elif head.kind == END and part.tier:
            part.ends(payload)  # only checked: descriptions have them, and pushes of that tier had its rows
        else:
            raise ValueError("a frame that is nothing here")

    def _take_coarse(self, part: Part, head: Frame, payload: bytes) -> None:
        tier = part.tier
        if tier not in self._tier_of or head.origin > self._source.rolled_up:
            raise ValueError("rows of no tier of the dump's store, or of a journal that is not rolled up")
        schema, rows = part.rows(head, payload, tier)
        here = self._tier_of[tier]
        if here is None:
            since = (self.sessions.known(part.sessions[n].key).coarse_ms for n in rows["session"].tolist())
            count = int((rows["t_ms"] > np.fromiter(since, np.int64, rows.size)).sum())
            interval_ms = self._source.tiers[tier].interval_ms
            self.left_out[interval_ms] = self.left_out.get(interval_ms, 0) + count
            return
        rows, slots = self.sessions.new_rows(part, rows, lambda known: known.coarse_ms)
        if rows.size:
            self._must_be_delivered()
            self.coarse_rows += rows.size
            self.rows.add(tier_name(here), schema, slots, self.journals.moved(head.origin), rows)

    def _must_be_delivered(self) -> None:
        """Raise StoreError if a cursor of this store would deliver the restored rows."""
        assert self._here is not None
        self._here.must_be_at_end()

    def _take_last_rows(self, part: Part, head: Frame, payload: bytes) -> None:
        if self._last_rows is None:
            self._last_rows = self.sessions.last_rows()
        for slot, place in self._last_rows.pop((part.number, head.origin), ()):
            if place.first + place.rows > head.entries:
                raise ValueError("last rows beyond their frame")
            only = np.arange(place.first, place.first + place.rows)
            schema, rows = part.rows(head, payload, 0, only)
            owners = {part.sessions[number].key for number in np.unique(rows["session"]).tolist()}
            if owners != {self.sessions.key(slot)}:
                raise ValueError("last rows of another session")
            self.rows.add(LAST_ROWS, schema, np.full(rows.size, slot), 0, rows)

    # --- the commit ---------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Write the rest, then commit."""
        slots, state = self.sessions.slots, self.state
        over = self.sessions.merge(self.journals.moved)
        is_kept = slots.live["ticks"] > 0
        is_kept[over] = False
        newest = self.journals.moved(self._source.rolled_up)
        self.rows.close_windows(np.flatnonzero(~is_kept), newest)
        self.rows.flush()
        descriptions = sorted(self.sessions.descriptions(self.rows.places), key=lambda one: key_of(*one.key))
        derived = self.rows.derived
        if descriptions:
            derived[ENDED].append_frames(lambda seed: ended.description_frames(seed, descriptions))
        for one in derived.values():
            one.sync()
        open_files = {name: one.known for name, one in derived.items()}
        carry = slots.keep(over, self._open_windows(is_kept), open_files)
        old_carry, state.carry = state.carry, state.carry + 1
        state.rolled_up = max(state.rolled_up, newest)
        for number in self.landing.journals:
            if number <= newest:
                state.journals[number] = self._now_ms
            else:
                self.new_journals.append(number)
        known = set(state.evictions)
        state.evictions += [one for one in self._source.evictions if one not in known]
        state.evictions = state.evictions[-MAX_EVICTIONS:]
        files.make_folder(self._made.path)
        for name, data in self._cursors().items():
            files.replace(self._made.cursor(name), data)
        incomplete = self.sessions.still_incomplete(is_whole=self.is_whole)
        files.replace(self._made.incomplete, pack_incomplete(incomplete))
        self._commit(carry)
        if old_carry:
            self._layout.carry(old_carry).unlink(missing_ok=True)

    def _commit(self, carry: Carry) -> None:
        path, state = self._layout.carry(self.state.carry), self.state
        try:
            files.replace(path, carry.pack())
            self._folder.check()
            state.restored = self._name
            files.replace(self._layout.state_json, state.pack())
        except BaseException:
            if not (
                self._layout.state_json.exists() and self._layout.state_json.read_bytes() == state.pack()
            ):
                state.restored = ""
                path.unlink(missing_ok=True)
            raise
        try:
            move_into_place(self._layout, state)
        except OSError as exc:
            log.warning("%s: %s; the next start goes on with it", self._made.path, exc.strerror or exc)

    def _open_windows(self, is_kept: Flags) -> list[dict[Schema, Groups]]:
        """The open windows of each tier: the dump's, and the store's except of sessions that the dump makes
        live or ends."""
        theirs = {here: tier for tier, here in self._tier_of.items() if here is not None}
        found = []
        for tier in range(1, len(self._tiers)):
            parts: dict[Schema, list[Groups]] = {}
            if tier in theirs:
                stays = is_kept.copy()
                stays[list(self.sessions.live)] = False
                own = self._carry.windows[tier - 1]
                for schema, groups in self.sessions.windows(theirs[tier]).items():
                    parts.setdefault(schema, []).append(groups)
            else:
                stays, own = is_kept, self.rows.folding[tier].open
            for schema, groups in own.items():
                parts.setdefault(schema, []).append(groups.only(stays[groups.session]))
            whole = {schema: concatenated(some) for schema, some in parts.items()}
            found.append({schema: groups for schema, groups in whole.items() if groups.size})
        return found

    def _cursors(self) -> dict[str, bytes]:
        assert self._here is not None
        ends = {}
        for tier in range(1, len(self._tiers)):
            known = self.state.files.get(tier_name(tier), {})
            if known:
                number = max(known)
                with self._layout.file(tier_name(tier), number).open("rb") as file:
                    header = frames.parse_file_header(file.read(frames.FILE_SIZE))
                ends[tier] = Position(number, header.file_id, known[number].length)
        return self.landing.cursors(self._here, self.journals.shift or 0, self._tier_of, ends)

    # ------------------------------------------------------------------------------------------------

    def report(self, source: dump.DumpReader, *, partial: bool) -> None:
        """Log the result. Raises StoreError if the dump was not restored completely."""
        path = self._layout.path
        log.info(
            "restored %s: %s, %s; %d known already", format_count(self.sessions.new, "session"),
            format_count(self.journals.ticks, "tick"), format_count(self.coarse_rows, "coarse row"),
            self.sessions.passed_over,
        )  # fmt: skip
        wrong = []
        if source.damage.bytes:
            size, at = source.damage.bytes, source.damage.first_at
            wrong.append(f"{size} bytes of the dump are damaged, from byte {at} on")
        elif not self.is_whole:
            wrong.append(f"the dump is incomplete: it ends at byte {source.at}")
        if wrong:
            wrong.append("its undamaged part is restored; restore a whole dump here to complete it")
        left_out = {interval_ms: rows for interval_ms, rows in self.left_out.items() if rows}
        for interval_ms, rows in left_out.items():
            log.warning(
                "%s: has no tier of %s (%s): %s left out", path, format_duration(interval_ms),
                format_tiers(self._tiers), format_count(rows, "row"),
            )  # fmt: skip
        if left_out and not partial:
            wrong.append(f"{format_count(sum(left_out.values()), 'row')} left out (--partial allows that)")
        if wrong:
            raise StoreError("; ".join(wrong))
