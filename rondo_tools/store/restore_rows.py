"""The derived files of a restore: coarse rows and last rows, gathered and appended as by a roll-up.

Strategy: rows are appended some mebibytes at a time. Rows that may have the same session and window keep
their order, because the last of them is valid. Derived files are opened for the first append, so a replay
does not touch them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from rondo_tools.store import ended
from rondo_tools.store.derived import Derived, Part
from rondo_tools.store.format import frames
from rondo_tools.store.format.frames import Rows
from rondo_tools.store.format.layout import LAST_ROWS, tier_name
from rondo_tools.store.format.rollup import Groups, Ints, Ticks, Windows, coarse_rows
from rondo_tools.store.format.schema import Schema
from rondo_tools.store.journal_pieces import PIECE, SlotRows
from rondo_tools.store.slots import Slots


@dataclass(slots=True)
class _Gathered:
    """Rows to append: `of` is the folder and the schema."""

    of: tuple[str, Schema]
    slots: list[Ints] = field(default_factory=list)
    origins: list[Ints] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)


class RestoredRows:
    """`open` opens the derived files, by folder. `folding` has the windows of tiers that the dump does not
    have: they are rolled up from its ticks. `places` has the places of last rows, by slot."""

    def __init__(
        self, slots: Slots, open: Callable[[], dict[str, Derived]], folding: dict[int, Windows]
    ) -> None:
        self.folding = folding
        self.places: ended.Places = {}
        self._slots, self._open = slots, open
        self._opened: dict[str, Derived] = {}
        self._gathered: list[_Gathered] = []
        self._bytes = 0

    @property
    def derived(self) -> dict[str, Derived]:
        """The derived files; opens them the first time."""
        if not self._opened:
            self._opened = self._open()
        return self._opened

    def add(self, folder: str, schema: Schema, slots: Ints, origin: int, rows: Rows) -> None:
        if not self._gathered or self._gathered[-1].of != (folder, schema):
            if any(one.of == (folder, schema) for one in self._gathered):
                self.flush()
            self._gathered.append(_Gathered((folder, schema)))
        last = self._gathered[-1]
        last.slots.append(slots)
        last.origins.append(np.full(rows.size, origin))
        last.rows.append(rows)
        self._bytes += rows.nbytes
        if self._bytes >= PIECE:
            self.flush()

    def fold(self, schema: Schema, slots: Ints, rows: Rows, origin: int) -> None:
        """Roll up ticks for the tiers that the dump does not have."""
        if rows.size:
            self._slots.place_new()
            ticks = {schema: Ticks(slots, rows["t_ms"].astype(np.int64), rows["values"])}
            for tier, windows in self.folding.items():
                self._add_closed(tier, windows.add(ticks), origin)

    def close_windows(self, slots: Ints, origin: int) -> None:
        """Close the windows of the sessions in these slots: they have ended."""
        for tier, windows in self.folding.items():
            self._add_closed(tier, windows.close(slots), origin)

    def _add_closed(self, tier: int, closed: Iterable[tuple[Schema, Groups]], origin: int) -> None:
        for schema, groups in closed:
            coarse = coarse_rows(groups, schema)
            rows = np.empty(groups.size, frames.row_dtype(schema.coarse_width))
            rows["t_ms"], rows["values"] = coarse.t_ms, coarse.values
            self.add(tier_name(tier), schema, groups.session, origin, rows)

    def flush(self) -> None:
        """Append the gathered rows. Raises OSError."""
        self._slots.place_new()
        gathered, self._gathered, self._bytes = self._gathered, [], 0
        for folder in dict.fromkeys(one.of[0] for one in gathered):
            mine = [one for one in gathered if one.of[0] == folder]
            if folder == LAST_ROWS:
                pieces = {
                    one.of[1]: [SlotRows(*some) for some in zip(one.slots, one.rows, strict=True)]
                    for one in mine
                }
                ended.append_last_rows(self.places, self.derived[folder], self._slots, pieces)
            else:
                parts = [
                    Part(
                        one.of[1],
                        np.concatenate(one.slots),
                        np.concatenate(one.origins),
                        np.concatenate(one.rows),
                    )
                    for one in mine
                ]
                self.derived[folder].append(parts, self._slots.describe)

    def close(self) -> None:
        for one in self._opened.values():
            one.close()

    def undo(self) -> None:
        """Remove the new files, because nothing is restored."""
        for one in self._opened.values():
            one.undo()
