"""The output of a bench: rows of a figure, its peer and its bar; also as JSON, and as tables of the docs.

Strategy: a part makes one `Row` for each figure, and all output is made from rows. A row has its peer,
measured in the same run, and its bar, and so whether the bar is held.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

_BLOCK = re.compile(r"(<!-- bench ([^>]+?) -->).*?(<!-- end -->)", re.DOTALL)


class Peer(NamedTuple):
    """A peer that did the same work in the same run; its value has the unit of the row."""

    name: str
    value: float


class Row(NamedTuple):
    """`ratio` is the factor to the peer, above 1 if better; `bar` and `held` are None without a bar."""

    name: str
    value: float
    unit: str = ""
    peer: Peer | None = None
    ratio: float | None = None
    bar: str | None = None
    held: bool | None = None

    @property
    def figure(self) -> str:
        return with_unit(self.value, self.unit)

    @property
    def beside(self) -> str:
        """The peer and the ratio as text."""
        if self.peer is None:
            return ""
        ratio = "" if self.ratio is None else f" ({number(self.ratio)} times)"
        return f"{self.peer.name}: {with_unit(self.peer.value, self.unit)}{ratio}"

    @property
    def verdict(self) -> str:
        return "" if self.bar is None else f"{self.bar}: {'held' if self.held else 'MISSED'}"


class Report:
    """Collects the rows of one part, and prints each at once."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def row(
        self,
        name: str,
        value: float,
        unit: str = "",
        *,
        peer: Peer | None = None,
        at_most: float | None = None,
        at_least: float | None = None,
        times: float | None = None,
        more_is_better: bool = False,
    ) -> None:
        """Add a figure. Bars: on the value, `at_most` or `at_least`; `times` as good as the peer.

        The ratio is the peer's value by ours, or the inverse if `more_is_better`.
        """
        ratio = None
        if peer is not None and value and peer.value:
            ratio = value / peer.value if more_is_better else peer.value / value
        bars: list[tuple[str, bool]] = []
        if at_most is not None:
            bars.append((f"≤ {with_unit(at_most, unit)}", value <= at_most))
        if at_least is not None:
            bars.append((f"≥ {with_unit(at_least, unit)}", value >= at_least))
        if times is not None and ratio is not None:
            bars.append((f"≥ {times:g} times", ratio >= times))
        bar = ", ".join(text for text, _ in bars) or None
        row = Row(name, value, unit, peer, ratio, bar, all(held for _, held in bars) if bars else None)
        self.rows.append(row)
        print(f"  {name}: {'; '.join(filter(None, (row.figure, row.beside, row.verdict)))}", flush=True)

    @staticmethod
    def note(text: str) -> None:
        """Print a note, such as about a peer that is not available."""
        print(f"  {text}", flush=True)

    @property
    def is_held(self) -> bool:
        return all(row.held is not False for row in self.rows)


def run_part(main: Callable[[Report, list[str]], None]) -> int:
    """Run a part as a program; its rows go to `--rows FILE`. The status is 0 if all bars are held."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--rows", type=Path)
    own, others = parser.parse_known_args()
    report = Report()
    # On a signal, the part ends all that it has started.
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        main(report, others)
    finally:
        signal.signal(signal.SIGTERM, before)
    if own.rows is not None:
        own.rows.write_text(json.dumps([as_json(row) for row in report.rows]))
    return 0 if report.is_held else 1


def with_unit(value: float, unit: str) -> str:
    return f"{number(value)} {unit}".strip()


def number(value: float) -> str:
    """A number with three digits; a whole number with all."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    for least, digits in ((100, 0), (10, 1), (1, 2)):
        if abs(value) >= least:
            return f"{value:.{digits}f}"
    return f"{value:.2g}"


# --- JSON ----------------------------------------------------------------------------------------------


def as_json(row: Row) -> dict[str, Any]:
    return row._asdict() | {"peer": None if row.peer is None else row.peer._asdict()}


def from_json(document: Mapping[str, Any]) -> Row:
    peer = document["peer"]
    return Row(**{**document, "peer": None if peer is None else Peer(**peer)})


# --- the docs ------------------------------------------------------------------------------------------


def fill_in(text: str, results: Mapping[str, Any]) -> str:
    """A page with the text between its markers replaced from `results`, the JSON document of runs.

    `<!-- bench PART -->` is a table of a part's rows, `<!-- bench PART: ROW -->` the figure of a row. `<!--
    bench PART; MEASURE; ... -->` is for rows named `LINE; COLUMN; MEASURE`: a table with these lines and
    columns for each measure. Raises KeyError for a part or row without a result.
    """

    def block(match: re.Match[str]) -> str:
        opening, what, closing = match.groups()
        part, mark, name = re.fullmatch(r"(\w+)(?:([:;]) (.*))?", what).groups()  # type: ignore[union-attr]
        result = results["parts"][part]
        rows = [from_json(row) for row in result["rows"]]
        if mark == ":":
            return f"{opening}{_named(rows, name).figure}{closing}"
        table = _grids(rows, name.split("; ")) if mark else _table(rows)
        source = f"`{result['command']}`, {result['date']}: {result['machine']}."
        return f"{opening}\n\n{table}\n{source}\n\n{closing}"

    return _BLOCK.sub(block, text)


def _named(rows: list[Row], name: str) -> Row:
    for row in rows:
        if row.name == name:
            return row
    raise KeyError(name)


def _table(rows: list[Row]) -> str:
    columns = [("", [row.name for row in rows]), ("figure", [row.figure for row in rows])]
    columns += [("beside it, in the same run", [row.beside for row in rows])]
    columns += [("bar", [row.verdict for row in rows])]
    columns = [column for column in columns if any(column[1])]
    return _markdown([head for head, _ in columns], zip(*(cells for _, cells in columns), strict=True))


def _grids(rows: list[Row], measures: list[str]) -> str:
    return "\n".join(f"{one[0].upper()}{one[1:]}:\n\n{_grid(rows, one)}" for one in measures)


def _grid(rows: list[Row], measure: str) -> str:
    cells: dict[str, dict[str, str]] = {}
    heads = [""]
    for row in rows:
        line, column, what = row.name.split("; ")
        if column not in heads:
            heads.append(column)
        found = cells.setdefault(line, {})
        if what == measure:
            found[column] = f"{row.figure}{': MISSED' * (row.held is False)}"
    if not any(cells.values()):
        raise KeyError(measure)
    lines = ([line, *(found.get(head, "none") for head in heads[1:])] for line, found in cells.items())
    return _markdown(heads, lines)


def _markdown(heads: list[str], lines: Iterable[Iterable[str]]) -> str:
    table = [heads, ["---"] * len(heads), *lines]
    return "".join(f"|{''.join(f' {cell} |' if cell else ' |' for cell in cells)}\n" for cells in table)


def pages(root: Path) -> list[Path]:
    """The pages of the checkout with figures."""
    found = [
        root / "README.md",
        *sorted((root / "docs").glob("**/*.md")),
        *sorted((root / "deploy").glob("*.md")),
    ]
    return [page for page in found if _BLOCK.search(page.read_text())]
