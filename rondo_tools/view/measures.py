"""Measures: the numbers that a view shows of a VM, each computed from series with known names.

Strategy: a plan assigns the columns of one schema to measures; it is computed once and shared by all VMs
with that schema. For a label of series (`reason`), a plan has a part for each of its values. A session
without any of these series is no VM, such as the store's own metrics or a fed text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rondo_tools.catalog import COUNTER, Series
from rondo_tools.selector import Selector, matching_series


class Measure(NamedTuple):
    """The sum of the series with one name: the first of `names` that a VM has."""

    name: str
    names: tuple[str, ...]
    is_counter: bool = True


COUNTERS = (
    Measure("exits", ("vcpu_exits_total",)),
    Measure("requests", ("blk_requests_total",)),
    Measure("bytes", ("blk_bytes_total",)),
    Measure("cpu", ("vmm_cpu_seconds_total", "vcpu_cpu_seconds_total")),
    Measure("steal", ("vcpu_wait_seconds_total",)),
    Measure("net", ("net_bytes_total",)),
)
GAUGES = (
    Measure("latency", ("blk_request_duration_ns",), is_counter=False),
    Measure("rss", ("vmm_rss_bytes",), is_counter=False),
)
MEASURES = (*COUNTERS, *GAUGES)
NUMBER = {measure.name: number for number, measure in enumerate(MEASURES)}


class Part(NamedTuple):
    """The measures of the series with this `value` of a label, or of all series.

    `counters` (columns, COUNTERS) and `gauges` (columns, GAUGES) are 1 if a column is part of a measure,
    else 0; `known` (MEASURES) is True for the measures that there are.
    """

    value: str
    counters: npt.NDArray[np.float64]
    gauges: npt.NDArray[np.float64]
    known: npt.NDArray[np.bool_]


class Plan(NamedTuple):
    """The columns of a schema's rows that are counters and gauges of measures, and the parts of the plan."""

    series: tuple[Series, ...]  # those of `counters`
    counters: npt.NDArray[np.intp]
    gauges: npt.NDArray[np.intp]
    parts: tuple[Part, ...]


def make_plan(series: Sequence[Series], selector: Selector, label: str | None) -> Plan:
    """The plan for a schema's series that match `selector`, with a part for each value of `label` (None:
    one for all). Without any measure it has no parts."""
    wanted = set(matching_series(tuple(series), selector))
    chosen = {
        number: _of(series, wanted, measure, is_counter=measure.is_counter)
        for number, measure in enumerate(MEASURES)
    }
    measure_of = {column: number for number, columns in chosen.items() for column in columns}
    counters = [column for column in sorted(measure_of) if measure_of[column] < len(COUNTERS)]
    gauges = [column for column in sorted(measure_of) if measure_of[column] >= len(COUNTERS)]
    values = {column: dict(series[column].labels).get(label, "") if label else "" for column in measure_of}
    parts = []
    for value in sorted(set(values.values())):
        mine = {column: number for column, number in measure_of.items() if values[column] == value}
        known = np.zeros(len(MEASURES), np.bool_)
        known[list(mine.values())] = True
        parts.append(
            Part(
                value,
                _matrix(counters, mine, 0, len(COUNTERS)),
                _matrix(gauges, mine, len(COUNTERS), len(GAUGES)),
                known,
            )
        )
    return Plan(
        tuple(series[column] for column in counters),
        np.array(counters, np.intp),
        np.array(gauges, np.intp),
        tuple(parts),
    )


def _of(series: Sequence[Series], wanted: set[int], measure: Measure, *, is_counter: bool) -> list[int]:
    for name in measure.names:
        found = [
            number
            for number in wanted
            if series[number].name == name and (series[number].kind == COUNTER) == is_counter
        ]
        if found:
            return found
    return []


def _matrix(
    columns: Iterable[int], measure_of: dict[int, int], first: int, size: int
) -> npt.NDArray[np.float64]:
    rows = [[float(measure_of.get(column) == first + number) for number in range(size)] for column in columns]
    return np.array(rows, np.float64).reshape(len(rows), size)
