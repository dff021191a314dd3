"""What Grafana asks a Prometheus for, of a dashboard's JSON: for the dashboards' tests and picture.

Grafana itself is not needed for that: the variables in an expression, the step and the interval of a
rate follow from the panel, the time range and the width, by the rules that its manual gives.
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
POINTS = 1000  # of a panel: its width in pixels

Json = dict[str, Any]


class QueryError(Exception):
    """Prometheus' words for why it does not answer."""


class Range(NamedTuple):
    """The time that is shown, in Unix seconds."""

    start_s: float
    end_s: float


class Query(NamedTuple):
    """One target of one panel, as it is sent."""

    panel: Json
    target: Json
    expression: str
    step_s: int  # 0 for an instant query


def load(path: Path) -> Json:
    dashboard: Json = json.loads(path.read_text())
    return dashboard


def panels(dashboard: Json) -> list[Json]:
    """All panels but the rows."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def seconds(interval: str) -> int:
    """``10s``, ``5m``, as they stand in a dashboard."""
    number, unit = re.fullmatch(r"(\d+)([smh])", interval).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "m": 60, "h": 3600}[unit]


def queries(dashboard: Json, shown: Range, variables: Mapping[str, str] = ALL) -> Iterator[Query]:
    """What a look at the dashboard sends."""
    for panel in panels(dashboard):
        for target in panel["targets"]:
            yield _query(panel, target, shown, variables)


def _query(panel: Json, target: Json, shown: Range, variables: Mapping[str, str]) -> Query:
    range_s = round(shown.end_s - shown.start_s)
    # "Min step" of a query is also what Grafana takes for the time between two samples.
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
    """Put values in the place of variables. Raises KeyError for one that there is not."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda match: variables[match[1] or match[2]], text)


def run(url: str, query: Query, shown: Range) -> list[Json]:
    """The series that a Prometheus at `url` answers with. Raises QueryError."""
    if query.step_s == 0:
        return ask(url, "query", query=query.expression, time=shown.end_s)
    # Grafana aligns a range with its step.
    start_s, end_s = (at_s // query.step_s * query.step_s for at_s in shown)
    return ask(url, "query_range", query=query.expression, start=start_s, end=end_s, step=query.step_s)


def label_values(url: str, query: str, shown: Range, variables: Mapping[str, str] = ALL) -> list[str]:
    """The values that a variable offers: ``label_values(SELECTOR, LABEL)``. Raises QueryError."""
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
