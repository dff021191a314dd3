"""Housekeeping: removes expired files, and evicts files if the store uses too much disk space.

Strategy: whole files are removed, by the time at which they were closed; state.json is replaced first. A
file that cannot be removed or read is skipped, with one warning.

A journal stays until every active cursor has passed it, and while a live session may need its last ten
minutes from it; both for at most tier 1's span.

Files are evicted in this order, oldest first: delivered journals beyond tier 0's span, the other rolled-up
journals (their ticks are coarser then), all tiers but the coarsest, last rows, the coarsest tier and
descriptions. A file that is still written is never evicted.
"""

from __future__ import annotations

import copy
import errno
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rondo_tools import files
from rondo_tools.errors import StoreError
from rondo_tools.store.carry import parse_carry
from rondo_tools.store.derived import FILES_A_SPAN
from rondo_tools.store.format import frames
from rondo_tools.store.format.cursors import NO_JOURNAL, CursorPosition, may_stay
from rondo_tools.store.format.frame_file import FrameFile
from rondo_tools.store.format.layout import ENDED, JOURNALS, LAST_ROWS, Layout, tier_name
from rondo_tools.store.format.records import description_table
from rondo_tools.store.format.state import MAX_EVICTIONS, Eviction, State
from rondo_tools.store.format.tiers import Tier
from rondo_tools.store.looks import Looks, Times, plausible, stamp
from rondo_tools.units import format_size

log = logging.getLogger(__name__)

_FULL = 0.95  # of `max_bytes`: beyond that files are evicted


class Candidate(NamedTuple):
    """A file that may be evicted; they sort in the order of eviction."""

    order: int
    closed_ms: int
    folder: str
    number: int
    tier: int
    is_delivered: bool


@dataclass(slots=True)
class Look:
    """The result of a look: the committed state, and the removed files (folder, number)."""

    state: State
    removed: list[tuple[str, int]] = field(default_factory=list)
    evicted: int = 0  # of `removed`
    coarsened: int = 0  # journals evicted before every active cursor had passed them


