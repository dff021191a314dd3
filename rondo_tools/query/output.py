"""Samples and records as text: a table for people and awk, CSV, or one JSON object per line.

Strategy: a curve is written line by line, so the output is never in memory as a whole. A number is printed
so that it reads back to the same float64, an integer without ".0". "No value" is `NaN` in a table, because
no field is empty there; empty in CSV; null in JSON. In a table every field is one word, which a selector's
string reads back, even if the output's encoding lacks some of its characters. Output for programs is UTF-8
in any locale.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from rondo_tools.catalog import Series, escape
from rondo_tools.printable import ERRORS, encodable, printable
from rondo_tools.query.face import Face
from rondo_tools.query.names import word

if TYPE_CHECKING:
    from rondo_tools.query.curve import Curve
    from rondo_tools.query.tail import Line

SAMPLE = ("time", "session", "series", "value")  # the columns of a table and of CSV
_SPECIAL = {"inf": "+Inf", "-inf": "-Inf"}


def format_number(value: float, no_value: str = "NaN") -> str:
    """The shortest text that reads back to `value`; infinities as Prometheus writes them."""
    text = repr(value)
    if text.endswith(".0"):
        return text if text == "-0.0" else text[:-2]  # "-0" would be read back as the integer 0
    return _SPECIAL.get(text, text) if text != "nan" else no_value


def make_utf8(out: TextIO) -> None:
    """Switch `out` to UTF-8, for output for programs."""
    if isinstance(out, io.TextIOWrapper):
        out.reconfigure(encoding="utf-8", errors=ERRORS)


class SampleWriter:
    """Writes curves to `out`, as table, csv or json; times in the format `face`.

    The names of the columns are written with the first sample: without samples, nothing is written.
    """

    def __init__(
        self, out: TextIO, format: str, face: Face, *, names: Iterable[str], labels: Sequence[str]
    ) -> None:
        """`names` are the names of the curves, for the width of a table's column. `labels` are the labels of
        all curves; CSV has a column for each."""
        self._out = out
        self._format = format
        self._labels = labels
        self._face, self._session_face = face, face._replace(elapsed=False)
        self._series_width = 0
        if format == "table":
            self._series_width = max((len(self._word(name)) for name in names), default=0)
        else:
            make_utf8(out)
        self.samples = 0

    def write(self, curve: Curve) -> None:
        times = self._face.times(curve.t_ms.tolist())
        session = None if curve.start_ms is None else self._session_face.time(curve.start_ms)
        if self._format == "json":
            self._json(curve, times, session)
        elif self._format == "csv":
            self._csv(curve, times, session)
        else:
            self._table(curve, times, session)
        self.samples += len(times)

    def _table(self, curve: Curve, times: list[str], session: str | None) -> None:
        if not self.samples:
            self._out.write(self._line(*SAMPLE))
        name = self._word(curve.name)
        self._out.writelines(
            self._line(time, session or "-", name, format_number(value))
            for time, value in zip(times, curve.values.tolist(), strict=True)
        )

    def _word(self, name: str) -> str:
        return encodable(word(name), self._out.encoding)

    def _line(self, time: str, session: str, name: str, value: str) -> str:
        widths = self._face.width, self._session_face.width
        return f"{time:<{widths[0]}}  {session:<{widths[1]}}  {name:<{self._series_width}}  {value}\n"

    def _csv(self, curve: Curve, times: list[str], session: str | None) -> None:
        writer = csv.writer(self._out, lineterminator="\n")
        if not self.samples:
            writer.writerow((*SAMPLE, *_label_columns(self._labels)))
        labels = curve.labels
        more = curve.series.name, *(labels.get(label, "") for label in self._labels)
        name = curve.name
        writer.writerows(
            (time, session, name, format_number(value, ""), *more)
            for time, value in zip(times, curve.values.tolist(), strict=True)
        )

    def _json(self, curve: Curve, times: list[str], session: str | None) -> None:
        quote = "" if self._face.is_number else '"'
        session = "null" if session is None else session if self._face.unix else json.dumps(session)
        name, labels = json.dumps(curve.series.name), json.dumps(curve.labels)
        same = f'"session": {session}, "name": {name}, "labels": {labels}'
        self._out.writelines(
            f'{{"time": {quote}{time}{quote}, {same}, "value": {_json_number(value)}}}\n'
            for time, value in zip(times, curve.values.tolist(), strict=True)
        )


class LineWriter:
    """Writes ticks to `out`, one per line, as a table or as JSON; times in the format `face`.

    In a table a line of names comes first, and again before a tick with other series than the tick above
    it. The name of a series is without the labels of its session; the instance identifies that.
    """

    def __init__(self, out: TextIO, format: str, face: Face) -> None:
        self._out = out
        self._format = format
        self._face = face
        self._above: tuple[Series, ...] = ()
        self._widths: list[int] = []
        if format == "json":
            make_utf8(out)

    def write(self, lines: Iterable[Line]) -> None:
        for line in lines:
            self._write(line)

    def _write(self, line: Line) -> None:
        times = [line.t_ms, line.session.start_ms]
        time, session = times if self._face.unix else self._face.times(times)
        if self._format == "json":
            record = {
                "time": time,
                "session": session,
                "labels": {"instance": line.session.instance, **dict(line.session.labels)},
            }
            values = ", ".join(
                f"{json.dumps(str(series))}: {_json_number(value)}"
                for series, value in zip(line.series, line.values, strict=True)
            )
            self._out.write(f'{json.dumps(record)[:-1]}, "values": {{{values}}}}}\n')
            return
        instance = encodable(word(escape(line.session.instance)), self._out.encoding)
        if line.series != self._above:
            self._above = line.series
            names = [encodable(word(str(series)), self._out.encoding) for series in line.series]
            self._widths = [self._face.width, *(max(len(text), 8) for text in (instance, *names))]
            self._row("time", "instance", *names)
        self._row(str(time), instance, *map(format_number, line.values))

    def _row(self, *fields: str) -> None:
        padded = (field.ljust(width) for field, width in zip(fields, self._widths, strict=True))
        self._out.write("  ".join(padded).rstrip() + "\n")


def _label_columns(labels: Sequence[str]) -> list[str]:
    """The columns for the metric's name and the labels, with unique names."""
    names = [*SAMPLE, "name"]
    for label in labels:
        while label in names:
            label = f"label_{label}"
        names.append(label)
    return names[len(SAMPLE) :]


