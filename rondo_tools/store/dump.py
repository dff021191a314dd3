"""Dumps a store as one stream; `format.dump` has its format.

Strategy: the frames of one snapshot are copied one by one, so a dump of any size takes the memory of one
frame. A dump of selected sessions has their part of each frame. Cursors are read before the files, so that
the journal of each is there; a MARK shows its position.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from rondo_tools.errors import StoreError
from rondo_tools.progress import Progress
from rondo_tools.store.carry import Carry
from rondo_tools.store.derived_view import DerivedView
from rondo_tools.store.format import cursor, dump, frames
from rondo_tools.store.format.cursor import Position
from rondo_tools.store.format.frame_file import FrameFile
from rondo_tools.store.format.frames import DESCRIPTIONS, END, ROWS, SCHEMA, SESSION, Frame
from rondo_tools.store.format.layout import ENDED, JOURNALS, LAST_ROWS, Layout, tier_name
from rondo_tools.store.format.records import (
    UNDECODABLE,
    SessionKey,
    SessionRecord,
    declared_in,
    descriptions_in,
    ends_in,
    pack_descriptions,
    pack_ends,
    pack_sessions,
)
from rondo_tools.store.format.schema import NO_NAME, unpack_schema
from rondo_tools.store.format.tiers import Tier, format_tiers
from rondo_tools.store.snapshot import Snapshot

log = logging.getLogger(__name__)

_KINDS = SCHEMA, SESSION, ROWS, END, DESCRIPTIONS
Marks = list[tuple[Position, str, str]]
"""(position, the cursor's name, "from" or "to")."""


def read_cursors(path: Path) -> dict[str, bytes]:
    """The cursor files of a store, by name."""
    layout = Layout(path)
    found = {}
    for name in layout.cursors():
        try:
            found[name] = layout.cursor(name).read_bytes()
        except OSError as exc:
            log.warning("%s: %s; left out", layout.cursor(name), exc.strerror)
    return found


def write_dump(
    snapshot: Snapshot,
    store_id: bytes,
    tiers: tuple[Tier, ...],
    cursors: Mapping[str, bytes],
    keys: Collection[SessionKey] | None,
    write: Callable[[bytes], object],
) -> None:
    """Write a dump of everything, or of the sessions in `keys` without cursors.

    Unreadable data is left out; the snapshot's views have the errors. Raises as `write` does.
    """
    journals = snapshot.whole_journals()
    derived: dict[str, Mapping[int, DerivedView]] = {ENDED: snapshot.ended}
    derived |= {tier_name(n): views for n, views in snapshot.tiers.items()}
    derived[LAST_ROWS] = snapshot.last_rows
    files: list[tuple[str, int, FrameFile, int]] = []
    for folder, views in derived.items():
        files += [(folder, number, view.file, view.length) for number, view in views.items()]
        if folder == ENDED:
            files += [(JOURNALS, view.number, view.file, view.known_to) for view in journals]
    total = sum(end for *_, end in files)
    out = dump.DumpWriter(write, store_id)
    out.part(
        dump.STORE,
        tiers=format_tiers(tiers),
        rolled_up=snapshot.state.rolled_up,
        evictions=[asdict(one) for one in snapshot.state.evictions],
        bytes=total,
    )
    marks = [] if keys is not None else _write_cursors(out, cursors, snapshot)
    if any(view.forgotten for view in journals):
        # Rows of a stretch are gone, so its counts of done rows are no longer valid.
        marks = [one for one in marks if one[2] == "from"]
    out.part(dump.CARRY)
    out.bytes(_carry(snapshot.carry, keys).pack())
    progress = Progress("dumped", total)
    for folder, number, file, end in files:
        out.part(folder, number=number, id=file.header.file_id)
        here = [one for one in marks if folder == JOURNALS and one[0][:2] == file.header[::2]]
        here.sort(reverse=True)
        chosen = _Filter(keys, by_place=folder == LAST_ROWS)
        for at, head, payload in file.frames(end=end, kinds=_KINDS):
            while here and here[-1][0].offset <= at:
                out.mark(*here.pop()[1:])
            if head.kind in _KINDS:
                if folder == LAST_ROWS and head.kind == ROWS:
                    head = head._replace(origin=at)
                for frame in chosen.frames(out.seed, head, payload, is_sound=not file.damage.bytes):
                    out.frame(frame)
            progress.add(head.size)
        while here:
            out.mark(*here.pop()[1:])
    out.part(dump.END)


def _write_cursors(out: dump.DumpWriter, cursors: Mapping[str, bytes], snapshot: Snapshot) -> Marks:
    marks: Marks = []
    for name, data in sorted(cursors.items()):
        try:
            progress, in_flight = cursor.parse_progress(data)
        except ValueError as exc:
            log.warning("cursor %s: %s; left out", name, exc)
            continue
        if progress.tier and (
            in_flight or progress.end or progress.begin not in _ends(snapshot, progress.tier)
        ):
            log.warning(
                "cursor %s has not delivered all of tier %d: left out. Run its rondo-push, then dump again",
                name,
                progress.tier,
            )
            continue
        marks += [
            (position, name, which)
            for which, position in (("from", progress.begin), ("to", progress.end))
            if position is not None
        ]
        out.part(dump.CURSOR, cursor=name)
        out.bytes(data)
    return marks


def _ends(snapshot: Snapshot, tier: int) -> list[Position | None]:
    """The positions of a cursor that has delivered a whole coarse tier."""
    views: Mapping[int, DerivedView] = snapshot.tiers.get(tier, {})
    return [Position(n, views[n].file.header.file_id, views[n].length) for n in views if n == max(views)] or [
        None
    ]


def _carry(carry: Carry, keys: Collection[SessionKey] | None) -> Carry:
    """The carry of all sessions or of those in `keys`, without the declarations of open files."""
    if keys is None:
        return replace(carry, files={})
    starts = carry.live["start_ms"].tolist()
    is_wanted = [(name, start_ms) in keys for (name, _), start_ms in zip(carry.names, starts, strict=True)]
    return carry.only(np.array(is_wanted, np.bool_))


class _Filter:
    """Keeps the data of the sessions in `keys`, or of all, in a file's frames; never that of forgotten ones.

    `by_place`: rows keep their places in the frame, because descriptions point at them; the rows of others
    become zeros.

    Sessions get numbers without gaps: a reader takes a number that is too large for the file as damage.
    """

    def __init__(self, keys: Collection[SessionKey] | None, *, by_place: bool) -> None:
        self._keys, self._by_place = keys, by_place
        self._numbers: dict[int, int] = {}  # in the dump, by those in the file
        self._is_everything = keys is None
        self._made_of = {
            SCHEMA: self._schemas, SESSION: self._sessions, ROWS: self._rows, END: self._ends,
            DESCRIPTIONS: self._descriptions,
        }  # fmt: skip

    def frames(self, seed: int, head: Frame, payload: memoryview, *, is_sound: bool) -> list[bytes]:
        """The frames made of a frame; none of one that cannot be decoded.

        `is_sound`: no frame of the file was damaged so far, so every session with rows is declared.
        """
        try:
            if head.kind not in (SCHEMA, SESSION) and self._is_everything and is_sound:
                return [frames.copied(seed, head, payload)]
            return list(self._made_of[head.kind](seed, head, payload))
        except (*UNDECODABLE, StoreError):
            return []

    def _schemas(self, seed: int, head: Frame, payload: memoryview) -> Iterator[bytes]:
        if any(one.name != NO_NAME for one in unpack_schema(bytes(payload)).series):
            yield frames.copied(seed, head, payload)

    def _sessions(self, seed: int, _: Frame, payload: memoryview) -> Iterator[bytes]:
        some = [one for one in declared_in(payload) if self._is_wanted(one)]
        for place, one in enumerate(some):
            number = self._numbers.setdefault(one.number, len(self._numbers))
            self._is_everything &= number == one.number
            some[place] = one._replace(number=number)
        if some:
            yield frames.frame(seed, SESSION, pack_sessions(some), entries=len(some))

    def _is_wanted(self, one: SessionRecord) -> bool:
        self._is_everything &= not one.is_forgotten
        return not one.is_forgotten and (self._keys is None or one.key in self._keys)

    def _rows(self, seed: int, head: Frame, payload: memoryview) -> Iterator[bytes]:
        rows = frames.rows_of(payload, (head.length // max(head.entries, 1) - 12) // 8)
        declared, place = np.unique(rows["session"], return_inverse=True)
        numbers = np.array([self._numbers.get(one, -1) for one in declared.tolist()])[place]
        is_wanted = numbers >= 0
        rows = rows.copy()
        rows["session"][is_wanted] = numbers[is_wanted]
        if not self._by_place:
            yield from frames.rows_frames(seed, rows[is_wanted], head.schema, origin=head.origin)
        elif is_wanted.any():
            rows[~is_wanted] = np.zeros(1, rows.dtype)
            yield frames.copied(seed, head, rows.tobytes())

    def _ends(self, seed: int, head: Frame, payload: memoryview) -> Iterator[bytes]:
        some = [
            one._replace(number=self._numbers[one.number])
            for one in ends_in(payload)
            if one.number in self._numbers
        ]
        if some:
            yield frames.frame(seed, END, pack_ends(some), schema=head.schema, entries=len(some))

    def _descriptions(self, seed: int, head: Frame, payload: memoryview) -> Iterator[bytes]:
        some = [
            one
            for one in descriptions_in(payload, head.entries)
            if self._keys is None or one.key in self._keys
        ]
        if some:
            yield frames.frame(seed, DESCRIPTIONS, pack_descriptions(some), entries=len(some))
