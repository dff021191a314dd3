"""A tail for people: a table with fixed columns, of the terminal's width, with as many VMs as it has lines.

Strategy: like vmstat, names are printed above the first line and again once per screen. A series that
appears later gets a column if one fits. If there are more VMs than lines, some are shown, and a quiet one is
replaced by another. A message, printed once, names what is left out.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from typing import TextIO

from rondo_tools.catalog import Series
from rondo_tools.query.face import Face
from rondo_tools.query.tail import Life, Line
from rondo_tools.view import cells
from rondo_tools.view.table import Page

_GAP = "  "
_LEAST, _LONGEST_NAME = 8, 24  # least width of a column, most of a name, in cells
_QUIET_MS = 10_000
_DAY_MS = 86_400_000
_DATE, _SECONDS, _MILLISECONDS = (
    len("2026-11-23T"),
    len("2026-11-23T10:00:00"),
    len("2026-11-23T10:00:00.000"),
)
_EXACT = 1e15  # a whole float64 below this is printed as an integer

log = logging.getLogger(__name__)


class TailTable:
    """Writes lines to `out`, which is a terminal with the properties of `page`."""

    def __init__(self, out: TextIO, page: Page, face: Face, now_ms: int, *, rate: bool) -> None:
        self._out, self._page, self._face, self._rate = out, page, face, rate
        self._day_ago_ms = now_ms - _DAY_MS  # earlier times are shown with their date
        self._time_from, self._time_to = _DATE, _SECONDS  # the shown part of a time
        self._name_width = _LEAST
        self._columns: dict[Series, int] = {}  # the width of each
        self._left_out_series: set[Series] = set()
        self._shown: dict[str, tuple[int, int]] = {}  # by shown instance: newest tick, interval
        self._has_left_out = False  # VMs, and it was logged
        self._rows = 0  # since the names were written

    def write(self, lines: Sequence[Line]) -> None:
        self._choose_instances(lines)
        lines = [line for line in lines if line.session.instance in self._shown]
        if not lines:
            return
        self._make_columns(lines)
        for line in lines:
            if self._rows % max(1, self._page.height - 3) == 0:
                self._write_names()
            self._rows += 1
            self._write_row(line)

    def _choose_instances(self, lines: Sequence[Line]) -> None:
        newest_ms = max((line.t_ms for line in lines), default=0)
        self._shown = {
            name: (t_ms, interval_ms)
            for name, (t_ms, interval_ms) in self._shown.items()
            if t_ms >= newest_ms - max(_QUIET_MS, 3 * interval_ms)
        }
        most = max(1, self._page.height - 4)
        lives: dict[str, Life] = {line.session.instance: line.session for line in lines}
        left_out = set()
        for name in sorted(lives):
            if name not in self._shown and len(self._shown) >= most:
                left_out.add(name)
                continue
            self._shown[name] = newest_ms, lives[name].interval_ms
        if left_out and not self._has_left_out:
            self._has_left_out = True
            message = "%d VMs are shown, %d are left out (a selector chooses, top shows all)"
            log.info(message, len(self._shown), len(left_out))

    def _make_columns(self, lines: Sequence[Line]) -> None:
        before = self._time_width, self._name_width, len(self._columns)
        if any(line.session.interval_ms % 1000 for line in lines):
            self._time_to = _MILLISECONDS
        if any(line.t_ms < self._day_ago_ms for line in lines):
            self._time_from = 0
        longest = max(cells.width(self._page.name(line.session.instance)) for line in lines)
        self._name_width = max(self._name_width, min(longest, _LONGEST_NAME))
        left_out = len(self._left_out_series)
        for series in dict.fromkeys(one for line in lines for one in line.series):
            if series not in self._columns and series not in self._left_out_series:
                width = max(_LEAST, *(cells.width(text) for text in self._names(series)))
                if self._columns and self._width() + len(_GAP) + width > self._page.width:
                    self._left_out_series.add(series)
                else:
                    self._columns[series] = width
        while (
            len(self._columns) > 1 and self._width() > self._page.width
        ):  # a longer instance name has appeared
            self._left_out_series.add(self._columns.popitem()[0])
        if len(self._left_out_series) > left_out:
            log.info(
                "%d of %d series fit into %d columns (a selector chooses, --wide shows all)",
                len(self._columns),
                len(self._columns) + len(self._left_out_series),
                self._page.width,
            )
        if before != (self._time_width, self._name_width, len(self._columns)):
            self._rows = 0

    @property
    def _time_width(self) -> int:
        return self._time_to - self._time_from

    def _width(self) -> int:
        widths = [self._time_width, self._name_width, *self._columns.values()]
        return sum(widths) + len(_GAP) * (len(widths) - 1)

    def _names(self, series: Series) -> tuple[str, str]:
        """The series' name, and its labels for the line below."""
        labels = ",".join(f"{name}={self._page.name(value)}" for name, value in series.labels)
        return series.name, labels

    def _write_names(self) -> None:
        self._rows = 0
        names = [self._names(series) for series in self._columns]
        self._write("time", "instance", [name for name, _ in names], cells.BOLD)
        if any(labels for _, labels in names):
            self._write("", "", [labels for _, labels in names], cells.BOLD)

    def _write_row(self, line: Line) -> None:
        values = dict(zip(line.series, line.values, strict=True))
        fields = [self._number(one, values[one]) if one in values else "" for one in self._columns]
        time = self._face.time(line.t_ms)[self._time_from : self._time_to].replace("T", " ")
        self._write(time, self._page.name(line.session.instance), fields)

    def _write(self, time: str, name: str, fields: Iterable[str], style: str = "") -> None:
        page = self._page
        row = [page.fit(time, self._time_width), page.fit(name, self._name_width)]
        row += [
            page.fit(field, width, right=True)
            for field, width in zip(fields, self._columns.values(), strict=True)
        ]
        self._out.write(page.styled(page.fit(_GAP.join(row), page.width).rstrip(), style) + "\n")

    def _number(self, series: Series, value: float) -> str:
        if math.isnan(value):
            return "-"
        if series.unit == "bytes":
            return cells.bytes_(value)
        if series.unit == "ns" and not self._rate:
            return cells.latency(value, ascii_only=self._page.text("µ") != "µ")
        return f"{value:.0f}" if abs(value) < _EXACT and value == round(value) else f"{value:.6g}"
