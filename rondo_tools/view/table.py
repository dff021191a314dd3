"""A table for people, aligned and with nothing in it that misleads a terminal; or a JSON object a row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rondo_tools.printable import encodable, printable

Columns = Mapping[str, Sequence[Any]]
"""Values by the name of their column; None is no value."""


def iso(t_ms: int) -> str | None:
    """``2026-11-23T10:00:00.123Z``; 0 is no time, and what no calendar has is told in milliseconds."""
    if not t_ms:
        return None
    try:
        text = datetime.fromtimestamp(t_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return f"{t_ms}ms"
    return f"{text}.{t_ms % 1000:03}Z"


def seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000


def json_lines(columns: Columns) -> list[str]:
    rows = zip(*columns.values(), strict=True)
    return [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]


def table_lines(columns: Columns, encoding: str | None) -> list[str]:
    """A line of names, then a line a row, each field one word; `-` is no value."""
    shown = [[name, *(_word(one, encoding) for one in column)] for name, column in columns.items()]
    numbers = [all(isinstance(one, int | float | None) for one in column) for column in columns.values()]
    widths = [max(map(len, column)) for column in shown]
    return [
        "  ".join(
            text.rjust(width) if is_number else text.ljust(width)
            for text, width, is_number in zip(row, widths, numbers, strict=True)
        ).rstrip()
        for row in zip(*shown, strict=True)
    ]


def _word(value: Any, encoding: str | None) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:.1f}"
    return encodable(printable(str(value)).replace(" ", "\\x20"), encoding)
