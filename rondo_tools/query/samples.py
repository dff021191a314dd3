"""Prints the samples of `read` and `export`, in the format of the flags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TextIO

from rondo_tools.errors import UsageError
from rondo_tools.query import flags as share
from rondo_tools.query import pivot
from rondo_tools.query.ask import answer, label_names
from rondo_tools.query.curve import CurveReader, Match
from rondo_tools.query.names import full_name
from rondo_tools.query.output import SampleWriter


def write(
    out: TextIO, format: str, matches: Sequence[Match], reader: CurveReader, flags: dict[str, Any]
) -> int:
    """Write the samples of `matches` as table, csv or json. Returns their number."""
    if flags["pivot"] and format == "json":
        raise UsageError("--pivot makes a table or CSV: add --format csv")
    face = share.face(out, {**flags, "format": format})._replace(elapsed=flags["since_birth"])
    curves = answer(matches, reader, flags)
    if flags["pivot"]:
        columns = [curve for curve in curves if curve.t_ms.size]
        return pivot.write(out, format, face, columns) if columns else 0
    if share.how(flags):
        curves = list(curves)
        names = [curve.name for curve in curves]
        labels = [name for name in flags["by"] if name != "session"]
    else:
        names = [
            full_name(match.session.header, match.session.header.series[number])
            for match in (matches if format == "table" else ())
            for number in match.series
        ]
        labels = label_names(matches)
    writer = SampleWriter(out, format, face, names=names, labels=labels)
    for each in curves:
        writer.write(each)
    return writer.samples