class Housekeeper:
    """Of the store at `layout`. The caller holds its lock, and rolls nothing up meanwhile.

    `cursors` gives the positions of the pushes; `max_bytes` None is no limit.
    """

    def __init__(
        self,
        layout: Layout,
        tiers: tuple[Tier, ...],
        cursors: Callable[[], Iterable[CursorPosition]],
        now_ms: Callable[[], int],
        max_bytes: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._layout, self._tiers, self._cursors = layout, tiers, cursors
        self._looks = Looks(now_ms, clock)
        self.max_bytes = max_bytes
        self._warned: set[Path] = set()
        self._folders = {
            **{tier_name(n): (n, tier.span_ms) for n, tier in enumerate(tiers[1:], 1)},
            LAST_ROWS: (0, tiers[-1].span_ms),
            ENDED: (len(tiers) - 1, tiers[-1].span_ms),
        }

    def look(self, state: State) -> Look:
        """Remove expired files, and evict files beyond `max_bytes`. `state` is not changed.

        Raises OSError if state.json cannot be replaced; then nothing was removed.
        """
        look, times = self._begin(state)
        going = list(self._expired(look.state, times))
        self._drop(look, going)
        if self.max_bytes is not None:
            over = self._layout.used_bytes() - sum(map(self._size, going)) - int(_FULL * self.max_bytes)
            if over > 0:
                going += self._evict(look, over, times)
        self._commit(look, state, going)
        return look

    def make_room(self, state: State, wanted: int) -> Look:
        """On a full disk: evict files of at least `wanted` bytes, or as many as possible.

        Raises OSError as `look` does.
        """
        look, times = self._begin(state)
        going = self._evict(look, wanted, times)
        self._commit(look, state, going)
        return look

    def _begin(self, state: State) -> tuple[Look, Times]:
        look = Look(copy.deepcopy(state))
        times, look.state.looks_ms = self._looks.look(state.looks_ms)
        return look, times

    # --- expired files ----------------------------------------------------------------------------------

    def _expired(self, state: State, times: Times) -> Iterator[Candidate]:
        yield from self._expired_journals(state, times)
        for folder, (tier, span_ms) in self._folders.items():
            files = state.files.get(folder, {})
            for file in files.values():
                # No roll-up closed it, because there was nothing to append.
                if not file.closed_ms and times.is_over(file.begun_ms, span_ms // FILES_A_SPAN):
                    file.closed_ms = stamp(times.now_ms, state.looks_ms)
            closed = plausible(
                {n: file.closed_ms for n, file in files.items() if file.closed_ms}, times.now_ms
            )
            for number, closed_ms in closed.items():
                if times.is_over(closed_ms, span_ms):
                    yield Candidate(0, closed_ms, folder, number, tier, is_delivered=True)

    def _expired_journals(self, state: State, times: Times) -> Iterator[Candidate]:
        held_from: int | None = None
        closed = plausible(state.journals, times.now_ms)
        may = set(may_stay(closed, self._tiers, min(times)))
        for number, closed_ms in closed.items():
            if not times.is_over(closed_ms, self._tiers[0].span_ms):
                continue
            if number in may:
                if held_from is None:
                    held_from = min(self._delivered_to(times), self._wanted_from(state))
                if number >= held_from:
                    continue
            yield Candidate(0, closed_ms, JOURNALS, number, 0, is_delivered=True)

    def _delivered_to(self, times: Times) -> int:
        """The oldest journal in which an active cursor stands."""
        active = [one.journal for one in self._cursors() if one.is_active(min(times))]
        return min(active, default=NO_JOURNAL)

    def _wanted_from(self, state: State) -> int:
        """The oldest journal with last rows of a live session."""
        if not state.carry:
            return NO_JOURNAL
        path = self._layout.carry(state.carry)
        try:
            live = parse_carry(path.read_bytes()).live
        except (OSError, StoreError) as exc:
            self._warn(path, f"cannot be read ({exc}); journals stay")
            return 0
        return int(live["from_journal"].min()) if live.size else NO_JOURNAL

    # --- eviction ---------------------------------------------------------------------------------------

    def _evict(self, look: Look, wanted: int, times: Times) -> list[Candidate]:
        """Take files of `wanted` bytes out of the state, and return them."""
        going = []
        for one in sorted(self._candidates(look.state, times)):
            if wanted <= 0:
                break
            size = self._size(one)
            wanted -= size
            from_ms, to_ms = self._ticks(one)
            look.state.evictions.append(Eviction(one.tier, from_ms, to_ms, size, one.is_delivered))
            look.evicted += 1
            look.coarsened += not one.is_delivered
            going.append(one)
        look.state.evictions = look.state.evictions[-MAX_EVICTIONS:]
        self._drop(look, going)
        if look.coarsened:
            log.warning(
                "%s: no room: evicted %d journals that not every push had delivered; their ticks are coarser "
                "now",
                self._layout.path, look.coarsened,
            )  # fmt: skip
        if going:
            freed = format_size(sum(eviction.bytes for eviction in look.state.evictions[-len(going) :]))
            log.info("%s: evicted %d files of %s", self._layout.path, len(going), freed)
        return going

    def _candidates(self, state: State, times: Times) -> Iterator[Candidate]:
        delivered_to = self._delivered_to(times)
        for number, closed_ms in plausible(state.journals, times.now_ms).items():
            is_delivered = number < delivered_to
            is_old = times.now_ms - closed_ms > self._tiers[0].span_ms
            order = 0 if is_delivered and is_old else 1
            yield Candidate(order, closed_ms, JOURNALS, number, 0, is_delivered)
        for folder, (tier, _) in self._folders.items():
            order = 3 if folder == LAST_ROWS else 4 if tier == len(self._tiers) - 1 else 2
            for number, file in state.files.get(folder, {}).items():
                if file.closed_ms:
                    yield Candidate(order, file.closed_ms, folder, number, tier, is_delivered=True)

    def _size(self, one: Candidate) -> int:
        try:
            return self._layout.file(one.folder, one.number).lstat().st_blocks * 512
        except OSError:
            return 0

    def _ticks(self, one: Candidate) -> tuple[int, int]:
        """The first and the last tick in a file; zeros if it cannot be read."""
        times: list[int] = []
        try:
            with FrameFile(self._layout.file(one.folder, one.number)) as file:
                kinds = (frames.DESCRIPTIONS,) if one.folder == ENDED else ()
                for _, head, payload in file.frames(kinds=kinds):
                    if head.kind == frames.ROWS:
                        times += (head.least_ms, head.greatest_ms)
                    elif head.kind == frames.DESCRIPTIONS:
                        last_ms = description_table(payload, head.entries)["last_ms"]
                        last_ms = last_ms[last_ms > 0]  # 0: no tick
                        times += (int(last_ms.min()), int(last_ms.max())) if last_ms.size else ()
        except (FileNotFoundError, StoreError, ValueError):
            return 0, 0
        return min(times, default=0), max(times, default=0)

    # --- removing -----------------------------------------------------------------------------------

    def _drop(self, look: Look, going: list[Candidate]) -> None:
        """Take files out of the state."""
        for one in going:
            if one.folder == JOURNALS:
                del look.state.journals[one.number]
            else:
                del look.state.files[one.folder][one.number]

    def _commit(self, look: Look, before: State, going: list[Candidate]) -> None:
        if look.state != before:
            self._replace_state(look.state, [self._layout.file(one.folder, one.number) for one in going])
        for one in going:
            self._remove(self._layout.file(one.folder, one.number))
            look.removed.append((one.folder, one.number))
        # The state no longer names a journal that could not be removed; each look tries again.
        for number in self._layout.numbers(JOURNALS):
            if number <= look.state.rolled_up and number not in look.state.journals:
                self._remove(self._layout.file(JOURNALS, number))

    def _replace_state(self, state: State, going: list[Path]) -> None:
        """Replace state.json. If the disk is too full even for that, remove files before it."""
        while True:
            try:
                files.replace(self._layout.state_json, state.pack())
            except OSError as exc:
                if exc.errno not in (errno.ENOSPC, errno.EDQUOT) or not going:
                    raise
                self._remove(going.pop(0))
            else:
                return

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as exc:
            self._warn(path, f"cannot be removed: {exc.strerror}")

    def _warn(self, path: Path, why: str) -> None:
        if path not in self._warned:
            self._warned.add(path)
            log.warning("%s: %s", path, why)