def _json_number(value: float) -> str:
    # JSON has no infinities: they are strings, as in Prometheus' API.
    return f'"{format_number(value)}"' if math.isinf(value) else format_number(value, "null")


def write_columns(out: TextIO, format: str, columns: Mapping[str, Sequence[Any]], prose: str = "") -> None:
    """Write records, given as `columns` by name; None is a field without a value.

    In a table every field is one word, except the last one if its name is `prose`.
    """
    if format != "table":
        make_utf8(out)
    rows = zip(*columns.values(), strict=True)
    if format == "json":
        out.writelines(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)
    elif format == "csv":
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
    else:
        shown = [[name, *_fields(column, out.encoding, name == prose)] for name, column in columns.items()]
        widths = [max(map(len, column)) for column in shown[:-1]]
        line = "".join(f"%-{width}s  " for width in widths) + "%s\n"
        out.writelines(line % row for row in zip(*shown, strict=True))


def _fields(column: Sequence[Any], encoding: str | None, is_prose: bool) -> list[str]:
    """One word for each value; for prose, one line."""
    if column and None not in column and type(column[0]) is int:
        return list(map(str, column))
    texts = ["-" if value is None else str(value) for value in column]
    together = "".join(texts)
    is_plain = together.isascii() and together.isprintable() and not any(one in together for one in ' "\\')
    if is_plain and "" not in texts:
        return texts  # the usual case, and fast for a hundred thousand of them
    harmless = printable if is_prose else word
    return [
        encodable(harmless(escape(text)), encoding) if isinstance(value, str) else text
        for value, text in zip(column, texts, strict=True)
    ]
