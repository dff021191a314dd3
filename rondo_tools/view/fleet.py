"""The fleet: every VM of a store and its current measures, updated with each look.

Strategy: the first look reads the ticks of the range, each later one the new ticks. So its cost depends on
the news, not on the size of the store. A session has a row, or one for each value of a label of its series.
Rows of one look are processed together, as columns. The increase of each counter is computed by itself, so
that a counter that restarts or disappears does not distort a sum.

The range is divided into buckets (`buckets`): by default a minute into seconds. If it is longer than the
journals reach back, it begins with rows of a coarse tier. An ended VM is kept for the range; if there are
very many, the oldest are dropped earlier.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rondo_tools.catalog import Series
from rondo_tools.selector import Selector, rest_of
from rondo_tools.store.format.frames import Rows
from rondo_tools.store.format.records import LOST, EndRecord, SessionKey, SessionRecord
from rondo_tools.store.format.schema import AVG, LAST, Schema
from rondo_tools.store.reader import Session, Store
from rondo_tools.view.buckets import BUCKETS, Buckets, Numbers, Sums, Values
from rondo_tools.view.columns import in_order, means, rates
from rondo_tools.view.measures import MEASURES, Part, Plan, make_plan
from rondo_tools.view.state import SILENT, running_or_silent

MINUTE_MS = 60_000
_NOW_MS = 1000  # current rates are taken over the latest ticks of this length
_MARGIN_MS = 10_000  # before the range: the increase of its first tick needs the tick before
_MOST_ENDED = 10_000
_MOST_PLANS = 1024
_MORE_ROWS = 256

EVERYTHING = Selector(())

log = logging.getLogger(__name__)


class VM:
    """One session. `rows` are the numbers of its rows in the fleet, by the value of the label."""

    __slots__ = (
        "before", "end_ms", "instance", "interval_ms", "labels", "last_ms", "plan", "reason", "rest", "rows",
        "start_ms",
    )  # fmt: skip

    def __init__(self, one: Session | SessionRecord, rest: Selector) -> None:
        self.instance, self.start_ms = one.instance, one.start_ms
        self.interval_ms, self.labels = one.interval_ms, one.labels
        self.rest = rest  # of the selector, for its series
        self.last_ms = 0  # its newest processed tick
        self.plan: Plan | None = None
        self.before: Values | None = None  # the counters at that tick, in the plan's order
        self.rows: dict[str, int] = {}
        self.reason: str | None = None
        self.end_ms = 0

    def state(self, now_ms: int) -> str:
        """How it ended, or `running` or `silent`."""
        return self.reason or running_or_silent(self.interval_ms, now_ms - (self.last_ms or self.start_ms))


class View(NamedTuple):
    """The result of a look: columns with an entry for each row of the fleet.

    `now` (n, MEASURES) has the rates and gauges at the last tick, NaN without a value or for a silent VM.
    `sums` are the sums of the range.
    """

    now_ms: int
    vms: list[VM]
    values: list[str]  # of the label, if one was asked for
    states: list[str]
    now: Values
    known: npt.NDArray[np.bool_]  # (n, MEASURES): which measures it has
    sums: Sums
    born: int  # sessions that began within the range, and that ended
    ended: int
    new: list[VM]  # VMs that appeared since the last look; in the first look all
    over: list[VM]  # VMs that ended since the last look


class Fleet:
    """The VMs of `store` with series that match `selector`, as `look` finds them.

    `range_ms` is the range of the sums. With `label` a VM has a row for each value of it in its series.
    """

    def __init__(
        self,
        store: Store,
        selector: Selector = EVERYTHING,
        *,
        range_ms: int = MINUTE_MS,
        label: str | None = None,
    ) -> None:
        self._store, self._selector, self._label = store, selector, label
        bucket_ms = max(1, -(-range_ms // BUCKETS))
        self.range_ms = bucket_ms * BUCKETS
        self._buckets = Buckets(bucket_ms)
        self._vms: dict[SessionKey, VM] = {}
        self._plans: dict[tuple[Schema, Selector], Plan] = {}
        self._owner: list[tuple[VM, str] | None] = []  # by row
        self._free: list[int] = []
        self._now = np.zeros((0, len(MEASURES)))
        self._known = np.zeros((0, len(MEASURES)), np.bool_)
        self._new: list[VM] = []  # since the last look
        self._over: list[VM] = []
        self._is_first = True
        self._has_left_out = False
        self._old_ms = 0  # older ticks are not needed

    @np.errstate(all="ignore")  # infinities and overflow are valid values
    def look(self, now_ms: int) -> View:
        """Process the news since the last look. Raises StoreError."""
        self._old_ms = now_ms - self.range_ms
        self._new, self._over = [], []
        if self._is_first:
            self._is_first = False
            self._begin()
        for news in self._store.news():
            for schema, rows in in_order(news.ticks):
                self._take_rows(news.sessions, schema, rows)
            for end in news.ends:
                self._take_end(news.sessions, end)
        self._forget_ended(now_ms)
        return self._view(now_ms)

    def _begin(self) -> None:
        begin_ms, tiers = self._old_ms - _MARGIN_MS, self._store.tiers
        if self.range_ms <= tiers[0].span_ms or len(tiers) == 1:
            sessions = self._store.recent(begin_ms)
        else:
            tier = next((n for n, one in enumerate(tiers) if one.span_ms >= self.range_ms), len(tiers) - 1)
            sessions = self._take_history(tier, begin_ms - tiers[tier].interval_ms)
        for session in sessions:
            vm = self._vm(session) if session.end is None else None
            if vm is not None:
                if not vm.rows:
                    self._plan(vm, session.header.series)
                vm.last_ms = vm.last_ms or (session.last_ms if session.last_ms <= begin_ms else 0)

    def _vm(self, one: Session | SessionRecord) -> VM | None:
        found = self._vms.get(one.key)
        if found is None:
            rest = rest_of(self._selector, one.instance, one.labels)
            if rest is None:
                return None
            found = self._vms[one.key] = VM(one, rest)
        return found

    def _plan(self, vm: VM, series: tuple[Series, ...], schema: Schema | None = None) -> Plan:
        """The plan for a VM's ticks with these series; makes it the VM's plan."""
        plan = None if schema is None else self._plans.get((schema, vm.rest))
        if plan is None:
            plan = make_plan(series, vm.rest, self._label)
            if schema is not None:
                if len(self._plans) >= _MOST_PLANS:
                    self._plans.clear()
                self._plans[schema, vm.rest] = plan
        if vm.plan is not plan:
            vm.before = _carried_over(vm, plan)
            vm.plan = plan
            for part in plan.parts:
                row = self._row(vm, part)  # may grow the columns
                self._known[row] |= part.known
        return plan

    def _row(self, vm: VM, part: Part) -> int:
        row = vm.rows.get(part.value)
        if row is None:
            if not self._free:
                self._grow()
            if not vm.rows:
                self._new.append(vm)
            row = vm.rows[part.value] = self._free.pop()
            self._owner[row] = vm, part.value
            self._now[row], self._known[row] = np.nan, False
            self._buckets.clear(row)
        return row

    def _grow(self) -> None:
        before = len(self._owner)
        more = max(_MORE_ROWS, before // 2)
        self._owner += [None] * more
        self._free += range(before + more - 1, before - 1, -1)
        self._buckets.grow(before + more)
        self._now = np.concatenate((self._now, np.full((more, len(MEASURES)), np.nan)))
        self._known = np.concatenate((self._known, np.zeros((more, len(MEASURES)), np.bool_)))

    # --- news ----------------------------------------------------------------------------------------

    def _take_rows(
        self, sessions: Mapping[int, SessionRecord], schema: Schema, rows: Rows, tier: int = 0
    ) -> None:
        """Process ticks of many sessions, of one schema, or rows of a coarse tier."""
        step_ms = self._store.tiers[tier].interval_ms if tier else 0
        rows = rows[rows["t_ms"] > self._old_ms - max(_MARGIN_MS, step_ms)]
        rows = rows[np.argsort(rows["session"], kind="stable")]
        numbers, first = np.unique(rows["session"], return_index=True)
        size = np.diff(first, append=rows.size)
        values = rows["values"]
        if tier:
            values = values[:, [n for n, one in enumerate(schema.coarse) if one.aggregate in (LAST, AVG)]]
        by_plan: dict[int, tuple[Plan, list[VM], list[int]]] = {}
        for at, number in enumerate(numbers.tolist()):
            record = sessions.get(number)
            vm = None if record is None else self._vm(record)
            if vm is not None:
                plan = self._plan(vm, schema.series, schema)
                by_plan.setdefault(id(plan), (plan, [], []))[1].append(vm)
                by_plan[id(plan)][2].append(at)
        for plan, vms, places in by_plan.values():
            if len(places) < numbers.size:
                mine = np.repeat(np.isin(np.arange(numbers.size), places), size)
                self._take(plan, vms, size[places], rows["t_ms"][mine], values[mine], step_ms)
            else:
                self._take(plan, vms, size, rows["t_ms"], values, step_ms)

    def _take_history(self, tier: int, since_ms: int) -> list[Session]:
        """Process rows of a coarse tier, from before the journals begin. Returns the sessions since then."""
        sessions, files = self._store.history(tier, since_ms)
        ended = sorted((one for one in sessions if one.end is not None), key=lambda one: one.last_ms)
        self._leave_out(len(ended) - _MOST_ENDED)
        ended = ended[max(len(ended) - _MOST_ENDED, 0) :]
        wanted = {one.key for one in (*ended, *(one for one in sessions if one.end is None))}
        for news in files:
            some = {number: record for number, record in news.sessions.items() if record.key in wanted}
            for schema, rows in in_order(news.ticks):
                self._take_rows(some, schema, rows, tier)
        for session in ended:
            vm, end = self._vms.get(session.key), session.end
            if vm is not None and end is not None:
                vm.reason, vm.end_ms = end.reason, end.t_ms
        return sessions

    def _take(
        self, plan: Plan, vms: list[VM], size: Numbers, t_ms: Numbers, values: Values, step_ms: int = 0
    ) -> None:
        """Process ticks of `vms`, in time order; `size` is the number of each VM's ticks. They are `step_ms`
        apart, or by the VMs' intervals if it is 0."""
        if not plan.parts:
            return
        which = np.repeat(np.arange(len(vms)), size)
        last_ms = np.array([vm.last_ms for vm in vms], np.int64)
        late = t_ms > last_ms[which]
        late[1:] &= (t_ms[1:] > t_ms[:-1]) | (which[1:] != which[:-1])
        if not late.all():
            which, t_ms, values = which[late], t_ms[late], values[late]
            there, which = np.unique(which, return_inverse=True)
            vms, last_ms = [vms[at] for at in there.tolist()], last_ms[there]
        if not t_ms.size:
            return
        first = np.flatnonzero(np.diff(which, prepend=-1))
        final = np.append(first[1:], t_ms.size) - 1
        counters = values[:, plan.counters]
        before_ms = np.concatenate(([0], t_ms[:-1]))
        before = np.concatenate((np.zeros((1, counters.shape[1])), counters[:-1]))
        before_ms[first], before[first] = _before(vms, t_ms[first], counters.shape[1], step_ms)
        took_ms = t_ms - before_ms
        increase = np.where(counters < before, counters, counters - before)
        increase[took_ms <= 0] = 0
        increase[~np.isfinite(increase)] = 0
        took_ms = np.maximum(took_ms, 0)
        latest = t_ms > np.maximum(t_ms[final][which] - _NOW_MS, 0)
        for part in plan.parts:
            rows = np.array([vm.rows[part.value] for vm in vms], np.int64)
            grew = increase @ part.counters
            gauge = means(values[:, plan.gauges], part.gauges)
            self._buckets.add(rows[which], t_ms, took_ms, grew, gauge)
            self._now[rows] = np.hstack((rates(grew, took_ms, latest, which, first), gauge[final]))
        for vm, newest_ms, kept in zip(vms, t_ms[final].tolist(), counters[final], strict=True):
            vm.last_ms, vm.before = newest_ms, kept.copy()
            if vm.reason == LOST:
                vm.reason = None

    def _take_end(self, sessions: Mapping[int, SessionRecord], end: EndRecord) -> None:
        record = sessions.get(end.number)
        vm = None if record is None else self._vms.get(record.key)
        if vm is None or (end.reason == LOST and (vm.reason is not None or vm.last_ms > end.last_ms)):
            return
        if vm.reason is None and vm.rows:
            self._over.append(vm)
        vm.reason, vm.end_ms = end.reason, end.t_ms

    def _forget_ended(self, now_ms: int) -> None:
        """Forget VMs that ended before the range, sessions that are no VMs, and the oldest of very many."""
        ended = sorted(
            (max(vm.end_ms, vm.last_ms), key)
            for key, vm in self._vms.items()
            if vm.reason is not None or not vm.rows
        )
        many = len(ended) - _MOST_ENDED
        self._leave_out(sum(end_ms > now_ms - self.range_ms for end_ms, _ in ended[: max(many, 0)]))
        for at, (end_ms, key) in enumerate(ended):
            if end_ms <= now_ms - self.range_ms or at < many:
                for row in self._vms.pop(key).rows.values():
                    self._owner[row] = None
                    self._free.append(row)

    def _leave_out(self, count: int) -> None:
        if count > 0 and not self._has_left_out:
            self._has_left_out = True
            log.warning("more than %d VMs ended in the range: the oldest are left out", _MOST_ENDED)

    # --- the view ------------------------------------------------------------------------------------

    def _view(self, now_ms: int) -> View:
        found = [(row, owner) for row, owner in enumerate(self._owner) if owner is not None]
        rows = np.array([row for row, _ in found], np.int64)
        vms = [vm for _, (vm, _) in found]
        states = [vm.state(now_ms) for vm in vms]
        now = self._now[rows]
        now[[state == SILENT for state in states]] = np.nan
        whole = [vm for vm in self._vms.values() if vm.rows]
        return View(
            now_ms,
            vms,
            [value for _, (_, value) in found],
            states,
            now,
            self._known[rows],
            self._buckets.sums(rows, now_ms, 0),
            sum(vm.start_ms > self._old_ms for vm in whole),
            sum(vm.reason is not None for vm in whole),
            self._new,
            self._over,
        )


def _before(vms: list[VM], t_ms: Numbers, width: int, step_ms: int) -> tuple[Numbers, Values]:
    """The time of each VM's tick before the one at `t_ms`, and its counters then.

    They are 0 at a session's start. If the tick before is not known, the same tick is used.
    """
    before = np.zeros((len(vms), width))
    before_ms = t_ms.copy()
    for at, (vm, first_ms) in enumerate(zip(vms, t_ms.tolist(), strict=True)):
        if vm.before is not None:
            before[at], before_ms[at] = vm.before, vm.last_ms
        elif first_ms - vm.start_ms <= 3 * (step_ms or vm.interval_ms) // 2:
            before_ms[at] = vm.start_ms
    return before_ms, before


def _carried_over(vm: VM, plan: Plan) -> Values | None:
    """A VM's counters in the order of another plan; NaN for new ones."""
    if vm.plan is None or vm.before is None:
        return None
    known = dict(zip(vm.plan.series, vm.before.tolist(), strict=True))
    return np.array([known.get(one, np.nan) for one in plan.series])
