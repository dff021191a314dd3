"""Checking a session's slabs: what is there, is it whole, and do the tiers agree?

Strategy: nothing is locked, so the order of reading matters. Tier 0 is read first: of the windows
that it shows as closed, the coarse rows were written before. Then each coarse tier is held against
the roll-up of the tier-0 rows, for those windows of which tier 0 still has all. What a second look
does not find again was the writer at work. In a slab every row proves itself by its CRC, and its
time by its slot; so times in a slab cannot repeat.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np

from rondo_tools.catalog import Series
from rondo_tools.errors import StoreError
from rondo_tools.store.rollup import RollUp, columns
from rondo_tools.store.slab import HEADER_SIZE, Rows, Slab
from rondo_tools.store.tiers import Tier

_ROW_CRC = 0x2144DF1C  # CRC-32 over a whole row, whatever it says


class Finding(NamedTuple):
    """What is wrong in a file; or, if `is_unread`, why it could not be looked at."""

    path: Path
    what: str
    is_unread: bool = False


def finding_of(path: Path, exc: OSError) -> Finding:
    """A file that is not there is missing; of any other it is not known what is in it."""
    if isinstance(exc, FileNotFoundError | NotADirectoryError):
        return Finding(path, str(exc.strerror))
    return Finding(path, f"cannot be read: {exc.strerror}", is_unread=True)


def findings(
    path: Path, tiers: tuple[Tier, ...], series: tuple[Series, ...], *, ended: bool
) -> list[Finding]:
    """All that is wrong with the slabs of the session in `path`; `ended`: its end was recorded."""
    found = _look(path, tiers, series, ended=ended)
    if found:
        # A writer may have gone on while we looked; what is wrong stays wrong.
        again = set(_look(path, tiers, series, ended=ended))
        found = [finding for finding in found if finding in again]
    return found


def _look(path: Path, tiers: tuple[Tier, ...], series: tuple[Series, ...], *, ended: bool) -> list[Finding]:
    found: list[Finding] = []
    finest, torn = _read(path, tiers, series, 0, found)
    for number in range(1, len(tiers)):
        coarse, torn_here = _read(path, tiers, series, number, found)
        if finest is None or coarse is None:
            continue
        last_ms = int(finest.t_ms[-1]) if finest.t_ms.size else 0
        wrong = [
            f"the row at {t_ms} is after the last tick, {last_ms}"
            for t_ms in coarse.t_ms[coarse.t_ms > last_ms].tolist()
        ]
        # What is torn has been said, and of its windows nothing more can be.
        newest_ms = max(last_ms, *coarse.t_ms[-1:].tolist(), 0)
        unsure = [_latest(tiers[0], slot, newest_ms) for slot in torn]
        unsure += [_latest(tiers[number], slot, newest_ms) for slot in torn_here]
        wrong += _differences(tiers, number, series, finest, coarse, unsure, ended=ended)
        found += [Finding(path / f"tier_{number}.slab", what) for what in wrong]
    return found


def _read(
    path: Path, tiers: tuple[Tier, ...], series: tuple[Series, ...], number: int, found: list[Finding]
) -> tuple[Rows | None, list[int]]:
    """The rows of a tier, None if there are none to be had, and the slots with something else in them."""
    file = path / f"tier_{number}.slab"
    try:
        with Slab.open(file) as slab:
            if (slab.interval_ms, slab.slots, slab.columns) != (*tiers[number], len(columns(series, number))):
                found.append(
                    Finding(file, "the slab does not fit the store's tiers and the session's series")
                )
                return None, []
            rows = slab.read()
            torn = _torn(slab) if rows.skipped else []
            found += [Finding(file, f"slot {slot}: {_what_is_in(file, slab, slot)}") for slot in torn]
    except StoreError as exc:
        found.append(Finding(file, str(exc).removeprefix(f"{file}: ")))
        return None, []
    except OSError as exc:
        found.append(finding_of(file, exc))
        return None, []
    return rows, torn


def _torn(slab: Slab) -> list[int]:
    return [slot for slot in range(slab.slots) if slab.read_slots(slot, 1).skipped]


def _what_is_in(path: Path, slab: Slab, slot: int) -> str:
    with path.open("rb") as file:
        file.seek(HEADER_SIZE + slot * slab.row_size)
        row = file.read(slab.row_size)
    if crc32(row) != _ROW_CRC:
        return "its CRC is wrong: torn or damaged"
    t_ms = int.from_bytes(row[:8], "little")
    return f"the row of another slot, {t_ms // slab.interval_ms % slab.slots}"


def _differences(
    tiers: tuple[Tier, ...],
    number: int,
    series: tuple[Series, ...],
    finest: Rows,
    coarse: Rows,
    unsure: list[int],
    *,
    ended: bool,
) -> list[str]:
    """Where a coarse tier is not the roll-up of tier 0; `unsure` are times in windows to pass over."""
    if not finest.t_ms.size:
        return []
    window_ms = tiers[number].interval_ms
    last_ms = int(finest.t_ms[-1])
    # The writer rolls up when a window of the coarsest tier has closed, or the session ended; the
    # newest it may owe until the next one closes.
    until_ms = last_ms + 1 if ended else last_ms // tiers[-1].interval_ms * tiers[-1].interval_ms
    owed_ms = until_ms if ended else until_ms - tiers[-1].interval_ms
    newest_ms = max(last_ms, int(coarse.t_ms[-1:].max(initial=0)))  # tier 0 may have lost its newest rows
    since_ms = tiers[0].whole_since(newest_ms, tiers[-1].interval_ms)
    rows = finest.between(since_ms - 1, until_ms)
    t_ms, values = RollUp(series, tiers[0].interval_ms)(rows.t_ms, rows.values, window_ms)
    stored = dict(zip((coarse.t_ms // window_ms).tolist(), range(coarse.t_ms.size), strict=True))
    passed_over = {t_ms // window_ms for t_ms in unsure}
    wrong = []
    for t, row in zip(t_ms.tolist(), values.view(np.uint64), strict=True):
        window = t // window_ms
        here = stored.get(window)
        if window in passed_over or newest_ms // window_ms - window >= tiers[number].slots:
            continue  # the writer may have gone round the ring since tier 0 was read
        if here is None:
            if t < owed_ms:
                wrong.append(f"no row for the window at {window * window_ms}, which has closed")
        elif coarse.t_ms[here] != t or (coarse.values[here].view(np.uint64) != row).any():
            wrong.append(f"the row at {coarse.t_ms[here]} is not the roll-up of tier 0")
    return wrong


def _latest(tier: Tier, slot: int, last_ms: int) -> int:
    """The latest time up to the tick at `last_ms` that a slot can stand for."""
    newest = last_ms // tier.interval_ms
    return (newest - (newest - slot) % tier.slots) * tier.interval_ms
