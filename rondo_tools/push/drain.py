"""What is new in a store, closed, in time order over all sessions, cut into batches.

Strategy: an instance is one line of time. The new rows of all its sessions are merged; what is not
past the time its instance has already delivered is passed over; nothing is taken from the first
row that is not yet closed on, in any of its sessions, or that row would be overtaken. Then the
instances are merged: Prometheus refuses what is an hour behind its newest sample from anyone, so
no session's backlog goes before another's.

A row is closed, and will not change any more, when its session has a row in a later slot or has
ended, when rondo-store said so, or when its slot is five seconds past. A session's end is a row of
its own, all NaN, one millisecond after its last.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rondo_tools.errors import EX_DATAERR, StoreError
from rondo_tools.push.batch import Batch, Block, Labels
from rondo_tools.push.cursor import Mark
from rondo_tools.store.reader import Rows, Session, Store
from rondo_tools.stream import MAX_T_MS, Header
from rondo_tools.units import format_duration

SILENT_MS = 5_000  # a slot this long past is closed, by our clock
AHEAD_MS = 60_000  # rows further ahead of our clock are held back

_NEVER = MAX_T_MS + 2

log = logging.getLogger(__name__)

Times = npt.NDArray[np.int64]


class _New(NamedTuple):
    """What a session has to deliver. `t_ms` and `row` (an index, -1 for the end) go together."""

    session: Session
    mark: Mark
    rows: Rows
    t_ms: Times
    row: Times
    keep: npt.NDArray[np.bool_]  # send it; else it is passed over


class Drain:
    """Reads one store. `labels` gives the labels that a header's series are sent with."""

    def __init__(
        self, store: Store, labels: Callable[[Header], tuple[Labels, ...]], max_samples: int = 10_000
    ) -> None:
        self._store = store
        self._labels = labels
        self._max_samples = max_samples
        self._told: set[str] = set()  # sessions whose trouble was spoken of

    def gone(self, marks: Mapping[str, Mark]) -> list[str]:
        """Sessions whose marks are of no use any more: their folder is gone, and they are not
        what tells how far an instance that is still there has come."""
        folder = self._store.path / "instances"
        if not folder.is_dir():
            return []  # it is the store that is gone, unmounted perhaps
        left = [key for key in marks if not (folder / key).is_dir()]
        if not left:
            return []
        living = {_instance(key) for key in marks.keys() - set(left)}
        living |= {_instance(session.key) for session in self._store.sessions()}
        newest: dict[str, str] = {}
        for key, mark in marks.items():
            best = newest.setdefault(_instance(key), key)
            if mark.delivered_ms > marks[best].delivered_ms:
                newest[_instance(key)] = key
        return [key for key in left if _instance(key) not in living or newest[_instance(key)] != key]

    def batches(
        self, marks: Mapping[str, Mark], now_ms: int, closed: Mapping[str, int] | None = None
    ) -> Iterator[Batch]:
        """Yield what is new since `marks`, oldest first.

        `closed` maps a session's key to the time up to which rondo-store said that its slots are
        closed. Each batch holds whole rows, at most `max_samples` samples or one row.
        """
        delivered: dict[str, int] = {}
        for key, mark in marks.items():
            delivered[_instance(key)] = max(delivered.get(_instance(key), 0), mark.delivered_ms)
        new: list[_New] = []
        for instance, group in groupby(self._store.sessions(), key=lambda s: _instance(s.key)):
            sessions = list(group)
            new += self._instance(sessions, marks, delivered.get(instance, 0), now_ms, closed or {})
        yield from self._cut(new)

    def _instance(
        self,
        sessions: list[Session],
        marks: Mapping[str, Mark],
        delivered_ms: int,
        now_ms: int,
        closed: Mapping[str, int],
    ) -> list[_New]:
        """The new rows of an instance's sessions, in order of their start."""
        found = []
        barrier_ms = _NEVER  # the first row that is not closed yet, of any of the sessions
        for session in sessions:
            mark = marks.get(session.key, Mark())
            if mark.ended:
                continue
            try:
                rows = self._read(session, mark)
            except StoreError as exc:
                if not session.path.is_dir():
                    continue  # it expired while we looked
                self._say(session, f"cannot be read, and nothing of it is sent: {exc}")
                if exc.exit_code == EX_DATAERR:
                    continue
                return []  # what can be read later must not be overtaken
            count = self._closed(session, rows, now_ms, closed.get(session.key, 0))
            if count < len(rows.t_ms):
                barrier_ms = min(barrier_ms, int(rows.t_ms[count]))
            found.append(self._with_end(session, sessions, mark, rows))
        new = []
        for item in found:
            horizon_ms = min(barrier_ms, now_ms + AHEAD_MS + 1)
            count = int(np.searchsorted(item.t_ms, horizon_ms))
            if count < len(item.t_ms) and item.t_ms[count] > now_ms + AHEAD_MS:
                ahead = format_duration(int(item.t_ms[-1]) - now_ms)
                self._say(item.session, f"ticks up to {ahead} ahead of the clock here are held back")
            new.append(item._replace(t_ms=item.t_ms[:count], row=item.row[:count], keep=item.keep[:count]))
        return _pass_over(new, delivered_ms)

    def _read(self, session: Session, mark: Mark) -> Rows:
        rows = session.rows(0, mark.delivered_ms)
        if session.end is None and rows.t_ms.size:
            # The writer may have added rows while we read, and we may have seen a later one of
            # them but not an earlier. What was there at the end of the first look is whole in the
            # second.
            seen_ms = int(rows.t_ms[-1])
            rows = session.rows(0, mark.delivered_ms).between(mark.delivered_ms, seen_ms + 1)
        span_ms = self._store.tiers[0].span_ms
        if mark.delivered_ms and rows.t_ms.size and rows.t_ms[-1] - mark.delivered_ms > span_ms:
            self._say(
                session,
                f"the last delivery is more than {format_duration(span_ms)} back; ticks that the first tier "
                "has overwritten since are in the coarser tiers only, and are not sent",
            )
        return rows

    def _closed(self, session: Session, rows: Rows, now_ms: int, closed_through_ms: int) -> int:
        """How many of the rows, from the first, are closed."""
        t_ms, interval_ms = rows.t_ms, self._store.tiers[0].interval_ms
        if not t_ms.size or session.end is not None:
            return len(t_ms)
        slot = t_ms // interval_ms
        later_row = slot < slot[-1]
        long_past = (slot + 1) * interval_ms + SILENT_MS <= now_ms
        return int(np.count_nonzero(later_row | long_past | (t_ms <= closed_through_ms)))

    def _with_end(self, session: Session, sessions: list[Session], mark: Mark, rows: Rows) -> _New:
        t_ms, row = rows.t_ms, np.arange(len(rows.t_ms))
        keep = np.ones(len(t_ms), np.bool_)
        if session.end is not None:
            last_ms = int(t_ms[-1]) if t_ms.size else mark.delivered_ms
            # The next life of the instance goes on with its series: no marker between. (One that
            # began later but is over already was before us, and the clock was set back.) A session
            # without a single tick has nothing to mark, either.
            goes_on = any(
                session.start_ms < other.start_ms <= last_ms + 1
                and (other.end is None or other.end.t_ms >= last_ms)
                for other in sessions
            )
            t_ms, row = np.append(t_ms, last_ms + 1), np.append(row, -1)
            keep = np.append(keep, last_ms > 0 and not goes_on)
        return _New(session, mark, rows, t_ms, row, keep)

    def _cut(self, new: list[_New]) -> Iterator[Batch]:
        """Merge by time (ties: by instance, then start) and cut into batches."""
        if not new:
            return
        owner = np.repeat(np.arange(len(new)), [len(item.t_ms) for item in new])
        t_ms = np.concatenate([item.t_ms for item in new])
        row = np.concatenate([item.row for item in new])
        keep = np.concatenate([item.keep for item in new])
        order = np.lexsort((owner, t_ms))
        owner, t_ms, row, keep = owner[order], t_ms[order], row[order], keep[order]
        _, instance = np.unique([_instance(item.session.key) for item in new], return_inverse=True)
        width = np.array([item.rows.values.shape[1] for item in new])
        total = np.cumsum(np.where(keep, width[owner], 0))
        start = 0
        while start < len(t_ms):
            before = int(total[start - 1]) if start else 0
            stop = int(np.searchsorted(total, before + self._max_samples, side="right"))
            part = slice(start, max(stop, start + 1))
            yield self._batch(new, instance, owner[part], t_ms[part], row[part], keep[part])
            start = part.stop

    def _batch(
        self,
        new: list[_New],
        instance: Times,
        owner: Times,
        t_ms: Times,
        row: Times,
        keep: npt.NDArray[np.bool_],
    ) -> Batch:
        marks: dict[str, Mark] = {}
        passed_over = 0
        for at in np.unique(owner).tolist():
            mine = owner == at
            item = new[at]
            # An end that is not sent takes no time: the last tick, 1 ms before, is as far as it goes.
            silent_end = ~keep & (row < 0)
            through_ms = max(item.mark.delivered_ms, int((t_ms - silent_end)[mine].max()))
            marks[item.session.key] = Mark(through_ms, bool((row[mine] < 0).any()))
            passed_over += int((mine & ~keep & (row >= 0)).sum()) * item.rows.values.shape[1]
        owner, t_ms, row = owner[keep], t_ms[keep], row[keep]
        # By instance, then time, then cut into runs of one session.
        order = np.lexsort((t_ms, instance[owner]))
        owner, t_ms, row = owner[order], t_ms[order], row[order]
        runs = np.flatnonzero(np.diff(owner)) + 1
        blocks = [
            self._block(new[int(owner[run[0]])], t_ms[run], row[run])
            for run in np.split(np.arange(len(owner)), runs)
            if run.size
        ]
        return Batch(tuple(blocks), marks, passed_over)

    def _block(self, item: _New, t_ms: Times, row: Times) -> Block:
        values = np.full((len(row), item.rows.values.shape[1]), np.nan)
        ticks = row >= 0
        values[ticks] = item.rows.values[row[ticks]]
        header = item.session.header
        return Block(header.series, self._labels(header), t_ms, values)

    def _say(self, session: Session, what: str) -> None:
        """Warn, once for each session in a process' life."""
        if session.key not in self._told:
            self._told.add(session.key)
            log.warning("%s: %s", session.key, what)


def _instance(key: str) -> str:
    return key.partition("/")[0]


def _pass_over(new: list[_New], delivered_ms: int) -> list[_New]:
    """Mark what its instance has gone past, and all but the first of several rows of one time."""
    if not new:
        return []
    sizes = [len(item.t_ms) for item in new]
    t_ms = np.concatenate([item.t_ms for item in new])
    keep = np.concatenate([item.keep for item in new])
    keep &= t_ms > delivered_ms
    if len(new) > 1:
        candidates = np.flatnonzero(keep)
        by_time = candidates[np.argsort(t_ms[candidates], kind="stable")]
        keep[by_time[1:][np.diff(t_ms[by_time]) == 0]] = False
    cuts = np.cumsum(sizes)[:-1]
    return [item._replace(keep=part) for item, part in zip(new, np.split(keep, cuts), strict=True)]
