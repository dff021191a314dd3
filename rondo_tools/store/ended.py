"""The descriptions and last rows of ended sessions, which a roll-up writes to separate files.

A session's last rows are its ticks of the last ten minutes before its last tick, at most 6,000,
gathered from the existing journals. They are written in pieces; the description has their places. A session
that came back after an end also takes the rows of these ten minutes from its earlier description.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from rondo_tools.errors import StoreError
from rondo_tools.store.derived import Appended, Derived, Part
from rondo_tools.store.format import frames
from rondo_tools.store.format.layout import JOURNALS, Layout
from rondo_tools.store.format.records import (
    Description,
    EndRecord,
    Place,
    SessionKey,
    key_of,
    pack_descriptions,
)
from rondo_tools.store.format.rollup import Ints
from rondo_tools.store.format.schema import Schema
from rondo_tools.store.journal_pieces import PIECE, JournalPieces, Piece, SlotRows
from rondo_tools.store.last_rows import LastRowsReader
from rondo_tools.store.remembered import DescriptionFrames
from rondo_tools.store.slots import Slots

LAST_MS = 600_000
MAX_LAST_ROWS = 6_000

_DESCRIPTIONS_A_FRAME = 256
_NEVER = np.iinfo(np.int64).max

Places = dict[int, list[tuple[int, Place]]]
"""The places of rows by slot, each with the time of its first row."""


def write_ended(
    layout: Layout,
    slots: Slots,
    over: Mapping[int, EndRecord],
    whole: Piece | None,
    last_rows: Derived,
    ended: Derived,
    *,
    piece: int = PIECE,
) -> DescriptionFrames | None:
    """Write the sessions in `over`, after `slots.advance`; None if there are none.

    `whole` is the journal of `slots` if it came in one piece, and is not read again.
    """
    those = np.array(sorted(over), np.int64)
    if not those.size:
        return None
    places = _write_last_rows(layout, slots, those, whole, last_rows, piece)
    live = slots.live[those]
    columns = (live[name].tolist() for name in ("start_ms", "interval_ms", "first_ms", "last_ms", "ticks"))
    made = []
    for slot, start_ms, interval_ms, *counted in zip(those.tolist(), *columns, strict=True):
        (instance, labels), end = slots.names[slot], over[slot]
        start = instance, start_ms, interval_ms, labels
        where = newest([place for _, place in sorted(places.get(slot, []))])
        made.append(Description._make((*start, end.reason, end.t_ms, *counted, slots.series(slot), where)))
    made.sort(key=lambda one: key_of(*one.key))
    return ended.append_frames(lambda seed: description_frames(seed, made))


def _write_last_rows(
    layout: Layout, slots: Slots, those: Ints, whole: Piece | None, derived: Derived, piece: int
) -> Places:
    live = slots.live
    since_ms = np.full(live.size, _NEVER)
    since_ms[those] = live["last_ms"][those] - slots.kept_ms
    places: Places = {}
    came_back = those[live["described_ms"][those] > since_ms[those]]
    if came_back.size:
        append_last_rows(places, derived, slots, _earlier_rows(layout, slots, came_back, since_ms))
        since_ms[came_back] = live["described_ms"][came_back]
    slot_of = {
        (slots.names[slot][0], start_ms): slot
        for slot, start_ms in zip(those.tolist(), live["start_ms"][those].tolist(), strict=True)
    }
    oldest = int(live["from_journal"][those].min())
    newest_read = slots.number - 1 if whole else slots.number
    journals = [number for number in layout.numbers(JOURNALS) if oldest <= number <= newest_read]
    gathered: dict[Schema, list[SlotRows]] = {}
    size = 0
    for some in _pieces(layout, journals, slot_of, int(since_ms.min()), whole, piece):
        for schema, (of_rows, rows) in some.items():
            wanted = rows["t_ms"] > since_ms[of_rows]
            if wanted.any():
                gathered.setdefault(schema, []).append(SlotRows(of_rows[wanted], rows[wanted]))
                size += gathered[schema][-1].rows.nbytes
        if size >= piece:
            append_last_rows(places, derived, slots, gathered)
            gathered, size = {}, 0
    append_last_rows(places, derived, slots, gathered)
    return places


def _pieces(
    layout: Layout,
    journals: Iterable[int],
    slot_of: Mapping[SessionKey, int],
    after_ms: int,
    whole: Piece | None,
    piece: int,
) -> Iterator[Piece]:
    for number in journals:
        path = layout.file(JOURNALS, number)
        try:
            journal = JournalPieces(path, lambda record: slot_of.get(record.key, -1), piece)
        except (FileNotFoundError, StoreError):
            continue  # it expired, or its own roll-up warned of it
        with journal:
            yield from journal.pieces(after_ms)
    if whole:
        yield whole


def _earlier_rows(
    layout: Layout, slots: Slots, came_back: Ints, since_ms: Ints
) -> dict[Schema, list[SlotRows]]:
    """The rows of the last ten minutes that earlier descriptions have."""
    found: dict[Schema, list[SlotRows]] = {}
    with LastRowsReader(layout) as reader:
        for slot in came_back.tolist():
            description = slots.find(slots.names[slot][0], int(slots.live["start_ms"][slot]))
            if description is not None:
                for schema, rows in reader.read(description, int(since_ms[slot])):
                    found.setdefault(schema, []).append(SlotRows(np.full(rows.size, slot), rows))
    return found


def append_last_rows(
    places: Places, derived: Derived, slots: Slots, gathered: Mapping[Schema, list[SlotRows]]
) -> None:
    """Append ticks, and add their places to `places`, by slot."""
    parts = []
    for schema, pieces in gathered.items():
        by_piece, rows = zip(*pieces, strict=True)
        of_rows = np.concatenate(by_piece)
        parts.append(Part(schema, of_rows, np.zeros(of_rows.size, np.int64), np.concatenate(rows)))
    for slot, t_ms, place in _places_of(derived.append(parts, slots.describe)):
        places.setdefault(slot, []).append((t_ms, place))


def _places_of(appended: Iterable[Appended]) -> Iterator[tuple[int, int, Place]]:
    """(slot, time of the first row, place) of each session's rows in each frame."""
    for number, offset, slots, t_ms in appended:
        first = np.flatnonzero(np.diff(slots, prepend=-1))
        rows = np.diff(first, append=slots.size)
        columns = slots[first], t_ms[first], first, rows
        for slot, begin_ms, at, some in zip(*(column.tolist() for column in columns), strict=True):
            yield slot, begin_ms, Place(number, offset, at, some)


def newest(places: list[Place], most: int = MAX_LAST_ROWS) -> tuple[Place, ...]:
    """The places of the last `most` rows."""
    kept: list[Place] = []
    for place in reversed(places):
        some = min(most, place.rows)
        if some <= 0:
            break
        kept.append(place._replace(first=place.first + place.rows - some, rows=some))
        most -= some
    return tuple(reversed(kept))


def description_frames(seed: int, made: list[Description]) -> list[bytes]:
    """DESCRIPTIONS frames for `made`, which are sorted by key."""
    found = []
    for at in range(0, len(made), _DESCRIPTIONS_A_FRAME):
        some = made[at : at + _DESCRIPTIONS_A_FRAME]
        payload = pack_descriptions(some)
        if len(payload) <= frames.MAX_PAYLOAD:
            found.append(frames.frame(seed, frames.DESCRIPTIONS, payload, entries=len(some)))
        else:
            found += [frames.frame(seed, frames.DESCRIPTIONS, pack_descriptions([one])) for one in some]
    return found
