"""The roll-up of closed journals: coarse rows, descriptions of sessions that are over, last rows.

Strategy: a function over the store's folder, that shares no memory with who writes the journals. A
journal is read in pieces, once; what its ticks leave open is in `carry_N`. Then, in this order: sync
the journal, append to derived files, sync them, write `carry_N`, replace `state.json`, remove the
carry before it. The replacement is the commit: a crash or a full disk before it leaves the state
that was, and what was appended behind its lengths is no data.

All sessions are worked on at once, as arrays by slot; a session costs Python's time only where it
begins or ends.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from rondo_tools import files
from rondo_tools.errors import StoreError
from rondo_tools.store import last_rows
from rondo_tools.store.carry import LIVE, Carry, parse_carry
from rondo_tools.store.derived import Derived, Part
from rondo_tools.store.format import frames, records
from rondo_tools.store.format.layout import ENDED, JOURNALS, LAST_ROWS, Layout, tier_name
from rondo_tools.store.format.records import (
    LOST,
    Description,
    EndRecord,
    Place,
    SessionKey,
    SessionRecord,
    pack_descriptions,
)
from rondo_tools.store.format.rollup import (
    Groups,
    Ints,
    Ticks,
    Windows,
    by_session,
    coarse_rows,
    concatenated,
)
from rondo_tools.store.format.schema import Schema
from rondo_tools.store.format.state import State
from rondo_tools.store.format.tiers import Tier
from rondo_tools.store.journal_pieces import PIECE, JournalPieces, Piece
from rondo_tools.store.last_rows import LastRowsReader
from rondo_tools.store.remembered import DescriptionFrames, Remembered

log = logging.getLogger(__name__)

_FILES_A_SPAN = 8
_DESCRIPTIONS_A_FRAME = 256
_NEVER = np.iinfo(np.int64).max


class Finder(Protocol):
    def find(self, instance: str, start_ms: int) -> Description | None:
        """The newest description of a session that is over, or None."""


@dataclass(slots=True)
class Counts:
    """What a roll-up did, and what it met."""

    journals: int = 0
    unread_journals: int = 0  # gone, or not to be read at all
    rows: int = 0
    ended: int = 0
    back: int = 0  # sessions that came back after they were over
    damaged_bytes: int = 0


@dataclass(slots=True)
class Result:
    """The state that was committed, and the frames of descriptions that are new with it."""

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
) -> Result:
    """Roll up the closed journals after `state.rolled_up` up to `upto_journal`, each with a commit.

    `state` is not changed. Raises OSError if not one journal could be committed; the next try works.
    The caller holds the store's lock, and does not call this twice at a time.
    """
    result = Result(state)
    fresh = Remembered(layout)
    for number in range(state.rolled_up + 1, upto_journal + 1):
        one = _RollUp(layout, result, tiers, store_id, now_ms(), number, (fresh, remembered), piece)
        try:
            new = one.run()
        except OSError as exc:
            if not result.counts.journals:
                raise
            log.warning("%s: cannot be rolled up: %s", layout.file(JOURNALS, number), exc.strerror or exc)
            break
        result.state = one.state
        result.frames += new
        fresh.add(new)
        result.counts.journals += 1
    return result


def clean_up(layout: Layout, state: State, tiers: tuple[Tier, ...]) -> None:
    """Remove what roll-ups left that were never committed. For the holder of the lock, at a start."""
    if not layout.state_json.exists():
        return  # nothing was ever committed, or nobody knows what was
    paths = [layout.carry(number) for number in layout.carries() if number != state.carry]
    paths += layout.temporaries()
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
    """One journal's."""

    def __init__(
        self,
        layout: Layout,
        result: Result,
        tiers: tuple[Tier, ...],
        store_id: bytes,
        now_ms: int,
        number: int,
        finders: tuple[Finder, ...],
        piece: int,
    ) -> None:
        self.state = copy.deepcopy(result.state)
        self._old_carry = self.state.carry
        self._layout, self._tiers, self._store_id, self._now_ms = layout, tiers, store_id, now_ms
        self._number, self._finders, self._piece, self._counts = (
            number,
            finders,
            piece,
            copy.copy(result.counts),
        )
        self._result = result
        self._last_ms = max(last_rows.LAST_MS, tiers[-1].interval_ms)
        carry = self._carry = _read_carry(layout, self.state, len(tiers) - 1)
        self._slots: dict[SessionKey, int] = {
            (instance, start_ms): slot
            for slot, ((instance, _), start_ms) in enumerate(
                zip(carry.names, carry.live["start_ms"].tolist(), strict=True)
            )
        }
        self._schemas = {schema: place for place, schema in enumerate(carry.schemas)}
        self._fresh: list[tuple[int, ...]] = []  # rows of LIVE for sessions that begin
        self._back: dict[int, Description] = {}  # came back, no tick of them was met yet
        self._descriptions: dict[int, Description] = {}
        self._windows = [
            Windows(tier.interval_ms, open) for tier, open in zip(tiers[1:], carry.windows, strict=True)
        ]
        self._closed: list[list[tuple[Schema, Groups]]] = [[] for _ in self._windows]
        # Of this journal, by slot: ticks, the first, the last, and its schema.
        self._ticks = np.zeros(carry.live.size, np.int64)
        self._first = np.full(carry.live.size, _NEVER)
        self._last = np.zeros(carry.live.size, np.int64)
        self._schema = carry.live["schema"].astype(np.int64)
        self._derived: dict[str, Derived] = {}

    def run(self) -> list[DescriptionFrames]:
        """Raises OSError; then nothing has changed."""
        path = self._layout.file(JOURNALS, self._number)
        new_carry = self._layout.carry(self._old_carry + 1)
        try:
            try:
                files.sync_file(path)
                journal = JournalPieces(path, self._slot_of, self._piece)
            except (FileNotFoundError, StoreError) as exc:
                log.warning("%s; passed over", exc if isinstance(exc, StoreError) else f"{path}: gone")
                self._counts.unread_journals += 1
                new = self._write({})
            else:
                with journal, LastRowsReader(self._layout) as reader:
                    self._reader = reader
                    for some in journal.pieces():
                        self._fold(some)
                    self._settle()
                    self._tell_damage(journal)
                    new = self._write(self._over(journal.ends))
            for derived in self._derived.values():
                derived.sync()
            files.replace(new_carry, self._carry.pack())
            self.state.carry = self._old_carry + 1
            self.state.rolled_up = self._number
            self.state.journals[self._number] = self._now_ms
            files.replace(self._layout.state_json, self.state.pack())
        except Exception:
            for derived in self._derived.values():
                derived.undo()
            _remove(new_carry)
            raise
        finally:
            for derived in self._derived.values():
                derived.close()
        if self._old_carry:
            _remove(self._layout.carry(self._old_carry))
        self._result.counts = self._counts
        return new

    # --- reading --------------------------------------------------------------------------------------

    def _slot_of(self, record: SessionRecord) -> int:
        """The slot of a session that the journal declares; a new one if it was not live."""
        slot = self._slots.get(record.key)
        if slot is not None:
            return slot
        slot = self._slots[record.key] = len(self._carry.names)
        self._carry.names.append((record.instance, record.labels))
        first_ms = last_ms = ticks = 0
        if record.last_ms:
            found = (finder.find(*record.key) for finder in self._finders)
            description = next((one for one in found if one is not None), None)
            if description is not None:
                first_ms, last_ms, ticks = description.first_ms, description.last_ms, description.ticks
                self._back[slot] = self._descriptions[slot] = description
        number = self._number
        counted = first_ms, last_ms, ticks, record.before_ms, last_ms
        self._fresh.append((record.start_ms, record.interval_ms, *counted, 0, number, number, number, 0))
        return slot

    def _settle(self) -> None:
        """Give the sessions that began since the last call their rows in the arrays."""
        if not self._fresh:
            return
        more = len(self._fresh)
        self._carry.live = np.concatenate((self._carry.live, np.array(self._fresh, LIVE)))
        self._fresh = []
        self._ticks = np.concatenate((self._ticks, np.zeros(more, np.int64)))
        self._first = np.concatenate((self._first, np.full(more, _NEVER)))
        self._last = np.concatenate((self._last, np.zeros(more, np.int64)))
        self._schema = np.concatenate((self._schema, np.zeros(more, np.int64)))

    def _fold(self, piece: Piece) -> None:
        self._settle()
        ticks = {}
        for schema, (slots, rows) in piece.items():
            t_ms = rows["t_ms"].astype(np.int64)
            self._note(schema, slots, t_ms)
            ticks[schema] = by_session(Ticks(slots, t_ms, rows["values"]))
            self._counts.rows += slots.size
        if self._back:
            self._reopen()
        for closed, windows in zip(self._closed, self._windows, strict=True):
            closed += windows.add(ticks)

    def _note(self, schema: Schema, slots: Ints, t_ms: Ints) -> None:
        """Count ticks; a session's times ascend, so of equal slots the last is the newest."""
        size = self._ticks.size
        self._ticks += np.bincount(slots, minlength=size)
        first, last = np.full(size, _NEVER), np.zeros(size, np.int64)
        first[slots[::-1]] = t_ms[::-1]
        last[slots] = t_ms
        np.minimum(self._first, first, out=self._first)
        newer = last > self._last
        self._last[newer] = last[newer]
        self._schema[newer] = self._schemas.setdefault(schema, len(self._schemas))

    def _reopen(self) -> None:
        """Open the last window of sessions that came back in it, tick by tick, as if it had never closed."""
        ready = [slot for slot in self._back if self._ticks[slot]]
        seeds: list[dict[Schema, list[Ticks]]] = [{} for _ in self._windows]
        for slot in ready:
            description = self._back.pop(slot)
            self._counts.back += 1
            for windows, seed in zip(self._windows, seeds, strict=True):
                window = description.last_ms // windows.interval_ms
                if int(self._first[slot]) // windows.interval_ms != window:
                    continue
                for schema, rows in self._reader.read(description, window * windows.interval_ms - 1):
                    one = Ticks(np.full(rows.size, slot), rows["t_ms"].astype(np.int64), rows["values"])
                    seed.setdefault(schema, []).append(one)
        for windows, seed in zip(self._windows, seeds, strict=True):
            windows.add({schema: _one(parts) for schema, parts in seed.items()})

    def _tell_damage(self, journal: JournalPieces) -> None:
        damage = journal.file.damage
        if damage.bytes:
            self._counts.damaged_bytes += damage.bytes
            log.warning(
                "%s: %d bytes are damaged, the first at byte %d; the rest is rolled up",
                journal.file.path, damage.bytes, damage.first_at,
            )  # fmt: skip

    def _over(self, ends: list[tuple[int, EndRecord]]) -> dict[int, EndRecord]:
        """By slot, the ends that stand. Later ticks undo `lost`, wherever they are."""
        over = {}
        for slot, end in ends:
            if end.reason == LOST and (self._last[slot] > end.last_ms or slot in self._back):
                continue
            over[slot] = end
        return over

    # --- writing --------------------------------------------------------------------------------------

    def _write(self, over: dict[int, EndRecord]) -> list[DescriptionFrames]:
        """Append all that is over, and make the carry what is left."""
        live = self._carry.live
        slots = np.array(sorted(over), np.int64)
        for closed, windows in zip(self._closed, self._windows, strict=True):
            closed += windows.close(slots)
        for tier, closed in enumerate(self._closed, 1):
            derived = self._open(tier_name(tier), self._tiers[tier].span_ms)
            derived.append(
                [self._coarse_part(schema, groups) for schema, groups in _by_schema(closed)], self._describe
            )
        self._advance()
        self._carry.schemas = list(self._schemas)
        span_ms = self._tiers[-1].span_ms
        rows, descriptions = self._open(LAST_ROWS, span_ms), self._open(ENDED, span_ms)
        slots = slots[live["ticks"][slots] > 0] if slots.size else slots
        new: list[DescriptionFrames] = []
        if slots.size:
            new.append(self._write_ended(slots.tolist(), over, rows, descriptions))
        self._keep(over)
        return new

    def _open(self, folder: str, span_ms: int) -> Derived:
        known = self._carry.files.get(folder)
        self._derived[folder] = derived = Derived(
            self._layout, folder, self.state, known, self._store_id, self._now_ms, span_ms // _FILES_A_SPAN
        )
        return derived

    def _coarse_part(self, schema: Schema, groups: Groups) -> Part:
        coarse = coarse_rows(groups, schema)
        rows = np.empty(groups.size, frames.row_dtype(schema.coarse_width))
        rows["t_ms"], rows["values"] = coarse.t_ms, coarse.values
        live = self._carry.live[groups.session]
        # A window may be closed by a tick or an end that came long after its last tick.
        origins = np.where(groups.t_ms > live["last_ms"], self._number, live["journal"].astype(np.int64))
        return Part(schema, groups.session, origins, rows)

    def _describe(self, slot: int) -> SessionRecord:
        (instance, labels), live = self._carry.names[slot], self._carry.live[slot]
        return SessionRecord(
            0, instance, int(live["start_ms"]), int(live["interval_ms"]), labels, 0, int(live["before_ms"])
        )

    def _advance(self) -> None:
        """Take this journal's ticks into the live sessions' columns."""
        live = self._carry.live
        has = self._ticks > 0
        live["ticks"] += self._ticks
        begins = has & (live["first_ms"] == 0)
        live["first_ms"][begins] = self._first[begins]
        live["last_ms"] = np.maximum(live["last_ms"], self._last)
        live["schema"] = self._schema
        live["journal"][has] = self._number
        # Of which journals on are the ticks that its last rows will be? Of two marks the elder is passed
        # once the newer is ten minutes old.
        since_ms = live["last_ms"] - self._last_ms
        passed = has & (live["mark_ms"] <= since_ms)
        live["from_journal"][passed] = live["mark_journal"][passed]
        live["mark_journal"][passed] = self._number
        live["mark_ms"][passed] = self._first[passed]
        whole = has & (self._first <= since_ms)
        live["from_journal"][whole] = self._number

    def _write_ended(
        self, slots: list[int], over: dict[int, EndRecord], rows: Derived, descriptions: Derived
    ) -> DescriptionFrames:
        places = self._write_last_rows(slots, rows)
        live = self._carry.live[slots]
        columns = (
            live[name].tolist() for name in ("start_ms", "interval_ms", "first_ms", "last_ms", "ticks")
        )
        made = []
        for slot, start_ms, interval_ms, *counted in zip(slots, *columns, strict=True):
            instance, labels = self._carry.names[slot]
            end, where = over[slot], last_rows.newest(places.get(slot, []))
            if slot in self._back:
                series = self._back[slot].series
            else:
                series = self._carry.schemas[self._schema[slot]].width
            start = instance, start_ms, interval_ms, labels
            made.append(Description._make((*start, end.reason, end.t_ms, *counted, series, where)))
        made.sort(key=lambda one: records.key_of(*one.key))
        self._counts.ended += len(made)
        return descriptions.append_frames(lambda seed: _description_frames(seed, made))

    def _write_last_rows(self, slots: list[int], derived: Derived) -> dict[int, list[Place]]:
        live = self._carry.live
        since_ms = np.full(live.size, _NEVER)
        since_ms[slots] = live["last_ms"][slots] - self._last_ms
        places: dict[int, list[Place]] = {}
        earlier: list[Part] = []
        for slot in np.array(slots)[live["described_ms"][slots] > 0].tolist():
            earlier += self._earlier_rows(slot, int(since_ms[slot]))
        self._place(places, derived, earlier)
        np.maximum(since_ms, live["described_ms"], out=since_ms, where=since_ms < _NEVER)
        wanted = {
            (self._carry.names[slot][0], start_ms): slot
            for slot, start_ms in zip(slots, live["start_ms"][slots].tolist(), strict=True)
        }
        oldest = int(live["from_journal"][slots].min())
        journals = range(oldest, self._number + 1)
        for gathered in last_rows.gather(self._layout, journals, wanted, since_ms, self._piece):
            parts = []
            for schema, pieces in gathered.items():
                by_piece, rows = zip(*pieces, strict=True)
                of_rows = np.concatenate(by_piece)
                parts.append(Part(schema, of_rows, np.zeros(of_rows.size, np.int64), np.concatenate(rows)))
            self._place(places, derived, parts)
        return places

    def _earlier_rows(self, slot: int, since_ms: int) -> list[Part]:
        """What the description before says of the last ten minutes, of a session that came back."""
        key = self._carry.names[slot][0], int(self._carry.live["start_ms"][slot])
        description = self._descriptions.get(slot)
        if description is None:
            found = (finder.find(*key) for finder in self._finders)
            description = next((one for one in found if one is not None), None)
        if description is None or description.last_ms <= since_ms:
            return []
        return [
            Part(schema, np.full(rows.size, slot), np.zeros(rows.size, np.int64), rows.copy())
            for schema, rows in self._reader.read(description, since_ms)
            if rows.size
        ]

    def _place(self, places: dict[int, list[Place]], derived: Derived, parts: list[Part]) -> None:
        for slot, place in last_rows.places_of(derived.append(parts, self._describe)):
            places.setdefault(slot, []).append(place)

    def _keep(self, over: dict[int, EndRecord]) -> None:
        """Make the carry what is not over: without the others, in slots without gaps."""
        carry = self._carry
        is_kept = carry.live["ticks"] > 0  # a declaration alone leaves nothing
        is_kept[list(over)] = False
        is_kept[list(self._back)] = False  # declared, but no more than that: still over
        kept = np.flatnonzero(is_kept)
        slot_of = np.full(is_kept.size, -1)
        slot_of[kept] = np.arange(kept.size)
        carry.names = [carry.names[slot] for slot in kept.tolist()]
        carry.live = carry.live[kept]
        carry.windows = [
            {
                schema: groups._replace(session=slot_of[groups.session])
                for schema, groups in windows.open.items()
            }
            for windows in self._windows
        ]
        used, carry.live["schema"] = np.unique(carry.live["schema"], return_inverse=True)
        carry.schemas = [carry.schemas[place] for place in used.tolist()]
        for folder, derived in self._derived.items():
            known = derived.known
            if folder != ENDED:
                more = np.full(max(is_kept.size - known.numbers.size, 0), -1)
                known.numbers = np.concatenate((known.numbers, more))[kept]
                known.row_ms = np.concatenate((known.row_ms, np.maximum(more, 0)))[kept]
            carry.files[folder] = known


