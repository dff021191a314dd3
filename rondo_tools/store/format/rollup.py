"""The roll-up: pure functions from ticks to the rows of a coarser tier.

The store calls them for closed journals, readers for ticks that are not rolled up yet; so both agree to the
last bit. Every coarse row is made of ticks, never of another average.

Strategy: rows become groups, one for each (session, window): the number of values of each gauge, their
sum, minimum and maximum, and the last value of each counter. Groups are joined in time order, so a window
may come in any number of pieces: an open window is kept as a group and joined with later ticks.
Sums are made value by value in time order (`bincount`), so pieces do not change a bit of the result.

NaN is "no value" and is skipped. A window in which the schema changed is one group in the union of
the schemas.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from rondo_tools.store.format.schema import AVG, LAST, MAX, MIN, Schema, places_in, union

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class Ticks(NamedTuple):
    """Ticks of one schema: `session` (n,), `t_ms` (n,), `values` (n, width). Times ascend in each session."""

    session: Ints
    t_ms: Ints
    values: Floats

    def only(self, wanted: Flags | npt.NDArray[np.intp]) -> Ticks:
        return Ticks(self.session[wanted], self.t_ms[wanted], self.values[wanted])


class Groups(NamedTuple):
    """The aggregates so far of (session, window) pairs.

    `t_ms` is the last tick's time. `n` (the number of values), `total`, `low`, `high` are (pairs, gauges);
    `last` is (pairs, counters), NaN if no tick had a value.
    """

    session: Ints
    window: Ints
    t_ms: Ints
    n: Ints
    total: Floats
    low: Floats
    high: Floats
    last: Floats

    @property
    def size(self) -> int:
        return self.session.size

    def only(self, wanted: Flags | Ints | npt.NDArray[np.intp]) -> Groups:
        return Groups._make(column[wanted] for column in self)


Columns = TypeVar("Columns", Ticks, Groups)


class CoarseRows(NamedTuple):
    """Rows of a coarse tier: `values` is (n, coarse_width) of the schema."""

    session: Ints
    t_ms: Ints
    values: Floats


def by_session(ticks: Ticks) -> Ticks:
    """Sort ticks by session, then time, and make each column of values contiguous: `Windows.add` is then
    fastest. It pays off if several tiers get the same ticks."""
    session = ticks.session
    if (session[1:] < session[:-1]).any():
        # A stable sort; on 16 bits it is a radix sort, which is far faster.
        narrow = session.astype(np.uint16) if int(session.max()) < 1 << 16 and session.min() >= 0 else session
        order = np.argsort(narrow, kind="stable")
        ticks = ticks.only(order)
    return ticks._replace(values=np.asfortranarray(ticks.values))


def groups_of(ticks: Ticks, interval_ms: int, schema: Schema) -> Groups:
    """Each tick as a group of its own."""
    gauges, counters = ticks.values[:, schema.gauges], ticks.values[:, schema.counters]
    missing = np.isnan(gauges)
    # Make every NaN a quiet one: the minimum of a number and a signalling NaN would be NaN.
    gauges = np.where(missing, np.nan, gauges)
    return Groups(
        ticks.session,
        ticks.t_ms // interval_ms,
        ticks.t_ms,
        (~missing).astype(np.int64),
        np.where(missing, 0.0, gauges),
        gauges,
        gauges,
        np.where(np.isnan(counters), np.nan, counters),
    )


def joined(parts: Sequence[Groups]) -> Groups:
    """One group for each (session, window), by session and window.

    The groups of a pair must come in time order, over the parts and in each part.
    """
    whole = concatenated(parts)
    if not whole.size:
        return whole
    if not _is_sorted(whole):
        whole = whole.only(np.lexsort((whole.window, whole.session)))  # stable
    is_first = np.ones(whole.size, np.bool_)
    is_first[1:] = (whole.session[1:] != whole.session[:-1]) | (whole.window[1:] != whole.window[:-1])
    first = np.flatnonzero(is_first)
    if first.size == whole.size:
        return whole
    final = np.append(first[1:], whole.size) - 1
    group = np.cumsum(is_first) - 1
    total = np.empty((first.size, whole.total.shape[1]))
    with np.errstate(all="ignore"):  # infinities and overflow are valid values
        for column in range(total.shape[1]):
            total[:, column] = np.bincount(group, weights=whole.total[:, column], minlength=first.size)
    return Groups(
        whole.session[first],
        whole.window[first],
        whole.t_ms[final],
        np.add.reduceat(whole.n, first, axis=0),
        total,
        np.fmin.reduceat(whole.low, first, axis=0),
        np.fmax.reduceat(whole.high, first, axis=0),
        _last_values(whole.last, first),
    )


def _no_groups(schema: Schema) -> Groups:
    none, gauges = np.empty(0, np.int64), np.empty((0, schema.gauges.size))
    counters = np.empty((0, schema.counters.size))
    return Groups(none, none, none, gauges.astype(np.int64), gauges, gauges, gauges, counters)


def concatenated(parts: Sequence[Columns]) -> Columns:
    """The ticks or groups of all parts, one after another."""
    return parts[0] if len(parts) == 1 else type(parts[0])(*map(np.concatenate, zip(*parts, strict=True)))


def _is_sorted(groups: Groups) -> bool:
    session, window = np.diff(groups.session), np.diff(groups.window)
    return not ((session < 0) | ((session == 0) & (window < 0))).any()


def _folded(ticks: Ticks, open: Groups, interval_ms: int, schema: Schema) -> Groups:
    """Groups of ticks, joined with the open windows that they continue, and the other open windows.

    The result equals `joined` with a group for each tick, to the last bit, but does not make those groups.
    """
    ticks = by_session(ticks)
    session, t_ms, values = ticks
    window = t_ms // interval_ms
    is_first = np.ones(session.size, np.bool_)
    is_first[1:] = (session[1:] != session[:-1]) | (window[1:] != window[:-1])
    first = np.flatnonzero(is_first)
    sizes = np.diff(first, append=session.size)
    final = first + sizes - 1
    group = np.repeat(np.arange(first.size), sizes)
    sessions, windows = session[first], window[first]

    # At most the first group of a session continues an open window.
    oldest = np.flatnonzero(np.diff(sessions, prepend=-1))
    group_of = np.full(max(int(sessions[-1]), int(open.session.max(initial=0))) + 1, -1)
    group_of[sessions[oldest]] = oldest
    at = group_of[open.session]
    goes_on = (at >= 0) & (windows[at] == open.window)
    before, at = open.only(goes_on), at[goes_on]
    group = np.concatenate((at, group))  # the open windows come first

    shape = first.size, schema.gauges.size
    n, total, low, high = np.empty(shape, np.int64), np.empty(shape), np.empty(shape), np.empty(shape)
    n[:] = sizes[:, np.newaxis]
    with np.errstate(all="ignore"):  # infinities and overflow are valid values
        for column, place in enumerate(schema.gauges.tolist()):
            gauge = summed = values[:, place]
            missing = np.isnan(gauge)
            if missing.any():
                n[:, column] -= np.bincount(group[at.size :][missing], minlength=first.size)
                # Make every NaN a quiet one: the minimum of a number and a signalling NaN would be NaN.
                gauge, summed = np.where(missing, np.nan, gauge), np.where(missing, 0.0, gauge)
            weights = np.concatenate((before.total[:, column], summed))
            total[:, column] = np.bincount(group, weights=weights, minlength=first.size)
            low[:, column] = np.fmin.reduceat(gauge, first)
            high[:, column] = np.fmax.reduceat(gauge, first)
    last = values[final[:, np.newaxis], schema.counters]
    for column in np.flatnonzero(np.isnan(last).any(axis=0)).tolist():
        counter = values[:, schema.counters[column : column + 1]]
        last[:, column] = _last_values(counter, first)[:, 0]
    n[at] += before.n
    low[at], high[at] = np.fmin(before.low, low[at]), np.fmax(before.high, high[at])
    last[at] = np.where(np.isnan(last[at]), before.last, last[at])
    made = Groups(sessions, windows, t_ms[final], n, total, low, high, last)
    return made if goes_on.all() else concatenated([open.only(~goes_on), made])


def _last_values(values: Floats, first: npt.NDArray[np.intp]) -> Floats:
    """The last value of each column that is no NaN, in each range of rows that begins at `first`."""
    at = np.where(np.isnan(values), -1, np.arange(len(values))[:, np.newaxis])
    newest = np.maximum.reduceat(at, first, axis=0)
    # In a range without a value `newest` is -1: take the first row, which has NaN.
    newest = np.where(newest < 0, first[:, np.newaxis], newest)
    return np.take_along_axis(values, newest, axis=0)


def coarse_rows(groups: Groups, schema: Schema) -> CoarseRows:
    """The rows of closed windows. Zeros have no sign, and all NaN have the same bits."""
    values = np.empty((groups.size, schema.coarse_width))
    with np.errstate(all="ignore"):
        values[:, schema.places[AVG]] = groups.total / groups.n
        values[:, schema.places[MIN]] = groups.low
        values[:, schema.places[MAX]] = groups.high
        values[:, schema.places[LAST]] = groups.last
        values += 0.0
    values[np.isnan(values)] = np.nan
    return CoarseRows(groups.session, groups.t_ms, values)


class Windows:
    """The open windows of one coarse tier: at most one for each session.

    `open` maps a schema to its groups. It may be stored, and given to another object.
    """

    def __init__(self, interval_ms: int, open: Mapping[Schema, Groups] | None = None) -> None:
        self.interval_ms = interval_ms
        self.open: dict[Schema, Groups] = dict(open or {})

    def add(self, ticks: Mapping[Schema, Ticks]) -> list[tuple[Schema, Groups]]:
        """Add ticks later than all earlier ones of their session; gives the windows that they close.

        A session may have ticks of several schemas in one call.
        """
        ticks = {schema: some for schema, some in ticks.items() if some.session.size}
        if not ticks:
            return []
        folded = self._fold(ticks) if len({*ticks, *self.open}) == 1 else self._fold_mixed(ticks)
        newest = _newest_windows(folded.values())
        self.open = {}
        closed: list[tuple[Schema, Groups]] = []
        for schema, groups in folded.items():
            is_open = groups.window == newest[groups.session]
            self._keep(schema, groups, is_open, closed)
        return closed

    def close(self, sessions: Ints) -> list[tuple[Schema, Groups]]:
        """Close the open windows of these sessions, and return them."""
        before, self.open = self.open, {}
        closed: list[tuple[Schema, Groups]] = []
        for schema, groups in before.items():
            self._keep(schema, groups, ~np.isin(groups.session, sessions), closed)
        return closed

    def _fold(self, ticks: Mapping[Schema, Ticks]) -> dict[Schema, Groups]:
        """For sessions with one schema each."""
        folded = dict(self.open)
        for schema, some in ticks.items():
            folded[schema] = _folded(
                some, self.open.get(schema, _no_groups(schema)), self.interval_ms, schema
            )
        return folded

    def _fold_mixed(self, ticks: Mapping[Schema, Ticks]) -> dict[Schema, Groups]:
        """Sessions with several schemas are folded tick by tick, the others by `_fold`."""
        present: dict[Schema, list[Ints]] = {schema: [groups.session] for schema, groups in self.open.items()}
        for schema, some in ticks.items():
            present.setdefault(schema, []).append(some.session)
        size = max(int(numbers.max()) for parts in present.values() for numbers in parts) + 1
        schemas = np.zeros(size, np.int64)
        for parts in present.values():
            has = np.zeros(size, np.bool_)
            for numbers in parts:
                has[numbers] = True
            schemas += has
        is_mixed = schemas > 1
        if not is_mixed.any():
            return self._fold(ticks)

        alone, ticks_alone = Windows(self.interval_ms), {}
        mixed: dict[Schema, list[Groups]] = {}
        for schema, groups in self.open.items():
            here = is_mixed[groups.session]
            alone.open[schema] = groups.only(~here)
            mixed[schema] = [groups.only(here)]
        for schema, some in ticks.items():
            here = is_mixed[some.session]
            one_each = groups_of(some.only(here), self.interval_ms, schema)
            mixed.setdefault(schema, []).append(one_each)
            if not here.all():
                ticks_alone[schema] = some.only(~here)
        folded = {schema: [groups] for schema, groups in alone._fold(ticks_alone).items()}
        for schema, pieces in _of_one_schema_each(mixed).items():
            folded.setdefault(schema, []).append(joined(pieces))
        return {schema: concatenated(pieces) for schema, pieces in folded.items()}

    def _keep(
        self, schema: Schema, groups: Groups, is_open: Flags, closed: list[tuple[Schema, Groups]]
    ) -> None:
        if is_open.any():
            self.open[schema] = groups.only(is_open)
        if not is_open.all():
            closed.append((schema, groups.only(~is_open)))


def _newest_windows(all_groups: Iterable[Groups]) -> Ints:
    """The newest window of each session, by session number."""
    all_groups = list(all_groups)
    size = max((int(groups.session.max()) for groups in all_groups if groups.size), default=-1) + 1
    newest = np.full(size, -1, np.int64)
    for groups in all_groups:
        np.maximum.at(newest, groups.session, groups.window)
    return newest


def _of_one_schema_each(parts: Mapping[Schema, list[Groups]]) -> dict[Schema, list[Groups]]:
    """Give each (session, window) with several schemas the union of these schemas, in time order."""
    whole = {schema: concatenated(groups) for schema, groups in parts.items()}
    pairs = {
        schema: np.unique(np.stack((groups.session, groups.window), axis=1), axis=0)
        for schema, groups in whole.items()
    }
    found, counts = np.unique(np.concatenate(list(pairs.values())), axis=0, return_counts=True)
    mixed = {(int(session), int(window)) for session, window in found[counts > 1]}
    if not mixed:
        return {schema: [groups] for schema, groups in whole.items()}
    sessions = np.array(sorted({session for session, _ in mixed}), np.int64)
    left: dict[Schema, list[Groups]] = {}
    pieces_of: dict[tuple[int, int], list[tuple[int, Schema, Groups]]] = {}
    for schema, groups in whole.items():
        is_mixed = np.zeros(groups.size, np.bool_)
        for at in np.flatnonzero(np.isin(groups.session, sessions)).tolist():
            pair = int(groups.session[at]), int(groups.window[at])
            if pair in mixed:
                is_mixed[at] = True
                one = groups.only(np.array([at]))
                pieces_of.setdefault(pair, []).append((int(one.t_ms[0]), schema, one))
        if not is_mixed.all():
            left.setdefault(schema, []).append(groups.only(~is_mixed))
    for pieces in pieces_of.values():
        pieces.sort(key=lambda piece: piece[0])
        all_series = union([schema for _, schema, _ in pieces])
        left.setdefault(all_series, []).append(
            joined([widened(groups, schema, all_series) for _, schema, groups in pieces])
        )
    return left


def widened(groups: Groups, part: Schema, whole: Schema) -> Groups:
    """Groups of one schema as groups of a union with it: the other series have no value."""
    if part is whole:
        return groups
    at = places_in(part, whole, 0)
    gauges = np.searchsorted(whole.gauges, at[part.gauges])
    counters = np.searchsorted(whole.counters, at[part.counters])
    n = groups.size

    def spread(values: npt.NDArray[np.generic], to: npt.NDArray[np.intp], width: int, fill: float) -> Floats:
        made = np.full((n, width), fill, values.dtype)
        made[:, to] = values
        return made

    wide = whole.gauges.size
    return groups._replace(
        n=spread(groups.n, gauges, wide, 0).astype(np.int64),
        total=spread(groups.total, gauges, wide, 0.0),
        low=spread(groups.low, gauges, wide, np.nan),
        high=spread(groups.high, gauges, wide, np.nan),
        last=spread(groups.last, counters, whole.counters.size, np.nan),
    )
