"""The Prometheus text format, version 0.0.4: the answers of /federate and /metrics."""

from __future__ import annotations

import math
from collections.abc import Iterable

from rondo_tools.catalog import COUNTER, Series, escape
from rondo_tools.selector import NAME
from rondo_tools.serve.timelines import Sample

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def expose(samples: Iterable[Sample], note: str = "") -> str:
    """The samples with their times, grouped by name, without NaN. `note` is the first line."""
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        if not math.isnan(sample.value):
            by_name.setdefault(sample.series.name, []).append(sample)
    lines = [f"# {note}"] if note else []
    for name in sorted(by_name):
        lines += header(by_name[name][0].series)
        for sample in by_name[name]:
            labels = ",".join(f'{label}="{escape(value)}"' for label, value in sample.labels if label != NAME)
            lines.append(f"{name}{{{labels}}} {number(sample.value)} {sample.t_ms}")
    return "\n".join([*lines, ""])


def header(series: Series) -> list[str]:
    kind = "counter" if series.kind == COUNTER else "gauge"
    help = series.help.replace("\\", "\\\\").replace("\n", "\\n")
    return [f"# HELP {series.name} {help}", f"# TYPE {series.name} {kind}"]


def number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(int(value)) if value.is_integer() and abs(value) < 1 << 53 else repr(value)