def _read_carry(layout: Layout, state: State, coarse: int) -> Carry:
    """The carry that state.json names; an empty one, and a warning, if it cannot be read."""
    if state.carry:
        path = layout.carry(state.carry)
        try:
            carry = parse_carry(path.read_bytes())
            if len(carry.windows) == coarse:
                return carry
            raise StoreError(f"has {len(carry.windows)} tiers, not {coarse}")
        except FileNotFoundError:
            log.warning("%s: gone; what sessions had open is not rolled up", path)
        except StoreError as exc:
            log.warning("%s: %s; what sessions had open is not rolled up", path, exc)
    return Carry(windows=[{} for _ in range(coarse)])


def _one(parts: list[Ticks]) -> Ticks:
    session, t_ms, values = zip(*parts, strict=True)
    return Ticks(np.concatenate(session), np.concatenate(t_ms), np.concatenate(values))


def _by_schema(closed: list[tuple[Schema, Groups]]) -> list[tuple[Schema, Groups]]:
    parts: dict[Schema, list[Groups]] = {}
    for schema, groups in closed:
        parts.setdefault(schema, []).append(groups)
    return [(schema, concatenated(some)) for schema, some in parts.items()]


def _description_frames(seed: int, made: list[Description]) -> list[bytes]:
    found = []
    for at in range(0, len(made), _DESCRIPTIONS_A_FRAME):
        some = made[at : at + _DESCRIPTIONS_A_FRAME]
        payload = pack_descriptions(some)
        if len(payload) <= frames.MAX_PAYLOAD:
            found.append(frames.frame(seed, frames.DESCRIPTIONS, payload, entries=len(some)))
        else:
            found += [frames.frame(seed, frames.DESCRIPTIONS, pack_descriptions([one])) for one in some]
    return found
