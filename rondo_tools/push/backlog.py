"""A session's backlog: what it still has to deliver, and from which tier of the store.

Strategy: tier 0 remembers minutes, the coarser tiers days. What tier 0 has lost is sent from the
finest tier that still holds all of it, decided for each window of the coarsest tier, so that a
switch between resolutions falls on such a window's boundary. The decision is made before anything
is read. The writer goes on meanwhile and may overtake it; a read that finds rows of a later lap
takes the next coarser tier instead.

A coarse row is sent under the same names as a tick: of a counter the last value, of a gauge the
average, at the time of the last tick in the window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from rondo_tools.push.model import Mark, SeriesSet
from rondo_tools.store.reader import Rows, Session, Tier

NO_END = -1
SLICE_MS = 1_800_000  # half of what Prometheus bears
SLICE_SAMPLES = 1_000_000  # in memory at a time, about


class Stretch(NamedTuple):
    """A stretch of time, begin_ms <= t < until_ms, and the tier it is read from.

    `is_rest`: of times before delivery began, of which tier 0 alone gives what it happens to hold.
    """

    tier: int
    begin_ms: int
    until_ms: int
    is_rest: bool = False


class Backlog(NamedTuple):
    """One session's: its stretches in time order, the series to send, and the time of its end, or NO_END.

    `seen` is all that it has, where that was read already and kept.
    """

    session: Session
    mark: Mark
    stretches: tuple[Stretch, ...]
    end_ms: int
    end_is_sent: bool
    series_set: SeriesSet
    numbers: tuple[int, ...]  # of the series, in the header
    seen: Rows | None = None

    @property
    def from_ms(self) -> int:
        """A time before which it has nothing."""
        return int(self.seen.t_ms[0]) if self.seen is not None and self.seen.t_ms.size else 0

    def read(self, begin_ms: int, until_ms: int, finest: int) -> Rows:
        """Rows with begin_ms <= t_ms < until_ms, the columns those of `series_set`. Raises StoreError."""
        if self.seen is not None and self.stretches:
            begin_ms = max(begin_ms, self.stretches[0].begin_ms)
            until_ms = min(until_ms, self.stretches[-1].until_ms)
            return self._chosen(self.seen.between(begin_ms - 1, until_ms), finest)
        parts = [
            self._read_stretch(
                stretch, max(begin_ms, stretch.begin_ms), min(until_ms, stretch.until_ms), finest
            )
            for stretch in self.stretches
            if stretch.begin_ms < until_ms and begin_ms < stretch.until_ms
        ]
        return Rows(
            np.concatenate([np.empty(0, np.int64), *(part.t_ms for part in parts)]),
            np.concatenate([np.empty((0, len(self.numbers))), *(part.values for part in parts)]),
            sum(part.skipped for part in parts),
        )

    def _read_stretch(self, stretch: Stretch, begin_ms: int, until_ms: int, finest: int) -> Rows:
        tier = stretch.tier
        if tier == finest > 0:
            # The newest windows are perhaps not rolled up yet; the reader does it.
            rows = self.session.rows(tier, begin_ms - 1).between(begin_ms - 1, until_ms)
        else:
            rows, is_whole = self.session.stored(tier, begin_ms - 1, until_ms)
            while not is_whole and not stretch.is_rest and tier + 1 < len(self.session.tiers):
                tier += 1
                rows, is_whole = self.session.stored(tier, begin_ms - 1, until_ms)
        return self._chosen(rows, tier)

    def _chosen(self, rows: Rows, tier: int) -> Rows:
        """The columns that are sent, of a tier's rows."""
        layout = self.session.columns(tier)
        if tier == 0 and len(self.numbers) == len(layout):
            return rows
        of_series = {
            column.series: at for at, column in enumerate(layout) if column.aggregate in ("last", "avg")
        }
        columns = [of_series[number] for number in self.numbers]
        return Rows(rows.t_ms, rows.values[:, columns], rows.skipped)


def stretches(
    tiers: Sequence[Tier], finest: int, last_ms: int, from_ms: int, until_ms: int, rest_ms: int
) -> tuple[Stretch, ...]:
    """What covers [from_ms, until_ms) for a session whose newest tick is at `last_ms`.

    Before that, the rest from `rest_ms` on that tier `finest` holds; rest_ms = from_ms for none.
    """
    window_ms = tiers[-1].interval_ms
    found: list[Stretch] = []
    rest_until_ms = min(from_ms, until_ms)
    for tier in range(finest, len(tiers)):
        if from_ms >= until_ms:
            break
        begin_ms = from_ms
        whole_ms = tiers[tier].whole_since(last_ms, tiers[tier].interval_ms)
        if whole_ms > from_ms and tier + 1 < len(tiers):
            begin_ms = max(from_ms, tiers[tier].whole_since(last_ms, window_ms))
        if begin_ms < until_ms:
            found.append(Stretch(tier, begin_ms, until_ms))
            until_ms = begin_ms
    if rest_ms < rest_until_ms:
        found.append(Stretch(finest, rest_ms, rest_until_ms, is_rest=True))
    return tuple(reversed(found))


def slices(backlogs: Sequence[Backlog], tiers: Sequence[Tier]) -> Iterator[tuple[int, int]]:
    """Stretches of time, oldest first, that cover all backlogs and hold so many samples at most."""
    found = [
        (
            max(stretch.begin_ms, backlog.from_ms),
            stretch.until_ms,
            len(backlog.numbers) / tiers[stretch.tier].interval_ms,
        )
        for backlog in backlogs
        for stretch in backlog.stretches
        if stretch.until_ms > backlog.from_ms
    ]
    found += [
        (backlog.end_ms, backlog.end_ms + 1, len(backlog.numbers))
        for backlog in backlogs
        if backlog.end_ms != NO_END
    ]
    if not found:
        return
    begins, untils, weights = map(np.array, zip(*found, strict=True))

    def samples(begin_ms: int, until_ms: int) -> float:
        lengths = np.minimum(untils, until_ms) - np.maximum(begins, begin_ms)
        return float((np.maximum(lengths, 0) * weights).sum())

    begin_ms, end_ms = int(begins.min()), int(untils.max())
    while begin_ms < end_ms:
        # Where there is nothing, go on with what comes next.
        begin_ms = max(begin_ms, int(begins[untils > begin_ms].min()))
        until_ms = min(end_ms, begin_ms + SLICE_MS)
        while samples(begin_ms, until_ms) > SLICE_SAMPLES and until_ms - begin_ms > tiers[0].interval_ms:
            until_ms = begin_ms + (until_ms - begin_ms) // 2
        yield begin_ms, until_ms
        begin_ms = until_ms
