"""An aligned table without characters that mislead a terminal; or a JSON object per row.

Strategy: `table_lines` is for any reader, each field one word. `Page` is for people at a terminal: a table
of its width, whose text columns are narrowed, the widest first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from rondo_tools.catalog import escape
from rondo_tools.printable import encodable, printable
from rondo_tools.view import cells

_GAP = "  "
LEAST, LEAST_PROSE = 12, 16  # least cells of names, and of sentences

Columns = Mapping[str, Sequence[Any]]
"""Values by the name of their column; None is no value."""


def iso(t_ms: int) -> str | None:
    """``2026-11-23T10:00:00.123Z``; None for 0; milliseconds for a time that no calendar has."""
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
    """A line of names, then a line per row, each field one word; `-` is no value."""
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


class Column(NamedTuple):
    """Texts for people under a name; None is no value.

    `least` is its least width on a narrow page, None: it is never narrowed. `is_prose`: sentences, which are
    narrowed first.
    """

    name: str
    texts: Sequence[str | None]
    right: bool = False
    least: int | None = None
    is_prose: bool = False


class Page(NamedTuple):
    """A terminal: its width and height, and whether it may have colours."""

    width: int
    height: int
    encoding: str | None
    color: bool

    def text(self, text: str) -> str:
        """`text` without characters that this terminal would not show."""
        return encodable(printable(text), self.encoding)

    def name(self, text: str) -> str:
        """Any name as one word, which a selector's string reads back."""
        return self.text(escape(text)).replace(" ", "\\x20")

    def columns(self, columns: Columns, prose: str = "") -> list[Column]:
        """Columns of raw values: numbers to the right and never cut, texts as names except `prose`."""
        found = []
        for name, column in columns.items():
            is_number = all(isinstance(one, int | float | None) for one in column)
            least = LEAST_PROSE if name == prose else None if is_number else LEAST
            show = str if is_number or name == prose else self.name
            texts = [None if one is None else show(one) for one in column]
            found.append(Column(name, texts, is_number, least, name == prose))
        return found

    def fit(self, text: str, size: int, *, right: bool = False) -> str:
        mark = "…" if encodable("…", self.encoding) == "…" else "~"
        return cells.fit(text, size, right=right, mark=mark)

    def styled(self, text: str, style: str) -> str:
        return f"{style}{text}{cells.PLAIN}" if style and self.color else text

    def lines(self, columns: Sequence[Column], styles: Sequence[str] = ()) -> list[str]:
        """A line of names, then a line per row, none wider than the page; `styles` has a style per row.

        Prose is narrowed first, and left out if it would be narrower than its `least`; then names are cut,
        and the last columns are left out.
        """
        shown, sizes = self._that_fit([(one, [one.name, *map(self._cell, one.texts)]) for one in columns])
        head, *rows = (
            self.fit(
                _GAP.join(
                    self.fit(text, size, right=one.right)
                    for (one, _), text, size in zip(shown, row, sizes, strict=True)
                ),
                self.width,
            ).rstrip()
            for row in zip(*(texts for _, texts in shown), strict=True)
        )
        styled = zip(rows, styles or [""] * len(rows), strict=True)
        return [self.styled(head, cells.BOLD), *(self.styled(row, style) for row, style in styled)]

    def _cell(self, text: str | None) -> str:
        return self.text(text) if text else "-"

    def _that_fit(
        self, columns: list[tuple[Column, list[str]]]
    ) -> tuple[list[tuple[Column, list[str]]], list[int]]:
        """The columns that fit the page, and their widths."""
        while True:
            sizes = [max(map(cells.width, texts)) for _, texts in columns]
            over = sum(sizes) + len(_GAP) * (len(sizes) - 1) - self.width
            prose = [at for at, (one, _) in enumerate(columns) if one.is_prose]
            some = prose or range(len(columns))
            bounds = {at: least for at in some if (least := columns[at][0].least) is not None}
            if _narrow(sizes, bounds, over) >= over or len(columns) == 1:
                return columns, sizes
            del columns[prose[0] if prose else -1]


def _narrow(sizes: list[int], bounds: Mapping[int, int], over: int) -> int:
    """Narrow the columns that have a bound by `over` cells, the widest first; returns the cells saved."""
    done = 0
    while done < over:
        wide = [at for at, least in bounds.items() if sizes[at] > least]
        if not wide:
            break
        sizes[max(wide, key=sizes.__getitem__)] -= 1
        done += 1
    return done
