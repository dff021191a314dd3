"""The writer's end of one session: ticks go into tier 0, closed windows into the coarser tiers.

Strategy: a live tick is one write; of a backlog, the rows of consecutive slots are written at once.
When a tick opens a new window of the coarsest tier, the window before it is owed to the coarser
tiers: it is rolled up from the rows of tier 0 when there is time, and at the latest when the next
window closes; until then all of its rows are there. Nothing is kept in memory that the slabs do not
say: after a crash the rows of tier 0 tell where the session stands, and a window rolled up again
gives the same bytes.

Only tier 0 stays open, one descriptor a session; the coarser slabs are opened for each roll-up.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rondo_tools.errors import StoreError
from rondo_tools.store.block import Block
from rondo_tools.store.rollup import Floats, columns, roll_up_of
from rondo_tools.store.slab import Rows, Slab, pack_row, pack_rows
from rondo_tools.store.tiers import Tier
from rondo_tools.stream import Header, Tick


class Ring:
    """The open slabs of one session. One writer at a time; the owner closes it.

    `last_ms` is the time of the last tick written (0: none), `closed_through_ms` that of the last
    one which no later tick of the session can replace (0: none).
    """

    __slots__ = (
        "_dsync", "_folder", "_owed_ms", "_roll_up", "_slab", "_tiers", "_window_ms", "closed_through_ms",
        "last_ms",
    )  # fmt: skip

    def __init__(
        self, folder: str | Path, tiers: tuple[Tier, ...], header: Header, *, dsync: bool = False
    ) -> None:
        """Open the slabs in `folder`, making those that are not there.

        With `dsync`, each write is on the disk when it returns.

        Raises StoreError for a slab that is damaged, OSError if one cannot be made or opened.
        """
        self.last_ms = self.closed_through_ms = 0
        self._owed_ms = 0
        self._tiers = tiers
        # With one tier there is nothing to roll up: any window will do.
        self._window_ms = tiers[-1].interval_ms if len(tiers) > 1 else tiers[0].span_ms
        self._roll_up = roll_up_of(header.series, tiers[0].interval_ms)
        self._folder = str(folder)
        self._dsync = dsync
        for number, tier in enumerate(tiers):
            _make(_file(self._folder, number), tier, len(columns(header.series, number)))
        self._slab = self._open(0, len(header.series))
        try:
            self._resume()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        try:
            self.catch_up()
        except OSError:
            pass  # who opens it next makes up for it
        finally:
            self._slab.close()

    @property
    def is_behind(self) -> bool:
        """Whether a window has closed that is not rolled up yet."""
        return self._owed_ms > 0

    def catch_up(self) -> None:
        """Roll up the window that has closed, if it is not yet: at the latest when the next one does."""
        if self._owed_ms:
            self._roll_up_windows(self._owed_ms, self._owed_ms)
            self._owed_ms = 0

    def append(self, ticks: Iterable[Tick]) -> int:
        """Store ticks, one by one; the last one of a slot wins.

        Returns how many were dropped because they are not past the last one. Raises OSError;
        `last_ms` then says what is stored, and the same ticks may be given again.
        """
        dropped = 0
        slab = self._slab
        for t_ms, values in ticks:
            last_ms = self.last_ms
            if t_ms <= last_ms:
                dropped += 1
                continue
            slot, last_slot = t_ms // slab.interval_ms, last_ms // slab.interval_ms
            if last_ms and t_ms // self._window_ms != last_ms // self._window_ms:
                self._leave_window(t_ms)
            slab.write(slot % slab.slots, pack_row(t_ms, values))
            if slot != last_slot:
                self.closed_through_ms = last_ms
            self.last_ms = t_ms
        return dropped

    def extend(self, block: Block, most_windows: int | None = None) -> int:
        """The same for many ticks at once.

        With `most_windows`, it stops when so many windows are closed: `last_ms` says how far it came.
        """
        fresh = block.past(self.last_ms)
        slots = fresh.t_ms // self._slab.interval_ms
        # The last one of each slot; a run of them ends where a slot is left out, where the ring
        # begins again, and with a window.
        kept = np.append(slots[1:] != slots[:-1], True)[: slots.size]
        t_ms, values, slots = fresh.t_ms[kept], fresh.values[kept], slots[kept]
        is_first = (np.diff(slots) != 1) | (slots[1:] % self._slab.slots == 0)
        is_first |= np.diff(t_ms // self._window_ms) != 0
        edges = [0, *(np.flatnonzero(is_first) + 1).tolist(), slots.size]
        windows = 0
        for start, stop in pairwise(edges) if slots.size else ():
            if self.last_ms and t_ms[start] // self._window_ms != self.last_ms // self._window_ms:
                if windows == most_windows:
                    break
                windows += 1
                self._leave_window(int(t_ms[start]))
            self._write_run(slots[start:stop], t_ms[start:stop], values[start:stop])
        return len(block) - len(fresh)

    def finish(self) -> None:
        """Roll up the window in which the session ended: no tick will come to close it."""
        if self.last_ms:
            self._roll_up_windows(self._owed_ms or self.last_ms, self.last_ms)
            self._owed_ms = 0
            self.closed_through_ms = self.last_ms

    def _write_run(self, slots: npt.NDArray[np.int64], t_ms: npt.NDArray[np.int64], values: Floats) -> None:
        """Write ticks of consecutive slots, in one window."""
        self._slab.write(int(slots[0]) % self._slab.slots, pack_rows(t_ms, values))
        if slots.size > 1:
            self.closed_through_ms = int(t_ms[-2])
        elif slots[0] != self.last_ms // self._slab.interval_ms:
            self.closed_through_ms = self.last_ms
        self.last_ms = int(t_ms[-1])

    def _leave_window(self, t_ms: int) -> None:
        """The window of the last tick is over, as there is one at `t_ms`."""
        if self._owed_ms:
            self._roll_up_windows(self._owed_ms, self.last_ms)
            self._owed_ms = 0
        elif t_ms // self._window_ms == self.last_ms // self._window_ms + 1:
            self._owed_ms = self.last_ms
        else:
            # Behind a gap nobody could tell that the window was whole. Where the tick at `t_ms` was
            # torn, by a full disk or a kill, tier 0 has lost a row of it already: what stands is better.
            self._roll_up_windows(self.last_ms, self.last_ms, only_missing=True)

    def _roll_up_windows(self, first_ms: int, last_ms: int, *, only_missing: bool = False) -> None:
        """Roll up the windows of the coarsest tier from the one of `first_ms` to the one of `last_ms`."""
        if len(self._tiers) == 1:
            return
        begin_ms = first_ms // self._window_ms * self._window_ms
        end_ms = (last_ms // self._window_ms + 1) * self._window_ms
        first, count = begin_ms // self._slab.interval_ms, (end_ms - begin_ms) // self._slab.interval_ms
        rows = self._slab.read_slots(first % self._slab.slots, count)
        rows = rows.between(begin_ms - 1, end_ms)  # the others are an earlier lap's
        self._write_coarse(rows, only_missing=only_missing)

    def _write_coarse(self, rows: Rows, *, only_missing: bool) -> None:
        """Write what the rows of closed windows roll up to; or only where no row stands yet."""
        for number in range(1, len(self._tiers)):
            with self._open(number, self._roll_up.width) as slab:
                t_ms, coarse = self._roll_up(rows.t_ms, rows.values, slab.interval_ms)
                if only_missing:
                    missing = ~np.isin(t_ms // slab.interval_ms, _standing(slab, t_ms))
                    t_ms, coarse = t_ms[missing], coarse[missing]
                _write_rows(slab, t_ms, coarse)

    def _resume(self) -> None:
        """Take up where the rows of tier 0 end, and make up for roll-ups that a crash cut short."""
        rows = self._slab.read()
        if not rows.t_ms.size:
            return
        self.last_ms = int(rows.t_ms[-1])
        open_slot = self.last_ms // self._slab.interval_ms
        closed = rows.t_ms[rows.t_ms // self._slab.interval_ms < open_slot]
        self.closed_through_ms = int(closed[-1]) if closed.size else 0
        # Only closed windows of which tier 0 has lost nothing, and only where no row stands yet: a
        # row that was rolled up when all of its window was there is never worse.
        begin_ms = self._tiers[0].whole_since(self.last_ms, self._window_ms)
        rows = rows.between(begin_ms - 1, self.last_ms // self._window_ms * self._window_ms)
        self._write_coarse(rows, only_missing=True)

    def _open(self, number: int, width: int) -> Slab:
        """A slab that was checked when the session was opened."""
        known_as = (*self._tiers[number], width)
        return Slab.open(_file(self._folder, number), writable=True, dsync=self._dsync, known_as=known_as)


def _file(folder: str, number: int) -> str:
    return f"{folder}/tier_{number}.slab"


def _make(path: str, tier: Tier, width: int) -> None:
    """Make a slab, or see that the one that is there fits."""
    try:
        slab = Slab.open(path)
    except FileNotFoundError:
        slab = Slab.create(Path(path), *tier, width)
    with slab:
        if (slab.interval_ms, slab.slots, slab.columns) != (*tier, width):
            raise StoreError(f"{path}: the slab does not fit the store's tiers and the session's series")


def _standing(slab: Slab, t_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The numbers of the windows, between the first and the last of these times, that have a row."""
    if not t_ms.size:
        return t_ms
    first, last = int(t_ms[0]) // slab.interval_ms, int(t_ms[-1]) // slab.interval_ms
    return slab.read_slots(first % slab.slots, last - first + 1).t_ms // slab.interval_ms


def _write_rows(slab: Slab, t_ms: npt.NDArray[np.int64], values: Floats) -> None:
    """Write rows in time order, each run of consecutive slots at once."""
    if not t_ms.size:
        return
    slots = t_ms // slab.interval_ms % slab.slots
    edges = [0, *(np.flatnonzero(np.diff(slots) != 1) + 1).tolist(), slots.size]
    for start, stop in pairwise(edges):
        slab.write(int(slots[start]), pack_rows(t_ms[start:stop], values[start:stop]))
