"""Grafana's queries for a dashboard's JSON: for the dashboards' tests and picture.

Grafana itself is not needed: the variables in an expression, the step and the interval of a rate follow from
the panel, the time range and the width, by the rules in its manual.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from devtools import ROOT

FOLDER = ROOT / "deploy" / "grafana"
DASHBOARDS = sorted(FOLDER.glob("*.json"))

ALL = {"job": ".*", "instance": ".*", "resolution": "1s"}
POINTS = 1000  # the width of a panel in pixels

Json = dict[str, Any]


class QueryError(Exception):
    """A query failed, with Prometheus' message."""


class Range(NamedTuple):
    """The displayed range, in Unix seconds."""

    start_s: float
    end_s: float


class Query(NamedTuple):
    """One target of one panel, ready to send."""

    panel: Json
    target: Json
    expression: str
    step_s: int  # 0 for an instant query


def load(path: Path) -> Json:
    dashboard: Json = json.loads(path.read_text())
    return dashboard


def panels(dashboard: Json) -> list[Json]:
    """All panels except rows."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def seconds(interval: str) -> int:
    """The seconds of ``10s`` or ``5m`` in a dashboard."""
    number, unit = re.fullmatch(r"(\d+)([smh])", interval).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "m": 60, "h": 3600}[unit]


def queries(dashboard: Json, shown: Range, variables: Mapping[str, str] = ALL) -> Iterator[Query]:
    """The queries of one view of the dashboard."""
    for panel in panels(dashboard):
        for target in panel["targets"]:
            yield _query(panel, target, shown, variables)


def _query(panel: Json, target: Json, shown: Range, variables: Mapping[str, str]) -> Query:
    range_s = round(shown.end_s - shown.start_s)
    # Grafana also uses a query's "Min step" as the time between two samples.
    sample_s = seconds(fill(target.get("interval", "15s"), variables))
    step_s = max(sample_s, seconds(panel.get("interval", "1s")), -(-range_s // POINTS))
    known = {
        **variables,
        "__range": f"{range_s}s",
        "__interval": f"{step_s}s",
        "__rate_interval": f"{max(step_s + sample_s, 4 * sample_s)}s",
    }
    return Query(panel, target, fill(target["expr"], known), 0 if target.get("instant") else step_s)


def fill(text: str, variables: Mapping[str, str]) -> str:
    """Replace variables by their values. Raises KeyError for an unknown one."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda match: variables[match[1] or match[2]], text)


def run(url: str, query: Query, shown: Range) -> list[Json]:
    """The series in the answer of the Prometheus at `url`. Raises QueryError."""
    if query.step_s == 0:
        return ask(url, "query", query=query.expression, time=shown.end_s)
    # Grafana aligns a range with its step.
    start_s, end_s = (at_s // query.step_s * query.step_s for at_s in shown)
    return ask(url, "query_range", query=query.expression, start=start_s, end=end_s, step=query.step_s)


def label_values(url: str, query: str, shown: Range, variables: Mapping[str, str] = ALL) -> list[str]:
    """The values of a variable: ``label_values(SELECTOR, LABEL)``. Raises QueryError."""
    selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", query).groups()  # type: ignore[union-attr]
    matching = {"match[]": fill(selector, variables), "start": shown.start_s, "end": shown.end_s}
    values: list[str] = _get(f"{url}/api/v1/label/{label}/values?{urllib.parse.urlencode(matching)}")
    return values


def ask(url: str, path: str, **parameters: str | float) -> list[Json]:
    """The `result` of ``query`` or ``query_range``. Raises QueryError."""
    data = _get(f"{url}/api/v1/{path}", urllib.parse.urlencode(parameters).encode())
    series: list[Json] = data["result"]
    return series


def _get(url: str, body: bytes | None = None) -> Any:
    try:
        with urllib.request.urlopen(url, body, timeout=300) as answer:
            return json.load(answer)["data"]
    except urllib.error.HTTPError as exc:
        with exc:
            raise QueryError(exc.read().decode(errors="replace")) from exc
