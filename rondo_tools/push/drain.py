"""What is new in a store, closed, in time order over all sessions, cut into batches.

Strategy: an instance is one line of time. The new rows of all its sessions are merged; what is not
past the time its instance has already delivered is passed over; nothing is taken from the first
row that is not yet closed on, in any of its sessions, or that row would be overtaken.

The store is read in slices of time, oldest first, each over all sessions: Prometheus refuses what
is an hour behind its newest sample from anyone, so no session's backlog goes before another's. A
slice is at most half an hour long and holds a bounded number of samples, so that memory does not
grow with the backlog. Within it the order is by instance: rows that belong together travel
together.

A row is closed, and will not change any more, when its session has a row in a later slot or has
ended, when rondo-store said so, or when its slot is five seconds past. A session's end is a row of
its own, all NaN, one millisecond after its last.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby

from rondo_tools import selector
from rondo_tools.errors import EX_DATAERR, StoreError
from rondo_tools.push.backlog import NO_END, SLICE_SAMPLES, Backlog, Stretch, slices, stretches
from rondo_tools.push.merge import New, cut, instance_of
from rondo_tools.push.model import Batch, Labels, Mark, SeriesSet
from rondo_tools.store.reader import Rows, Session, Store
from rondo_tools.stream import Header
from rondo_tools.units import format_duration

SILENT_MS = 5_000  # a slot this long past is closed, by our clock
AHEAD_MS = 60_000  # rows further ahead of our clock are held back
SOON_MS = 5_000  # a session with no row that far ahead is not looked at further

log = logging.getLogger(__name__)


class Drain:
    """Reads one store. `labels` gives the labels that a header's series are sent with.

    `finest` is the tier to begin with; `wanted` says which series are sent; what is older than
    `max_age_ms` by the clock is passed over.
    """

    def __init__(
        self,
        store: Store,
        labels: Callable[[Header], tuple[Labels, ...]],
        max_samples: int = 10_000,
        *,
        finest: int = 0,
        wanted: selector.Selector | None = None,
        max_age_ms: int | None = None,
    ) -> None:
        self._store = store
        self._labels = labels
        self._max_samples = max_samples
        self._finest = finest
        self._wanted = wanted
        self._max_age_ms = max_age_ms
        self._sent: dict[str, tuple[tuple[int, ...], SeriesSet]] = {}  # of each session
        self._told: set[str] = set()  # sessions whose trouble was spoken of

    def begin_ms(self, now_ms: int) -> int:
        """From when on a delivery that begins now is owed the coarser tiers too: what tier 0 surely
        holds is taken from there."""
        tiers = self._store.tiers
        return max(0, now_ms - tiers[self._finest].span_ms + tiers[-1].interval_ms)

    def gone(self, marks: Mapping[str, Mark]) -> list[str]:
        """Sessions whose marks are of no use any more: their folder is gone, and they are not
        what tells how far an instance that is still there has come."""
        folder = self._store.path / "instances"
        if not folder.is_dir():
            return []  # it is the store that is gone, unmounted perhaps
        left = [key for key in marks if not (folder / key).is_dir()]
        if not left:
            return []
        living = {instance_of(key) for key in marks.keys() - set(left)}
        living |= {instance_of(session.key) for session in self._store.sessions()}
        newest: dict[str, str] = {}
        for key, mark in marks.items():
            best = newest.setdefault(instance_of(key), key)
            if mark.delivered_ms > marks[best].delivered_ms:
                newest[instance_of(key)] = key
        return [key for key in left if instance_of(key) not in living or newest[instance_of(key)] != key]

    def batches(
        self,
        marks: Mapping[str, Mark],
        now_ms: int,
        closed: Mapping[str, int] | None = None,
        begun_ms: int = 0,
    ) -> Iterator[Batch]:
        """Yield what is new since `marks`, oldest first.

        `closed` maps a session's key to the time up to which rondo-store said that its slots are
        closed. From sessions without a mark the coarser tiers are taken from `begun_ms` on. Each
        batch holds whole rows, at most `max_samples` samples or one row.
        """
        delivered: dict[str, int] = {}
        for key, mark in marks.items():
            delivered[instance_of(key)] = max(delivered.get(instance_of(key), 0), mark.delivered_ms)
        backlogs: list[Backlog] = []
        kept = 0  # samples that were seen
        sent, self._sent = self._sent, {}
        all_sessions = self._store.sessions()
        new_rows = self._new_rows(all_sessions, marks, now_ms)
        for _, group in groupby(all_sessions, key=lambda s: instance_of(s.key)):
            sessions = list(group)
            for session in sessions:
                # Of what was delivered to its end nothing is sent any more; a week's may be 100,000 of them.
                if session.key not in marks or not marks[session.key].ended:
                    self._sent[session.key] = sent.get(session.key) or self._series(session)
            for backlog in self._instance(sessions, marks, new_rows, now_ms, closed or {}, begun_ms):
                kept += len(backlog.seen.values) * len(backlog.numbers) if backlog.seen else 0
                # A backlog of any length must not be in memory at once: then it is read again, by slices.
                backlogs.append(backlog if kept <= SLICE_SAMPLES else backlog._replace(seen=None))
        blocked: set[str] = set()  # instances of which nothing more can be sent
        oldest_ms = now_ms - self._max_age_ms if self._max_age_ms else 0
        for begin_ms, until_ms in slices(backlogs, self._store.tiers):
            new: list[New] = []
            for instance, mine in groupby(backlogs, key=lambda b: instance_of(b.session.key)):
                if instance not in blocked:
                    new += self._read(mine, begin_ms, until_ms, blocked)
            yield from cut(new, delivered, oldest_ms, self._max_samples)

    def _series(self, session: Session) -> tuple[tuple[int, ...], SeriesSet]:
        """Numbers of the session's series that are wanted, and what they are sent as."""
        header = session.header
        numbers = tuple(
            number
            for number, series in enumerate(header.series)
            if self._wanted is None or self._wanted.matches(selector.labels_of(header, series))
        )
        labels = self._labels(header)
        return numbers, SeriesSet(
            tuple(header.series[number] for number in numbers), tuple(labels[number] for number in numbers)
        )

    def _new_rows(
        self, sessions: Iterable[Session], marks: Mapping[str, Mark], now_ms: int
    ) -> Mapping[Session, Rows]:
        """What sessions that go on have new up to SOON_MS ahead, as far as that is quickly said.

        Not of one that has ended: there the very last row matters, wherever it is.
        """
        if self._finest > 0:
            return {}
        going_on = (session for session in sessions if session.end is None and session.key in marks)
        after_ms = {session: marks[session.key].delivered_ms for session in going_on}
        return self._store.new_rows(after_ms, now_ms + SOON_MS)

    def _instance(
        self,
        sessions: list[Session],
        marks: Mapping[str, Mark],
        new_rows: Mapping[Session, Rows],
        now_ms: int,
        closed: Mapping[str, int],
        begun_ms: int,
    ) -> list[Backlog]:
        """The backlogs of an instance's sessions, in order of their start."""
        found: list[tuple[Session, Mark, Rows]] = []
        horizon_ms = now_ms + AHEAD_MS + 1
        for session in sessions:
            mark = marks.get(session.key, Mark())
            if mark.ended:
                continue
            try:
                rows = new_rows.get(session) or session.rows(self._finest, mark.delivered_ms)
            except StoreError as exc:
                if self._is_lost(session, exc):
                    continue
                return []  # what can be read later must not be overtaken
            if session in new_rows:
                horizon_ms = min(horizon_ms, now_ms + SOON_MS)
            if not self._is_closed(session, rows, now_ms, closed.get(session.key, 0)):
                horizon_ms = min(horizon_ms, int(rows.t_ms[-1]))
            found.append((session, mark, rows))
        return [
            self._backlog(session, sessions, mark, rows, now_ms, horizon_ms, begun_ms)
            for session, mark, rows in found
        ]

    def _backlog(
        self,
        session: Session,
        sessions: list[Session],
        mark: Mark,
        rows: Rows,
        now_ms: int,
        horizon_ms: int,
        begun_ms: int,
    ) -> Backlog:
        last_ms = int(rows.t_ms[-1]) if rows.t_ms.size else mark.delivered_ms
        end_ms = last_ms + 1 if session.end is not None else NO_END
        if rows.t_ms.size and last_ms > now_ms + AHEAD_MS:
            ahead = format_duration(last_ms - now_ms)
            self._say(session, f"ticks up to {ahead} ahead of the clock here are held back")
        numbers, series_set = self._sent[session.key]
        stretches_of_it = self._stretches(session, mark, rows, min(horizon_ms, last_ms + 1), begun_ms)
        return Backlog(
            session,
            mark,
            stretches_of_it,
            end_ms if end_ms < horizon_ms else NO_END,
            last_ms > 0 and not _goes_on(session, sessions, last_ms),
            series_set,
            numbers,
            rows if all(stretch.tier == self._finest for stretch in stretches_of_it) else None,
        )

    def _stretches(
        self, session: Session, mark: Mark, rows: Rows, until_ms: int, begun_ms: int
    ) -> tuple[Stretch, ...]:
        if not rows.t_ms.size:
            return ()
        tiers, first_ms, last_ms = self._store.tiers, int(rows.t_ms[0]), int(rows.t_ms[-1])
        if mark.delivered_ms:
            from_ms = mark.delivered_ms + 1
            return stretches(tiers, self._finest, last_ms, from_ms, until_ms, from_ms)
        # It cannot have begun before its start, but for a clock that lies; then tier 0 tells.
        start_ms = session.start_ms // tiers[-1].interval_ms * tiers[-1].interval_ms
        from_ms = max(begun_ms, min(start_ms, first_ms))
        return stretches(tiers, self._finest, last_ms, from_ms, until_ms, min(first_ms, from_ms))

    def _is_closed(self, session: Session, rows: Rows, now_ms: int, closed_through_ms: int) -> bool:
        """Whether the last row is closed; those before it are, for there is a later one."""
        if not rows.t_ms.size or session.end is not None:
            return True
        last_ms, interval_ms = int(rows.t_ms[-1]), self._store.tiers[self._finest].interval_ms
        is_long_past = (last_ms // interval_ms + 1) * interval_ms + SILENT_MS <= now_ms
        return is_long_past or (last_ms <= closed_through_ms and self._finest == 0)

    def _read(
        self, backlogs: Iterable[Backlog], begin_ms: int, until_ms: int, blocked: set[str]
    ) -> list[New]:
        """What an instance's sessions have in a slice."""
        new = []
        for backlog in backlogs:
            try:
                rows = backlog.read(begin_ms, until_ms, self._finest)
            except StoreError as exc:
                if self._is_lost(backlog.session, exc):
                    continue
                blocked.add(instance_of(backlog.session.key))
                return []
            has_end = begin_ms <= backlog.end_ms < until_ms
            if rows.t_ms.size or has_end:
                new.append(New(backlog, rows, has_end))
        return new

    def _is_lost(self, session: Session, exc: StoreError) -> bool:
        """Whether a session that cannot be read never will be."""
        if not session.path.is_dir():
            return True  # it expired while we looked
        self._say(session, f"cannot be read, and nothing of it is sent: {exc}")
        return exc.exit_code == EX_DATAERR

    def _say(self, session: Session, what: str) -> None:
        """Warn, once for each session in a process' life."""
        if session.key not in self._told:
            self._told.add(session.key)
            log.warning("%s: %s", session.key, what)


def _goes_on(session: Session, sessions: list[Session], last_ms: int) -> bool:
    """Whether the instance's next life goes on with its series, so that there is no marker between.

    One that began later but is over already was before us, and the clock was set back.
    """
    return any(
        session.start_ms < other.start_ms <= last_ms + 1 and (other.end is None or other.end.t_ms >= last_ms)
        for other in sessions
    )
