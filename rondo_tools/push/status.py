"""How far delivery has come, and what each cursor of the store costs.

Strategy: nothing is locked, written or sent. Lines are for people and for awk: the first word says what
a line is about, tabs between. Which journals stay for a cursor is the store's own rule.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rondo_tools.push.cursor import Cursor
from rondo_tools.push.drain import AHEAD_MS, Drain
from rondo_tools.push.opened import OpenedStore
from rondo_tools.store.format.cursor import Progress
from rondo_tools.store.format.cursors import CursorPosition, find_cursors, may_stay
from rondo_tools.store.format.frames import FILE_SIZE
from rondo_tools.store.format.layout import JOURNALS, tier_name
from rondo_tools.store.format.state import State

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Held:
    """Journals that stay for a cursor: how many, their bytes, and when the oldest of them was closed."""

    journals: int
    bytes: int
    since_ms: int

    def __str__(self) -> str:
        return f"{self.journals} journals of {self.bytes} bytes"


def cursors(store: OpenedStore, now_ms: int) -> Iterator[str]:
    """A line for each cursor of the store:

    ``cursor<TAB>name<TAB>active|idle<TAB>journals<TAB>bytes<TAB>seconds<TAB>bytes<TAB>seconds``: the
    journals that stay for it alone or with others, and since when the oldest is over; what is written
    and not delivered, and how old the newest tick is that was; ``-`` where nothing was.
    """
    state = store.state()
    for one in find_cursors(store.layout, store.store_id):
        if one.error:
            log.warning("%s: cannot be read (%s)", store.layout.cursor(one.name), one.error)
        kept = held(store, state, one, now_ms)
        behind = _bytes_behind(store, state, one)
        yield "\t".join((
            "cursor", one.name, "active" if one.is_active(now_ms) else "idle",
            str(kept.journals), str(kept.bytes), _seconds(now_ms - kept.since_ms if kept.journals else 0),
            str(behind), _seconds_behind(one.progress, behind, now_ms),
        ))  # fmt: skip


def instances(drain: Drain, cursor: Cursor, now_ms: int) -> Iterator[str]:
    """A line for each instance in the journals:

    ``instance<TAB>name<TAB>delivered_ms<TAB>newest_ms<TAB>seconds behind<TAB>seconds ahead``. 0 is
    "never"; one of which all is delivered is 0 seconds behind. Ahead is one that has delivered times ahead
    of this clock, and is passed over until then.
    """
    for instance, delivered_ms, newest_ms in lines(drain, cursor.progress, now_ms):
        behind_ms = max(0, newest_ms - delivered_ms)
        behind = _seconds(behind_ms) if delivered_ms or not behind_ms else "-"
        ahead_ms = delivered_ms - now_ms
        ahead = _seconds(ahead_ms if ahead_ms > AHEAD_MS else 0)
        yield f"instance\t{instance}\t{delivered_ms}\t{newest_ms}\t{behind}\t{ahead}"


def lines(drain: Drain, progress: Progress, now_ms: int) -> Iterator[tuple[str, int, int]]:
    """(instance, delivered up to, newest tick) of each instance in the cursor's tier, in ms; 0: never."""
    stretch = drain.next(Progress(store=progress.store, tier=progress.tier), now_ms)
    if stretch is None:
        return
    with stretch:
        newest_ms = stretch.line()
    delivered_ms = newest_ms | _line_at(drain, progress, newest_ms, now_ms)
    for instance, t_ms in sorted(newest_ms.items()):
        yield instance, min(delivered_ms[instance], t_ms), t_ms


def _line_at(drain: Drain, progress: Progress, instances: Iterable[str], now_ms: int) -> dict[str, int]:
    """What these instances have at the cursor; those of which all is delivered may be missing."""
    if progress.begin is None:
        return dict.fromkeys(instances, 0)
    progress = replace(progress, end=None, slice=0, done=0)
    rest = drain.next(progress, now_ms)
    if rest is None:
        return {}
    with rest:
        if progress.tier or progress.coarse is not None:
            return dict.fromkeys(instances, progress.time_ms)  # coarse files do not tell it of each
        return rest.line_before()


def held(store: OpenedStore, state: State, cursor: CursorPosition, now_ms: int) -> Held:
    """What stays for a cursor. For one that is not active, nothing does."""
    if not cursor.is_active(now_ms):
        return Held(0, 0, 0)
    numbers = [n for n in may_stay(state.journals, store.tiers, now_ms) if n >= cursor.journal]
    size = sum(_size(store, JOURNALS, number) for number in numbers)
    return Held(len(numbers), size, min((state.journals[n] for n in numbers), default=0))


def _bytes_behind(store: OpenedStore, state: State, cursor: CursorPosition) -> int:
    """What is written to the tier that the cursor delivers, and behind it."""
    progress = cursor.progress or Progress()
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


def _seconds_behind(progress: Progress | None, behind: int, now_ms: int) -> str:
    if progress is None or not progress.time_ms:
        return "-" if behind else _seconds(0)
    return _seconds(now_ms - progress.time_ms if behind else 0)


def _size(store: OpenedStore, folder: str, number: int) -> int:
    try:
        return store.layout.file(folder, number).stat().st_size
    except OSError:
        return 0  # it went meanwhile


def _seconds(ms: int) -> str:
    return f"{max(0, ms) / 1000:.1f}"
