"""The progress of each delivery of a store, and the journals it keeps.

Strategy: lock and write nothing. A delivery is behind by the age of the oldest tick that it has not handled
yet. If the journals do not have that tick, because the delivery reads a coarser tier or its journals are
gone, it is the age of the newest delivered tick. The store's own rule decides which journals a cursor keeps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rondo_tools.selector import Selector, parse_selector
from rondo_tools.store.format.cursor import Progress
from rondo_tools.store.format.cursors import CursorPosition, find_cursors, may_stay
from rondo_tools.store.format.frames import FILE_SIZE
from rondo_tools.store.format.layout import JOURNALS, Layout, tier_name
from rondo_tools.store.format.opened import OpenedStore
from rondo_tools.store.format.state import State
from rondo_tools.store.reader import Store
from rondo_tools.view.table import iso, seconds


@dataclass(frozen=True, slots=True)
class Held:
    """The journals that a cursor keeps: their number, their bytes, and when the oldest of them was closed."""

    journals: int
    bytes: int
    since_ms: int

    def __str__(self) -> str:
        return f"{self.journals} journals of {self.bytes} bytes"


class Delivery(NamedTuple):
    """One delivery. `delivered_ms` is its newest delivered tick, 0 if there is none. `behind_ms` is the age
    of the oldest undelivered tick, 0 if there is none, None if it is not known; `instance` is the tick's
    instance. `rejected` counts refused samples, as far as their file reaches back. `error` is the reason
    why the cursor cannot be read."""

    cursor: str
    state: str
    delivered_ms: int
    behind_ms: int | None
    instance: str
    undelivered_bytes: int
    held: Held
    rejected: int
    error: str


def deliveries(opened: OpenedStore, now_ms: int) -> list[Delivery]:
    """The deliveries of all cursors, by name. Raises StoreError."""
    state, store = opened.state(), Store(opened.path)
    found = []
    for one in find_cursors(opened.layout, opened.store_id):
        progress = one.progress or Progress()
        undelivered = _undelivered_bytes(opened, state, progress)
        behind_ms, instance = _behind(opened, store, progress, undelivered, now_ms)
        found.append(
            Delivery(
                one.name,
                "damaged" if one.error else "active" if one.is_active(now_ms) else "idle",
                progress.time_ms,
                behind_ms,
                instance,
                undelivered,
                held(opened, state, one, now_ms),
                _rejected(opened.layout, one.name),
                one.error,
            )
        )
    return found


def _behind(
    opened: OpenedStore, store: Store, progress: Progress, undelivered: int, now_ms: int
) -> tuple[int | None, str]:
    if not undelivered:
        return 0, ""
    journals = opened.layout.numbers(JOURNALS)
    begin = progress.begin if progress.store == opened.store_id else None
    if progress.tier or progress.coarse is not None or (begin and journals and begin.number < journals[0]):
        return (max(0, now_ms - progress.time_ms) if progress.time_ms else None), ""
    selector = parse_selector(progress.selector) if progress.selector else Selector(())
    oldest = store.oldest_after(begin, progress.end if begin else None, progress.time_ms, selector)
    if oldest is None:
        return 0, ""
    return max(0, now_ms - oldest[0]), oldest[1]


def held(store: OpenedStore, state: State, cursor: CursorPosition, now_ms: int) -> Held:
    """The journals that a cursor keeps; none if it is not active."""
    if not cursor.is_active(now_ms):
        return Held(0, 0, 0)
    numbers = [n for n in may_stay(state.journals, store.tiers, now_ms) if n >= cursor.journal]
    size = sum(_size(store, JOURNALS, number) for number in numbers)
    return Held(len(numbers), size, min((state.journals[n] for n in numbers), default=0))


def _undelivered_bytes(store: OpenedStore, state: State, progress: Progress) -> int:
    """The bytes in the cursor's tier after the cursor's position."""
    folder = tier_name(progress.tier)
    if progress.tier:
        sizes = {number: file.length for number, file in state.files.get(folder, {}).items()}
    else:
        sizes = {number: _size(store, folder, number) for number in store.layout.numbers(folder)}
    begin = progress.begin if progress.store == store.store_id else None
    behind = 0
    for number, size in sizes.items():
        if begin is None or number > begin.number:
            behind += max(0, size - FILE_SIZE)
        elif number == begin.number:
            behind += max(0, size - begin.offset)
    return behind


def _size(store: OpenedStore, folder: str, number: int) -> int:
    try:
        return store.layout.file(folder, number).stat().st_size
    except OSError:
        return 0  # it was removed meanwhile


def _rejected(layout: Layout, cursor: str) -> int:
    return sum(
        count
        for path in (layout.dead_letters(cursor), layout.dead_letters_before(cursor))
        for count in _counts(path)
    )


def _counts(path: Path) -> Iterator[int]:
    """The number of samples in each line; lines without one are skipped."""
    try:
        with path.open("rb") as file:
            for line in file:
                try:
                    yield int(json.loads(line)["samples"])
                except (ValueError, KeyError, TypeError, RecursionError):
                    continue
    except OSError:
        return


def columns_of(found: Sequence[Delivery]) -> dict[str, list[Any]]:
    """The table of deliveries, by column."""
    return {
        "cursor": [one.cursor for one in found],
        "state": [one.state for one in found],
        "behind_s": [seconds(one.behind_ms) for one in found],
        "instance": [one.instance or None for one in found],
        "delivered": [iso(one.delivered_ms) for one in found],
        "undelivered_bytes": [one.undelivered_bytes for one in found],
        "rejected": [one.rejected for one in found],
        "journals": [one.held.journals for one in found],
        "journal_bytes": [one.held.bytes for one in found],
    }
