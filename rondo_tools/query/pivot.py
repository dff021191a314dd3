"""A table with a column for each series, and a row for each time: for spreadsheets.

Strategy: the curves are aligned (`lineup`), so that all values of a step are in one row. They are held in
memory, and rows are made some thousands at a time. A series of several lives has a column for each life.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TextIO

import numpy as np

from rondo_tools.printable import encodable
from rondo_tools.query.curve import Curve
from rondo_tools.query.face import Face
from rondo_tools.query.group import SESSION
from rondo_tools.query.names import word
from rondo_tools.query.output import format_number, make_utf8

_ROWS = 4096  # made at a time
_WIDTH = 8  # of the narrowest column in a table


def write(out: TextIO, format: str, face: Face, curves: Sequence[Curve]) -> int:
    """Write `curves`, in steps of one length, as a table or as csv. Returns the number of values."""
    names = ["time", *column_names(curves, face)]
    if format == "csv":
        make_utf8(out)
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(names)
        for rows in _rows(curves, face, no_value=""):
            writer.writerows(rows)
    else:
        shown = [encodable(word(name), out.encoding) for name in names]
        widths = [face.width, *(max(len(name), _WIDTH) for name in shown[1:])]
        line = "  ".join(f"%-{width}s" for width in widths[:-1]) + "  %s\n"
        out.write(line % tuple(shown))
        for rows in _rows(curves, face, no_value="NaN"):
            out.writelines(line % row for row in rows)
    return sum(curve.t_ms.size for curve in curves)


def column_names(curves: Sequence[Curve], face: Face) -> list[str]:
    """The series, with the session as one more label if a series appears more than once."""
    often = Counter(curve.name for curve in curves)
    names = []
    for curve in curves:
        labels = curve.labels
        if often[curve.name] > 1 and curve.start_ms is not None:
            labels[SESSION] = face._replace(elapsed=False).time(curve.start_ms)
        names.append(str(curve.series._replace(labels=tuple(sorted(labels.items())))))
    return names


def _rows(curves: Sequence[Curve], face: Face, *, no_value: str) -> Iterator[list[tuple[str, ...]]]:
    t_ms = np.unique(np.concatenate([curve.t_ms for curve in curves]))
    for at in range(0, t_ms.size, _ROWS):
        some = t_ms[at : at + _ROWS]
        columns = []
        for curve in curves:
            first, last = curve.t_ms.searchsorted((some[0], some[-1] + 1))
            column = np.full(some.size, np.nan)
            column[some.searchsorted(curve.t_ms[first:last])] = curve.values[first:last]
            columns.append([format_number(value, no_value) for value in column.tolist()])
        yield list(zip(face.times(some.tolist()), *columns, strict=True))
