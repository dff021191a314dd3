"""The data of top, as columns: a row for each VM, or for each value of a label, in an order.

Strategy: this module does not know screens or units. A view of the fleet becomes rows; rows are selected
and sorted by their numbers.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rondo_tools.errors import RondoError, UsageError
from rondo_tools.query.damage import EX_NOTHING
from rondo_tools.query.output import format_number
from rondo_tools.query.times import format_times
from rondo_tools.view.buckets import Values
from rondo_tools.view.fleet import VM, View
from rondo_tools.view.measures import NUMBER
from rondo_tools.view.state import RUNNING, SILENT

LINGER_MS = 10_000  # an ended VM is shown for so long; with a range, for the range

_MEANS = (NUMBER["latency"],)  # a group has the mean of these, and the sum of the others
# Fields for programs: the name per second, the name over a range, and the factor of the first.
_FIELDS = (
    ("exits", "exits_per_s", "exits", 1),
    ("requests", "disk_requests_per_s", "disk_requests", 1),
    ("bytes", "disk_bytes_per_s", "disk_bytes", 1),
    ("latency", "disk_latency_ns", "disk_latency_ns", 1),
    ("cpu", "cpu_percent", "cpu_seconds", 100),
    ("steal", "steal_percent", "steal_seconds", 100),
    ("net", "net_bytes_per_s", "net_bytes", 1),
    ("rss", "rss_bytes", "rss_bytes", 1),
)
Numbers = npt.NDArray[np.int64]
SORTS = ("exits", "requests", "bytes", "latency", "cpu", "steal", "net", "rss", "age", "state", "name")


class Rows(NamedTuple):
    """`values` (n, MEASURES) are rates and gauges, or sums over the range and means; NaN is no value.
    `known` is True for the measures that a row has. `vms` is the number of VMs of a row."""

    names: list[str]
    states: list[str]
    start_ms: Numbers
    age_ms: Numbers
    vms: Numbers
    values: Values
    known: npt.NDArray[np.bool_]
    spark: Values
    newest: int  # the number of the last bucket of `spark`, counted since 1970


class Summary(NamedTuple):
    """The fleet in a few numbers; `values` are those of all VMs together."""

    running: int
    silent: int
    born: int
    ended: int
    values: Values
    known: npt.NDArray[np.bool_]


class Order(NamedTuple):
    """By one of SORTS; the largest first, names and states in alphabetical order."""

    by: str = "exits"
    reverse: bool = False

    def numbers(self, rows: Rows) -> Numbers:
        """The numbers of the rows in this order; equal ones by name, rows without a value last."""
        by_name = np.array(sorted(range(len(rows.names)), key=rows.names.__getitem__), np.int64)
        if self.by in ("name", "state"):
            words = rows.names if self.by == "name" else rows.states
            order = sorted(by_name.tolist(), key=words.__getitem__, reverse=self.reverse)
            return np.array(order, np.int64)
        column = rows.age_ms.astype(float) if self.by == "age" else rows.values[:, NUMBER[self.by]]
        key = column[by_name] * (1 if self.reverse else -1)
        return by_name[np.argsort(key, kind="stable")]  # NaN comes last


def parse_order(text: str, *, reverse: bool) -> Order:
    """The order of --sort and --reverse. Raises UsageError."""
    if text not in SORTS:
        raise UsageError(f"--sort {text}: choose one of {', '.join(SORTS)}")
    return Order(text, reverse)


def rows_of(view: View, *, is_range: bool) -> Rows:
    """A row for each visible row of the view."""
    shown = [
        at
        for at, vm in enumerate(view.vms)
        if is_range or vm.reason is None or max(vm.end_ms, vm.last_ms) > view.now_ms - LINGER_MS
    ]
    vms = [view.vms[at] for at in shown]
    return Rows(
        [vm.instance for vm in vms],
        [view.states[at] for at in shown],
        np.array([vm.start_ms for vm in vms], np.int64),
        np.array([_age_ms(vm, view.now_ms) for vm in vms], np.int64),
        np.ones(len(vms), np.int64),
        _values(view, is_range=is_range)[shown],
        view.known[shown],
        _spark(view)[shown],
        view.sums.newest,
    )


def must_have(view: View, label: str) -> None:
    """Raises RondoError (EX_NOTHING) if there are VMs, and neither they nor their series have the label."""
    if view.vms and not any(_keys(view, label)):
        known = sorted({"instance", *(name for vm in view.vms for name, _ in vm.labels)})
        raise RondoError(
            f"--by {label}: no VM or series has that label; the VMs have {', '.join(known)}",
            exit_code=EX_NOTHING,
        )


def _keys(view: View, label: str) -> list[str]:
    return [
        value or (vm.instance if label == "instance" else dict(vm.labels).get(label, ""))
        for vm, value in zip(view.vms, view.values, strict=True)
    ]


def grouped(view: View, label: str, *, is_range: bool) -> Rows:
    """A row for each value of a label of the VMs or their series; "" is none."""
    keys = _keys(view, label)
    live = [at for at, vm in enumerate(view.vms) if is_range or vm.reason is None]
    names = sorted({keys[at] for at in live})
    place = {name: number for number, name in enumerate(names)}
    which = np.array([place[keys[at]] for at in live], np.int64)
    values = _values(view, is_range=is_range)[live]
    return Rows(
        names,
        ["" for _ in names],
        np.zeros(len(names), np.int64),
        _greatest(which, np.array([_age_ms(view.vms[at], view.now_ms) for at in live], np.int64), len(names)),
        np.bincount(which, minlength=len(names)).astype(np.int64),
        _together(which, values, len(names), means=_MEANS),
        _together(which, np.where(view.known[live], 1.0, np.nan), len(names)) > 0,
        _together(which, _spark(view)[live], len(names)),
        view.sums.newest,
    )


def summary(view: View, *, is_range: bool) -> Summary:
    running = {id(vm) for vm, state in zip(view.vms, view.states, strict=True) if state == RUNNING}
    silent = {id(vm) for vm, state in zip(view.vms, view.states, strict=True) if state == SILENT}
    some = [at for at, vm in enumerate(view.vms) if is_range or vm.reason is None]
    values = _values(view, is_range=is_range)[some]
    which = np.zeros(len(some), np.int64)
    total = _together(which, values, 1, means=_MEANS)[0]
    known = np.logical_or.reduce(view.known, axis=0)
    return Summary(len(running), len(silent), view.born, view.ended, total, known)


def fields(rows: Rows, chosen: Numbers, *, by: str | None, is_range: bool) -> dict[str, list[Any]]:
    """Columns for programs, of the chosen rows; None is no value."""
    numbers = chosen.tolist()
    found: dict[str, list[Any]] = {by or "instance": [rows.names[row] for row in numbers]}
    if by is None:
        found["session"] = format_times([int(rows.start_ms[row]) for row in numbers])
        found["state"] = [rows.states[row] for row in numbers]
        found["age_s"] = [_number(rows.age_ms[row] / 1000) for row in numbers]
    else:
        found["vms"] = [int(rows.vms[row]) for row in numbers]
    for name, over_a_second, over_a_range, factor in _FIELDS:
        column = rows.values[:, NUMBER[name]] * (1 if is_range else factor)
        found[over_a_range if is_range else over_a_second] = [_number(float(column[row])) for row in numbers]
    return found


def _number(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    if math.isinf(value):
        return format_number(value)
    return int(value) if value == int(value) else round(value, 6)


def _values(view: View, *, is_range: bool) -> Values:
    values = np.hstack((view.sums.increase, view.sums.mean)) if is_range else view.now
    return np.where(view.known, values, np.nan)


def _spark(view: View) -> Values:
    return np.where(view.known[:, [NUMBER["exits"]]], view.sums.spark, np.nan)


def _age_ms(vm: VM, now_ms: int) -> int:
    """The VM's age, or its age at its end."""
    return max(0, (now_ms if vm.reason is None else max(vm.end_ms, vm.last_ms)) - vm.start_ms)


def _together(which: Numbers, values: Values, size: int, means: tuple[int, ...] = ()) -> Values:
    """The sums, or means, of the rows of each group; NaN if no row has a value."""
    there = ~np.isnan(values)
    total, count = np.zeros((size, values.shape[1])), np.zeros((size, values.shape[1]))
    with np.errstate(all="ignore"):  # infinities and overflow are valid values
        np.add.at(total, which, np.where(there, values, 0))
    np.add.at(count, which, there)
    result = np.where(count > 0, total, np.nan)
    for column in means:
        result[:, column] /= np.maximum(count[:, column], 1)
    return result


def _greatest(which: Numbers, column: Numbers, size: int) -> Numbers:
    found = np.zeros(size, np.int64)
    np.maximum.at(found, which, column)
    return found
