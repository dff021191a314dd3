"""Top's screen: handles keys, and makes the lines for a size. It does not know the terminal.

Strategy: a frame is a list of lines, each exactly as wide as the screen, so that the terminal can compare
them and draw only changed ones.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rondo_tools.printable import encodable
from rondo_tools.query.names import word
from rondo_tools.query.top.columns import MISSING, Column, Look, all_columns, fitting
from rondo_tools.query.top.rows import SORTS, Numbers, Order, Rows, Summary
from rondo_tools.units import format_duration
from rondo_tools.view import cells
from rondo_tools.view.measures import NUMBER

HELP = (
    "Left Right < >  choose the column to sort by",
    "r               reverse the order",
    "/               only VMs with this in their name or state; Enter ends it, Esc clears it",
    "Up Down PgUp PgDn Home   scroll",
    "p, Space        pause, and continue",
    "c               choose the columns",
    "h, ?            this help",
    "q, Ctrl-C       quit",
)
_HINTS = "q quit  < > sort  r reverse  / filter  p pause  c columns  h help"


class Frame(NamedTuple):
    """The data to draw."""

    rows: Rows
    summary: Summary
    now_ms: int


class Screen:
    """The state chosen by keys. `most` is the greatest number of rows."""

    def __init__(self, order: Order, look: Look, title: str, most: int | None = None) -> None:
        self.order, self.look, self.most = order, look, most
        self.title = encodable(word(title), look.encoding)
        self.is_paused = self.is_over = False
        self.filter = ""
        self.message = ""
        self._mode = ""  # "", "filter", "columns", "help"
        self._hidden: set[str] = set()
        self._scrolled = 0
        self._page = 1
        self._fitting: list[str] = []  # keys of the last drawn columns
        self._choices: list[str] = []

    # --- keys ----------------------------------------------------------------------------------------

    def press(self, key: str) -> None:
        """Handle a key: a character, or left, right, up, down, pageup, pagedown, home, esc, enter,
        backspace."""
        if self._mode == "filter":
            self._press_in_filter(key)
        elif self._mode == "columns" and key != "q":
            self._press_in_columns(key)
        elif self._mode == "help" and key != "q":
            self._mode = ""
        elif key == "q":
            self.is_over = True
        elif key in ("left", "<", "right", ">"):
            self._move_sort(-1 if key in ("left", "<") else 1)
        elif key == "r":
            self.order = self.order._replace(reverse=not self.order.reverse)
        elif key == "esc":
            self.filter = ""
        elif key in ("/", "c", "h", "?"):
            self._mode = {"/": "filter", "c": "columns"}.get(key, "help")
        elif key in ("p", " "):
            self.is_paused = not self.is_paused
        elif key in ("up", "down", "pageup", "pagedown", "home"):
            by = {"up": -1, "down": 1, "pageup": -self._page, "pagedown": self._page}.get(key)
            self._scrolled = 0 if by is None else max(0, self._scrolled + by)

    def _press_in_filter(self, key: str) -> None:
        if key in ("enter", "esc"):
            self._mode = ""
            self.filter = self.filter if key == "enter" else ""
        elif key == "backspace":
            self.filter = self.filter[:-1]
        elif len(key) == 1 and key.isprintable() and len(self.filter) < 200:
            self.filter += key
        self._scrolled = 0

    def _press_in_columns(self, key: str) -> None:
        at = "123456789abcdef".find(key) if len(key) == 1 else -1
        if 0 <= at < len(self._choices):
            self._hidden ^= {self._choices[at]}
        else:
            self._mode = ""

    def _move_sort(self, by: int) -> None:
        shown = [key for key in self._fitting if key in SORTS] or list(SORTS)
        at = shown.index(self.order.by) if self.order.by in shown else -by
        self.order = Order(shown[(at + by) % len(shown)], self.order.reverse)

    # --- lines ---------------------------------------------------------------------------------------

    def lines(self, frame: Frame, width: int, height: int) -> list[str]:
        """`height` lines of `width` cells each, besides the escapes for colours."""
        chosen = self.chosen(frame.rows)
        most = max(0, height - 4)
        self._page = max(1, most - 1)
        self._scrolled = max(0, min(self._scrolled, chosen.size - most))
        shown = chosen[self._scrolled : self._scrolled + most]
        columns = self._columns(frame.rows, chosen, width)
        lines = [
            f"{cells.BOLD}{cells.fit(self._first(frame), width)}{cells.PLAIN}",
            cells.fit(self._second(frame, chosen.size), width),
            f"{cells.REVERSE}{cells.fit(self._headings(columns, marked=True), width)}{cells.PLAIN}",
        ]
        if self._mode == "help":
            lines += [cells.fit(line, width) for line in HELP[:most]]
        else:
            lines += [self._colored(frame.rows, row, self._line(columns, row), width) for row in shown]
        lines += [" " * width] * (height - 1 - len(lines))
        return [*lines[: max(0, height - 1)], cells.fit(self._last(), width)][-height:]

    def table(self, rows: Rows) -> list[str]:
        """All columns of the chosen rows, as lines without colours, for --once."""
        chosen = self.chosen(rows)
        columns = self._columns(rows, chosen, None)
        return [
            line.rstrip()
            for line in (self._headings(columns), *(self._line(columns, row) for row in chosen.tolist()))
        ]

    def summary(self, frame: Frame) -> list[str]:
        """The fleet in two lines."""
        return [self._first(frame), self._second(frame, len(frame.rows.names))]

    def chosen(self, rows: Rows) -> Numbers:
        """The numbers of the rows to show, in order."""
        chosen = self.order.numbers(rows)
        if self.filter:
            low = self.filter.lower()
            there = [low in rows.names[n].lower() or low in rows.states[n] for n in chosen.tolist()]
            chosen = chosen[np.array(there, np.bool_)]
        return chosen if self.most is None else chosen[: self.most]

    def _first(self, frame: Frame) -> str:
        one = frame.summary
        clock = time.strftime("%H:%M:%S", time.localtime(frame.now_ms / 1000))
        over = format_duration(self.look.range_ms) if self.look.range_ms else "minute"
        silent = f"  silent {one.silent}" if one.silent else ""
        paused = "  PAUSED" if self.is_paused else ""
        return (
            f"rondo top  {clock}{paused}  running {one.running}{silent}  "
            f"last {over}: began {one.born}, ended {one.ended}  {self.title}"
        )

    def _second(self, frame: Frame, count: int) -> str:
        one, each = frame.summary, "" if self.look.range_ms else "/s"
        cpu = "s" if self.look.range_ms else ""
        texts = []
        for name, before, after in (
            ("exits", "exits ", each),
            ("requests", "disk ", each),
            ("bytes", "", f"B{each}"),
            ("cpu", "CPU ", cpu),
            ("net", "net ", f"B{each}"),
            ("rss", "RSS ", ""),
        ):
            if one.known[NUMBER[name]]:
                value = float(one.values[NUMBER[name]])
                text = cells.bytes_(value) if name == "rss" else cells.amount(value)
                texts.append(f"{before}{text}{after}" if text != MISSING else f"{before}{text}")
        if self.filter or self._mode == "filter":
            texts.append(f"filter {word(self.filter)!r}: {count}")
        return "  ".join(texts)

    def _last(self) -> str:
        if self._mode == "filter":
            return f"/{word(self.filter)}_"
        if self._mode == "columns":
            marks = zip("123456789abcdef", self._choices, strict=False)
            return "  ".join(f"{mark}{'-' if key in self._hidden else '+'}{key}" for mark, key in marks)
        return self.message or _HINTS

    def _headings(self, columns: Sequence[Column], *, marked: bool = False) -> str:
        """The names of the columns; `marked` marks the one of the order."""
        mark = ("▾▴" if self.look.unicode else "*^")[self.order.reverse]
        texts = [one.heading + mark * (marked and one.key == self.order.by) for one in columns]
        padded = zip(columns, texts, strict=True)
        return " ".join(cells.fit(text, one.size, right=one.right) for one, text in padded)

    def _line(self, columns: Sequence[Column], row: int) -> str:
        return " ".join(cells.fit(one.text(row), one.size, right=one.right) for one in columns)

    def _colored(self, rows: Rows, row: int, line: str, width: int) -> str:
        line = cells.fit(line, width)
        style = cells.style_of(rows.states[row]) if self.look.color else ""
        return f"{style}{line}{cells.PLAIN}" if style else line

    def _columns(self, rows: Rows, chosen: Numbers, width: int | None) -> list[Column]:
        """The columns that fit into `width`; None: all."""
        every = all_columns(rows, self.look, chosen)
        self._choices = [one.key for one in every[1:]]
        every = [one for one in every if one.key not in self._hidden]
        if width is None:
            return every
        found = fitting(every, width, rows, self.look)
        self._fitting = [one.key for one in found]
        return found
