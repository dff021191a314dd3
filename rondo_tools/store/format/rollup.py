"""The roll-up: pure functions from ticks to the rows of a coarser tier.

The store calls it when journals are rolled up, readers for what is not rolled up yet; so all of them
agree to the last bit. Every coarse row comes from ticks, never from another average.

Strategy: rows become groups, one for each (session, window): how many values each gauge has, their
sum, minimum and maximum, and each counter's last value. Groups are joined in time order, so a window
may come in any number of pieces: what is open is kept as a group and joined with what comes later.
Sums are made value by value in time order (`bincount`), so pieces do not change a bit of the result.

NaN is "no value" and is skipped. A window in which the schema changed is one group in the union of
the schemas.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rondo_tools.store.format.schema import AVG, LAST, MAX, MIN, Schema, places_in, union

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class Ticks(NamedTuple):
    """Ticks of one schema: `session` (n,), `t_ms` (n,), `values` (n, width); times of a session ascend."""

    session: Ints
    t_ms: Ints
    values: Floats


class Groups(NamedTuple):
    """Of (session, window) pairs, what their ticks come to, so far.

    `t_ms` is the last tick's time. `n` (how many values), `total`, `low`,
    `high` are (pairs, gauges); `last` is
    (pairs, counters), NaN where no tick had a value.
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
        return Groups(*(column[wanted] for column in self))  # type: ignore[arg-type]


class CoarseRows(NamedTuple):
    """Rows of a coarse tier: `values` is (n, coarse_width) of the schema."""

    session: Ints
    t_ms: Ints
    values: Floats


def groups_of(ticks: Ticks, interval_ms: int, schema: Schema) -> Groups:
    """Each tick as a group of its own."""
    gauges, counters = ticks.values[:, schema.gauges], ticks.values[:, schema.counters]
    missing = np.isnan(gauges)
    # One NaN for all: the minimum of a number and a signalling NaN would be NaN.
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

    Of each pair, groups come in time order, over the parts and in each of them.
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
    with np.errstate(all="ignore"):  # infinities and overflow are values like others
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


def concatenated(parts: Sequence[Groups]) -> Groups:
    """The groups of all parts, one after another."""
    return parts[0] if len(parts) == 1 else Groups(*map(np.concatenate, zip(*parts, strict=True)))


def _is_sorted(groups: Groups) -> bool:
    session, window = np.diff(groups.session), np.diff(groups.window)
    return not ((session < 0) | ((session == 0) & (window < 0))).any()


def _last_values(values: Floats, first: npt.NDArray[np.intp]) -> Floats:
    """Of each stretch of rows that begins at `first`, the last value of each column that is no NaN."""
    at = np.where(np.isnan(values), -1, np.arange(len(values))[:, np.newaxis])
    newest = np.maximum.reduceat(at, first, axis=0)
    # Where a stretch has no value, `newest` is -1: any row of the stretch then gives its NaN.
    newest = np.where(newest < 0, first[:, np.newaxis], newest)
    return np.take_along_axis(values, newest, axis=0)


def coarse_rows(groups: Groups, schema: Schema) -> CoarseRows:
    """The rows of closed windows. Zero has no sign, and all NaN have the same bits."""
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
    """The open windows of one coarse tier: at most one a session.

    `open` maps a schema to its groups. It may be taken as it is, kept, and given back.
    """

    def __init__(self, interval_ms: int, open: Mapping[Schema, Groups] | None = None) -> None:
        self.interval_ms = interval_ms
        self.open: dict[Schema, Groups] = dict(open or {})

    def add(self, ticks: Mapping[Schema, Ticks]) -> list[tuple[Schema, Groups]]:
        """Add ticks, later than all that a session had; gives the windows that they close.

        A session's ticks of several schemas may be given at once.
        """
        parts = {schema: [groups] for schema, groups in self.open.items()}
        for schema, some in ticks.items():
            parts.setdefault(schema, []).append(groups_of(some, self.interval_ms, schema))
        if len(parts) > 1:
            parts = _of_one_schema_each(parts)
        folded = {schema: joined(groups) for schema, groups in parts.items()}
        newest = _newest_windows(folded.values())
        self.open = {}
        closed: list[tuple[Schema, Groups]] = []
        for schema, groups in folded.items():
            is_open = groups.window == newest[groups.session]
            self._keep(schema, groups, is_open, closed)
        return closed

    def close(self, sessions: Ints) -> list[tuple[Schema, Groups]]:
        """Close the windows of sessions that are over; gives those that were open."""
        before, self.open = self.open, {}
        closed: list[tuple[Schema, Groups]] = []
        for schema, groups in before.items():
            self._keep(schema, groups, ~np.isin(groups.session, sessions), closed)
        return closed

    def _keep(
        self, schema: Schema, groups: Groups, is_open: Flags, closed: list[tuple[Schema, Groups]]
    ) -> None:
        if is_open.any():
            self.open[schema] = groups.only(is_open)
        if not is_open.all():
            closed.append((schema, groups.only(~is_open)))


def _newest_windows(all_groups: Iterable[Groups]) -> Ints:
    """By session number, the newest window."""
    all_groups = list(all_groups)
    size = max((int(groups.session.max()) for groups in all_groups if groups.size), default=-1) + 1
    newest = np.full(size, -1, np.int64)
    for groups in all_groups:
        np.maximum.at(newest, groups.session, groups.window)
    return newest


def _of_one_schema_each(parts: Mapping[Schema, list[Groups]]) -> dict[Schema, list[Groups]]:
    """Put each (session, window) that has groups of several schemas into their union, in time order."""
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
    """Groups of one schema as those of a union with it: what it has not had no value."""
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
