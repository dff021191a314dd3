"""The columns of top: their texts, and the selection that fits into a width.

Strategy: each column has a rank; the columns of the lowest ranks that fit are shown, in a fixed order. A
measure that no VM has is no column. Names and the line of the last minute get the remaining width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from rondo_tools.printable import encodable
from rondo_tools.query.names import word
from rondo_tools.query.top.rows import Numbers, Rows
from rondo_tools.units import format_duration
from rondo_tools.view import cells
from rondo_tools.view.measures import NUMBER

MISSING = "-"
_NAME, _LONGEST_NAME = 12, 64  # cells
_SPARK, _WHOLE_SPARK = 12, 60


class Look(NamedTuple):
    """How to draw: with or without `unicode` and `color`. `range_ms` is the range of sums, None: rates."""

    unicode: bool = True
    color: bool = True
    range_ms: int | None = None
    by: str | None = None
    encoding: str | None = "utf-8"


class Column(NamedTuple):
    """A column with a higher `rank` is left out sooner. `text` takes a row's number."""

    key: str
    heading: str
    size: int
    rank: int
    text: Callable[[int], str]
    right: bool = True


def all_columns(rows: Rows, look: Look, chosen: Numbers) -> list[Column]:
    """All columns; the name is as wide as the widest one of the chosen rows."""
    names = [shown(name, look) for name in rows.names]
    heading = shown(look.by.upper(), look) if look.by else "VM"
    longest = max(cells.width(heading), *(cells.width(names[row]) for row in chosen.tolist()), 2)
    each = "" if look.range_ms else "/s"

    def value(name: str, show: Callable[[float], str]) -> Callable[[int], str]:
        column, known = rows.values[:, NUMBER[name]], rows.known[:, NUMBER[name]]
        return lambda row: show(float(column[row])) if known[row] else MISSING

    def latency(ns: float) -> str:
        return cells.latency(ns, ascii_only=not look.unicode)

    used = cells.seconds if look.range_ms else cells.percent
    over = format_duration(look.range_ms) if look.range_ms else "minute"
    measured = (
        Column("exits", f"EXITS{each}", 9, 1, value("exits", cells.amount)),
        Column("requests", f"DISK{each}", 8, 8, value("requests", cells.amount)),
        Column("bytes", f"DISK B{each}", 9, 7, value("bytes", cells.amount)),
        Column("latency", "LATENCY", 8, 9, value("latency", latency)),
        Column("cpu", "CPU", 6, 4, value("cpu", used)),
        Column("steal", "STEAL", 6, 10, value("steal", used)),
        Column("net", f"NET B{each}", 8, 11, value("net", cells.amount)),
        Column("rss", "RSS", 6, 5, value("rss", cells.bytes_)),
    )
    known = np.logical_or.reduce(rows.known, axis=0)
    about = (
        [Column("vms", "VMS", 6, 2, lambda row: str(rows.vms[row]))]
        if look.by
        else [
            Column("state", "STATE", 8, 2, lambda row: shown(rows.states[row], look), right=False),
            Column("age", "AGE", 4, 3, lambda row: cells.age(int(rows.age_ms[row]))),
        ]
    )
    found = [
        Column("name", heading, longest, 0, names.__getitem__, right=False),
        *about,
        *(one for one in measured if known[NUMBER[one.key]]),
    ]
    if known[NUMBER["exits"]]:
        found.append(
            Column(
                "spark",
                f"LAST {over.upper()}",
                _WHOLE_SPARK,
                6,
                spark(rows, look, _WHOLE_SPARK),
                right=False,
            )
        )
    return found


def fitting(every: Sequence[Column], width: int, rows: Rows, look: Look) -> list[Column]:
    """The columns that fit into `width` cells, with a cell between them."""
    taken, left = {"name"}, width - _NAME
    for one in sorted(every, key=lambda one: one.rank):
        size = _SPARK if one.key == "spark" else one.size
        if one.key != "name" and size + 1 <= left:
            taken.add(one.key)
            left -= size + 1
    found = []
    for one in every:
        if one.key == "name":
            size = min(max(one.size, _NAME), _LONGEST_NAME, _NAME + left)
            left -= size - _NAME
            found.append(one._replace(size=min(size, width)))
        elif one.key == "spark" and one.key in taken:
            size = max(size for size in (_SPARK, 15, 20, 30, _WHOLE_SPARK) if size <= _SPARK + left)
            left -= size - _SPARK
            found.append(one._replace(size=size, text=spark(rows, look, size)))
        elif one.key in taken:
            found.append(one)
    return found


def spark(rows: Rows, look: Look, size: int) -> Callable[[int], str]:
    blocks = cells.BLOCKS if look.unicode else cells.ASCII_BLOCKS
    return lambda row: cells.sparkline(rows.spark[row].tolist(), rows.newest, size, blocks)


def shown(text: str, look: Look) -> str:
    """`text` as one harmless word."""
    return encodable(word(text), look.encoding) or MISSING
