"""Finds what a cursor has to send next, also when journals are gone or the store was replaced.

Strategy: a position names a file by its number and its random id. If the file exists, a stretch goes from
the position to the last whole frame. If the file was rolled up and expired, its samples are sent from a
coarser tier. Anything else is a fork, a restored backup or another store: the drain logs it, and delivery
continues with samples later than the last delivered time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from rondo_tools import files, selector
from rondo_tools.errors import EX_DATAERR, EX_UNAVAILABLE, StoreError
from rondo_tools.prom.samples import Labels
from rondo_tools.push.batches import Batches
from rondo_tools.push.stretch import Stretch
from rondo_tools.push.stretch_file import Owed
from rondo_tools.store.format.cursor import Position, Progress
from rondo_tools.store.format.frame_file import FrameFile
from rondo_tools.store.format.frames import FILE_SIZE
from rondo_tools.store.format.layout import JOURNALS, Layout, tier_name
from rondo_tools.store.format.opened import read_state
from rondo_tools.store.format.state import State
from rondo_tools.store.format.tiers import Tier
from rondo_tools.stream import Header
from rondo_tools.units import format_duration

AHEAD_MS = 60_000  # of our clock; a tick further ahead comes from a wrong clock
# After a fork, producers that still run resend their last 600 ticks, which may be ten seconds apart.
REMEMBERED_MS = 2 * 3_600_000
_MOST_ROWS_FOR_LINE = 1_000_000  # reading a longer stretch again costs more than reading its file again

log = logging.getLogger(__name__)


class _Line(NamedTuple):
    """The time up to which each instance is delivered at a position."""

    at: Position
    times: Mapping[str, int]


class Drain:
    """Finds stretches of one store for one cursor, and makes batches of them.

    `layout` and `tiers` are the store's. `labels` returns the sent labels of a header's series; `wanted`
    selects series; samples older than `max_age_ms` are passed over. With `ignore_future`, delivered samples
    with times ahead of the clock do not hold back later ones.
    """

    def __init__(
        self,
        layout: Layout,
        tiers: tuple[Tier, ...],
        labels: Callable[[Header], tuple[Labels, ...]],
        max_samples: int = 10_000,
        *,
        wanted: selector.Selector | None = None,
        max_age_ms: int | None = None,
        ignore_future: bool = False,
    ) -> None:
        self._layout = layout
        self._tiers = tiers
        self._labels = labels
        self._max_samples = max_samples
        self._wanted = wanted
        self._max_age_ms = max_age_ms
        self._ignore_future = ignore_future
        self._line: _Line | None = None
        self._has_warned_of_fork = False
        self._warned_ahead: set[str] = set()  # instances

    def next(self, progress: Progress, now_ms: int, *, backfill: bool = False) -> Stretch | None:
        """The stretch to send next, with `progress` set to it; None if nothing is new.

        An unfinished stretch is returned again. The caller closes it. Raises StoreError.
        """
        for _ in range(3):  # files may be removed meanwhile
            try:
                return self._next(progress, now_ms, backfill)
            except FileNotFoundError:
                continue
        return None

    def batches(self, stretch: Stretch, progress: Progress) -> Batches:
        """The maker of a stretch's batches."""
        tier = progress.tier if progress.coarse is None else progress.coarse[0]
        return Batches(stretch, tier, self._labels, self._wanted, self._max_samples)

    def oldest_ms(self, now_ms: int) -> int:
        """Older samples are passed over."""
        return now_ms - self._max_age_ms if self._max_age_ms else 0

    def finish(self, progress: Progress, stretch: Stretch, now_ms: int) -> int:
        """Mark a stretch as done; returns how many instances have delivered times ahead of the clock."""
        if progress.coarse is not None:
            self._finish_coarse(progress)
            return 0
        assert progress.end is not None
        few = stretch.rows <= _MOST_ROWS_FOR_LINE
        line = stretch.line() if few and progress.tier == 0 else {}
        self._line = _Line(progress.end, line) if line else None
        progress.finish()
        ahead = {instance: t_ms for instance, t_ms in line.items() if t_ms > now_ms + AHEAD_MS}
        for instance, t_ms in ahead.items():
            if instance not in self._warned_ahead:
                self._warned_ahead.add(instance)
                log.warning(
                    "%s has delivered ticks %s ahead of this clock; until then its ticks are passed over. "
                    "Delete those from the receiver, then run rondo-push once with --ignore-future",
                    instance,
                    format_duration((t_ms - now_ms) // 1000 * 1000),
                )
        return len(ahead)

    def sync(self, progress: Progress) -> None:
        """Sync the journals of a stretch to the disk, before the cursor names it. Raises StoreError."""
        if progress.tier or progress.coarse is not None or progress.begin is None or progress.end is None:
            return  # derived files were synced before state.json named them
        for number in self._layout.numbers(JOURNALS):
            if progress.begin.number <= number <= progress.end.number:
                path = self._layout.file(JOURNALS, number)
                try:
                    files.sync_file(path)
                except OSError as exc:
                    raise StoreError(
                        f"{path}: cannot be synced, so it is not sent: {exc.strerror}",
                        exit_code=EX_UNAVAILABLE,
                    ) from exc

    def _next(self, progress: Progress, now_ms: int, backfill: bool) -> Stretch | None:
        state = read_state(self._layout)
        folder = tier_name(progress.tier)
        numbers = self._layout.numbers(folder) if progress.tier == 0 else sorted(state.files.get(folder, {}))
        if progress.begin is None and progress.coarse is None:
            progress.begin = self._first_of(folder, numbers)
            if progress.begin is None:
                return None
            progress.since_ms = 0 if backfill else max(0, now_ms - self._tiers[progress.tier].span_ms)
            if backfill and progress.tier == 0 and len(self._tiers) > 1:
                progress.coarse = (1, 0, progress.begin.number)
        if progress.coarse is None:
            self._check_history(progress, numbers, state)
        if progress.coarse is not None:
            return self._coarse_stretch(progress, state) or self._next(progress, now_ms, backfill)
        begin = progress.begin
        assert begin is not None
        if progress.end is None:
            end = self._newest(progress, numbers, state)
            if end is None or not begin.file_id or end[::2] == begin[::2]:
                return None
            progress.freeze(end)
            if progress.floor_ms < now_ms - REMEMBERED_MS:
                progress.floor_ms = 0
            progress.future_ms = now_ms + AHEAD_MS if self._ignore_future else 0
        assert progress.end is not None
        is_known = self._line is not None and self._line.at == begin and not progress.future_ms
        line = self._line.times if self._line is not None and is_known else None
        return Stretch(
            self._layout,
            begin,
            progress.end,
            tier=progress.tier,
            line=line,
            floor_ms=progress.floor_ms,
            since_ms=progress.since_ms,
            future_ms=progress.future_ms,
            span_ms=self._tiers[progress.tier].span_ms,
        )

    def _newest(self, progress: Progress, numbers: list[int], state: State) -> Position | None:
        """The end of the last whole frame."""
        begin = progress.begin
        assert begin is not None
        folder = tier_name(progress.tier)
        for number in reversed(numbers):
            try:
                with FrameFile(self._layout.file(folder, number)) as file:
                    if progress.tier:
                        offset = state.files[folder][number].length
                    else:
                        offset = file.end_of_frames(begin.offset if number == begin.number else FILE_SIZE)
                    return Position(number, file.header.file_id, offset)
            except StoreError as exc:
                _must_be_damage(exc)
                log.debug("%s", exc)  # just created, or damaged; the file before it is whole
        return None

    # --- files that are gone or replaced ---------------------------------------------------------------

    def _check_history(self, progress: Progress, numbers: list[int], state: State) -> None:
        """If the files that `progress` names are gone or replaced, set it to where delivery continues."""
        begin, end = progress.begin, progress.end
        assert begin is not None
        folder = tier_name(progress.tier)
        if not begin.file_id and begin.number in numbers:  # the file did not exist when we reached it
            there = self._first_of(folder, [number for number in numbers if number >= begin.number])
            if there is None:
                return
            progress.begin = begin = there
        if self._is_there(progress, begin) and (end is None or self._is_there(progress, end)):
            return
        same = [
            one for one in progress.known if one[0] in numbers and self._id_or_none(folder, one[0]) == one[1]
        ]
        other = [one for one in progress.known if one[0] in numbers and one not in same]
        first = numbers[0] if numbers else state.rolled_up + 1
        if begin.number not in numbers and begin.number < first <= state.rolled_up + 1 and not other:
            if progress.tier == 0 and len(self._tiers) > 1:
                progress.coarse = (1, begin.number, first)
            elif (there := self._first_of(folder, numbers)) is not None:
                progress.begin = there
            progress.restart()
            return
        there = self._first_of(folder, [same[-1][0]] if same else numbers)
        if there is None:
            return  # the store itself is gone, unmounted perhaps
        self._warn_of_fork(progress)
        progress.begin = there
        progress.restart()
        progress.floor_ms = progress.time_ms

    def _warn_of_fork(self, progress: Progress) -> None:
        if not self._has_warned_of_fork:
            self._has_warned_of_fork = True
            log.warning(
                "%s: these are not the files that the cursor knows (a restored backup, or another store): "
                "continuing with samples later than %d ms",
                self._layout.path,
                progress.time_ms,
            )

    def _is_there(self, progress: Progress, position: Position) -> bool:
        try:
            with FrameFile(self._layout.file(tier_name(progress.tier), position.number)) as file:
                return file.header.file_id == position.file_id and file.size >= position.offset
        except FileNotFoundError:
            return False
        except StoreError as exc:
            _must_be_damage(exc)
            return False

    # --- journals that are gone, from coarser tiers ----------------------------------------------------

    def _coarse_stretch(self, progress: Progress, state: State) -> Stretch | None:
        """The rows of removed journals in a coarser tier; None if there are none."""
        assert progress.coarse is not None
        if progress.end is None:
            progress.coarse = self._finest_that_has(state, *progress.coarse[1:])
        tier, first, until = progress.coarse
        files = self._derived(state, tier)
        if not files:
            self._finish_coarse(progress)
            return None
        if progress.end is None or progress.end[:2] not in [one[:2] for one in files]:
            # Rows that were done before its last file was removed are not later than `time_ms`.
            progress.restart(files[-1])
        assert progress.end is not None
        return Stretch(
            self._layout,
            files[0]._replace(offset=FILE_SIZE),
            progress.end,
            tier=tier,
            # A part of the cursor's journal was delivered.
            owed=Owed(range(first, until), progress.time_ms),
        )

    def _finest_that_has(self, state: State, first: int, until: int) -> tuple[int, int, int]:
        """(tier, first, until): the finest tier that has journal `first`, and where a finer tier begins."""
        least = until
        for tier in range(1, len(self._tiers)):
            for file in self._derived(state, tier)[:1]:
                oldest = self._oldest_origin(tier, file)
                if oldest <= first:
                    return tier, first, least
                if tier + 1 == len(self._tiers):
                    return tier, first, least
                least = min(least, oldest)
        return len(self._tiers) - 1, first, least

    def _oldest_origin(self, tier: int, position: Position) -> int:
        with FrameFile(self._layout.file(tier_name(tier), position.number)) as file:
            return next((head.origin for _, head, _ in file.frames(kinds=()) if head.origin), 0)

    def _finish_coarse(self, progress: Progress) -> None:
        """Continue after the removed journals."""
        assert progress.coarse is not None
        until = progress.coarse[2]
        progress.coarse = None
        progress.end = Position(until, self._id_or_none(JOURNALS, until) or b"", FILE_SIZE)
        progress.finish()

    def _derived(self, state: State, tier: int) -> list[Position]:
        """The ends of a coarse tier's existing files, oldest first."""
        folder = tier_name(tier)
        return [
            Position(number, file_id, one.length)
            for number, one in sorted(state.files.get(folder, {}).items())
            if (file_id := self._id_or_none(folder, number))
        ]

    # --- files -----------------------------------------------------------------------------------------

    def _first_of(self, folder: str, numbers: Iterable[int]) -> Position | None:
        """The beginning of the first file that has a header; a kill may leave a file without one."""
        for number in numbers:
            if (file_id := self._id_or_none(folder, number)) is not None:
                return Position(number, file_id, FILE_SIZE)
        return None

    def _id_or_none(self, folder: str, number: int) -> bytes | None:
        """A file's id; None if the file is missing or its header is damaged."""
        try:
            with FrameFile(self._layout.file(folder, number)) as file:
                return file.header.file_id
        except FileNotFoundError:
            return None
        except StoreError as exc:
            _must_be_damage(exc)
            return None


def _must_be_damage(exc: StoreError) -> None:
    """Raise an error of the disk, permissions or descriptors: it does not mean that the file is damaged."""
    if exc.exit_code != EX_DATAERR:
        raise exc
