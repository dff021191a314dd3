"""Samples as OpenMetrics text with timestamps, for `promtool tsdb create-blocks-from openmetrics`.

    # TYPE vcpu_exits counter
    # UNIT vcpu_exits exits
    # HELP vcpu_exits KVM exits, by reason.
    vcpu_exits_total{instance="vm-1",reason="io"} 1723 1795395000.000
    # EOF

Strategy: all series of a family are together, and so are all samples of a series, in time order, from all
sessions. So the sessions are read once for each of their series, and memory holds one series of one session.
"No value" is no sample. Series are identified by their labels: if a clock was set back, samples of the later
session that are not past those of the earlier one are left out and counted.

Source: OpenMetrics 1.0, prometheus/OpenMetrics, specification/OpenMetrics.md.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple, TextIO

import numpy as np

from rondo_tools.catalog import COUNTER, Series, escape
from rondo_tools.query.curve import Curve, CurveReader, Match
from rondo_tools.query.names import counted, full_name
from rondo_tools.query.output import format_number, make_utf8

_TOTAL = "_total"

log = logging.getLogger(__name__)


class Family(NamedTuple):
    """The metadata that OpenMetrics has once for all series of a name."""

    name: str
    type: str
    unit: str
    help: str

    def __str__(self) -> str:
        lines = [f"# TYPE {self.name} {self.type}\n"]
        if self.unit and self.name.endswith(f"_{self.unit}"):  # no other unit is allowed
            lines.append(f"# UNIT {self.name} {self.unit}\n")
        if self.help:
            lines.append(f"# HELP {self.name} {escape(self.help)}\n")
        return "".join(lines)


def family(series: Sequence[Series], names: set[str]) -> Family:
    """The family of all series of one name; `names` are all names of the text.

    A counter's family has no ``_total``, unlike its samples. If that is not possible, or if sessions
    disagree on the kind, the type is unknown.
    """
    name, _, kind, unit, help = series[0]
    bare = name.removesuffix(_TOTAL)
    has_no_bare_name = kind == COUNTER and (bare in (name, "") or bare in names)
    if has_no_bare_name or len({one.kind for one in series}) > 1:
        kind = "unknown"
    return Family(bare if kind == COUNTER else name, kind, unit, help)


def write(out: TextIO, matches: Sequence[Match], reader: CurveReader) -> int:
    """Write the samples of `matches`. Returns their number; without samples, nothing is written."""
    make_utf8(out)
    by_name: dict[str, dict[str, list[Match]]] = {}
    series: dict[str, list[Series]] = {}
    for session, numbers in matches:
        for number in numbers:
            one = session.header.series[number]
            series.setdefault(one.name, []).append(one)
            alike = by_name.setdefault(one.name, {}).setdefault(full_name(session.header, one), [])
            alike.append(Match(session, (number,)))
    samples = passed_over = 0
    for name, labelled in by_name.items():
        heading = str(family(series[name], set(by_name)))
        for label_set, alike in labelled.items():
            written_ms = 0
            for match in sorted(alike, key=lambda match: match.session.start_ms):
                for curve in reader.read(match):
                    lines, passed = _lines(label_set, curve, written_ms)
                    passed_over += passed
                    if lines:
                        out.write(heading)
                        heading = ""
                        out.writelines(lines)
                        samples += len(lines)
                        written_ms = int(curve.t_ms[-1])
    if samples:
        out.write("# EOF\n")
    if passed_over:
        log.warning(
            "%s left out: not past those of an earlier session (a clock set back)",
            counted(passed_over, "sample"),
        )
    return samples


def _lines(name: str, curve: Curve, written_ms: int) -> tuple[list[str], int]:
    """The samples after `written_ms`, a line each, and the number of others."""
    there = ~np.isnan(curve.values)
    late = curve.t_ms <= written_ms
    wanted = there & ~late
    lines = [
        f"{name} {format_number(value)} {t_ms // 1000}.{t_ms % 1000:03}\n"
        for t_ms, value in zip(curve.t_ms[wanted].tolist(), curve.values[wanted].tolist(), strict=True)
    ]
    return lines, int((there & late).sum())
