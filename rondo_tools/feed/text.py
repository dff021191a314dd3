"""Parses lines of text into samples: plain ones, the Prometheus text format, and OpenMetrics.

Strategy: in all three a sample is one line, ``name{label="value"} value [time]``, and lines that begin with
``# TYPE``, ``# HELP`` or ``# UNIT`` describe a name. The text before the value is remembered, so each
spelling is parsed only once; later lines cost a look-up. Takes bytes and does no I/O.

Sources: Prometheus, docs/instrumenting/exposition_formats and model/textparse; OpenMetrics 1.0. One
difference: a time below 1e11 is in seconds, as in `date +%s` and OpenMetrics, any other in milliseconds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import NamedTuple

from rondo_tools.catalog import COUNTER, GAUGE, Series
from rondo_tools.errors import EX_DATAERR, RondoError
from rondo_tools.printable import printable
from rondo_tools.selector import NAME, Selector
from rondo_tools.stream import MAX_LABELS, MAX_SERIES, MAX_T_MS, MAX_TEXT

MAX_LINE = 1 << 16  # bytes
MAX_AHEAD_MS = 600_000  # a store refuses ticks further ahead of the clock
TOO_MANY = (
    f"over {MAX_SERIES} series, the most of a stream: choose with --match, or have the source write fewer"
)

_FIRST_IN_MS = 10**11  # in seconds the year 5138, in milliseconds March 1973
_MOST_REMEMBERED = 4 * MAX_SERIES  # spellings of series, and names with a type

_LABELS = rb'\{(?:[^"{}]|"(?:[^"\\]|\\.)*+")*+\}'
_LINE = re.compile(
    rb"[ \t]*+(?P<head>(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*+)(?:[ \t]*+(?P<labels>%b)|(?=[ \t])))"
    rb"[ \t]*+(?P<value>[^ \t#]++)(?:[ \t]++(?P<time>[^ \t#]++))?+[ \t]*+(?:# *\{.*)?" % _LABELS
)
_LABEL = re.compile(
    rb"[ \t]*+(?P<name>[a-zA-Z_][a-zA-Z0-9_]*+)[ \t]*+="
    rb'[ \t]*+"(?P<value>(?:[^"\\]|\\.)*+)"[ \t]*+(?:,[ \t]*+|\Z)'
)
_ESCAPE = re.compile(r'\\([\\"n])')
_ENDINGS = ("_total", "_bucket", "_count", "_sum", "_created", "_gcount", "_gsum", "_info")
# For each type, the endings of the family's samples that are counters.
_GROWING = {
    "counter": ("", "_total"),
    "histogram": ("_bucket", "_count", "_sum"),
    "summary": ("_count", "_sum"),
}
_TYPELESS = ("untyped", "unknown")
_GROWING_BY_NAME = ("_total", "_bucket")
_UNIT_BY_NAME = re.compile(r"_(seconds|bytes|celsius|meters|grams|joules|volts|amperes|ratio)(?:_total)?\Z")


class TextError(RondoError):
    """The text is not a sample, or one that cannot be fed."""

    exit_code = EX_DATAERR


class Current:
    """A series with its last value. `listed` if the stream's header has it."""

    __slots__ = ("at_ms", "listed", "series", "value")

    def __init__(self, series: Series) -> None:
        self.series = series
        self.value = math.nan
        self.at_ms: float = -math.inf
        self.listed = False


_NEW = Current(Series("", (), GAUGE, "", ""))  # a placeholder for an unknown series


class Sample(NamedTuple):
    """One line; `t_ms` is None without a time."""

    current: Current
    value: float
    t_ms: int | None


class Page(NamedTuple):
    """A page: each series once, with its value; and the time of its lines, if they have one.

    `repeated` counts lines that repeat a series: the first line counts, as in Prometheus.
    """

    values: dict[Current, float]
    t_ms: int | None
    repeated: int


class _Described(NamedTuple):
    """The description of a name in comments; in OpenMetrics, of a family."""

    type: str = ""
    help: str = ""
    unit: str = ""


class Parser:
    """Parses lines, and recognizes their series. `common` are the names of labels that all series have."""

    def __init__(self, common: Collection[str] = (), match: Selector | None = None) -> None:
        self._common = common
        self._match = match
        self._known: dict[bytes, Current | None] = {}  # by the text before the value; None does not match
        self._currents: dict[tuple[str, tuple[tuple[str, str], ...]], Current] = {}
        self._described: dict[str, _Described] = {}
        self._kinds: dict[str, str] = {}

    def add(self, series: Series) -> Current:
        """Add a series that is not from a line."""
        self._kinds[series.name] = series.kind
        return self._currents.setdefault((series.name, series.labels), Current(series))

    def line(self, line: bytes) -> Sample | None:
        """The sample of a line without newline; None for a comment and for a series that does not match.

        Raises TextError.
        """
        head, _, text = line.rpartition(b" ")
        current = self._known.get(head, _NEW)
        if current is _NEW or b"\t" in text:  # a tab may precede labels, the value or a time
            return self._parse(line)
        return None if current is None else Sample(current, _number(text), None)

    def page(self, page: bytes, *, ignore_times: bool = False) -> Page:
        """Parse a page. Raises TextError with the number of the line, or if a tick cannot hold it."""
        self.trim()
        if page and not page.endswith(b"\n"):
            raise TextError("it ends in the middle of a line")
        values: dict[Current, float] = {}
        times: set[int | None] = set()
        count = 0
        for number, line in enumerate(page.split(b"\n"), 1):
            try:
                sample = self.line(line)
            except TextError as exc:
                raise TextError(f"line {number}: {exc}") from None
            if sample is not None:
                current, value, t_ms = sample
                values.setdefault(current, value)
                times.add(t_ms)
                count += 1
                if len(values) > MAX_SERIES:
                    raise TextError(TOO_MANY)
        if ignore_times:
            times = set()
        if len(times) > 1:
            raise TextError(
                "its lines have more than one time, a tick has one: --ignore-times uses that of the scrape"
            )
        return Page(values, times.pop() if times else None, count - len(values))

    def trim(self) -> None:
        """If there are many series, forget those that are not in the stream's header."""
        if max(len(self._known), len(self._currents)) >= _MOST_REMEMBERED:
            self._known = {head: one for head, one in self._known.items() if one is not None and one.listed}
            self._currents = {key: one for key, one in self._currents.items() if one.listed}
            self._kinds = {one.series.name: one.series.kind for one in self._currents.values()}

    def _parse(self, line: bytes) -> Sample | None:
        line = line.strip()
        if not line or line.startswith(b"#"):
            self._comment(line)
            return None
        match = _LINE.fullmatch(line) if len(line) <= MAX_LINE else None
        if match is None:
            raise TextError(f'not NAME{{LABEL="VALUE"}} VALUE [TIME]: {_shown(line)}')
        value = _number(match["value"])
        t_ms = None if match["time"] is None else _time(match["time"])
        head = match["head"]
        current = self._known.get(head, _NEW)
        if current is _NEW:
            current = self._current(match["name"].decode(), match["labels"] or b"{}")
            if current is not None or len(self._known) < _MOST_REMEMBERED:
                self._known[head] = current
        return None if current is None else Sample(current, value, t_ms)

    def _current(self, name: str, text: bytes) -> Current | None:
        labels = self._labels(text[1:-1])
        if len(name) > MAX_TEXT:
            raise TextError(f"a name of {len(name)} bytes; {MAX_TEXT} is the limit")
        if self._match is not None and not self._match.matches({NAME: name, **dict(labels)}):
            return None
        current = self._currents.get((name, labels))
        if current is None:
            family, kind = self._kind(name)
            kind = self._kinds.setdefault(name, kind)
            unit = family.unit or ("".join(_UNIT_BY_NAME.findall(name)))
            current = self._currents[name, labels] = Current(Series(name, labels, kind, unit, family.help))
        return current

    def _labels(self, text: bytes) -> tuple[tuple[str, str], ...]:
        labels: dict[str, str] = {}
        at = 0
        text = text.strip()
        while at < len(text):
            match = _LABEL.match(text, at)
            if match is None:
                raise TextError(f'not LABEL="VALUE": {_shown(text[at:])}')
            at = match.end()
            name = match["name"].decode()
            if name in labels:
                raise TextError(f"the label {name!r} is there twice")
            try:
                value = match["value"].decode()
            except UnicodeDecodeError:
                raise TextError(f"the label {name!r} is not valid UTF-8") from None
            labels[name] = _ESCAPE.sub(lambda found: "\n" if found[1] == "n" else found[1], value)
            if len(labels[name].encode()) > MAX_TEXT or len(name) > MAX_TEXT:
                raise TextError(f"a label of over {MAX_TEXT} bytes")
        self._check(labels)
        return tuple(sorted((name, value) for name, value in labels.items() if value))

    def _check(self, labels: Collection[str]) -> None:
        if len(labels) > MAX_LABELS:
            raise TextError(f"{len(labels)} labels; {MAX_LABELS} is the limit")
        for name in labels:
            if name == "instance":
                raise TextError(
                    "the label 'instance' is for the name of the whole input: give that with --instance, and "
                    "this label another name, such as exported_instance"
                )
            if name.startswith("__"):
                raise TextError(f"the label {name!r}: names that begin with __ are Prometheus' own")
            if name in self._common:
                raise TextError(f"the label {name!r} is also one of --label: leave one of them out")

    def _comment(self, line: bytes) -> None:
        words = line.split(None, 3)
        if len(words) < 4 or words[0] != b"#" or words[1] not in (b"TYPE", b"HELP", b"UNIT"):
            return
        if len(line) > MAX_LINE or len(self._described) >= _MOST_REMEMBERED:
            return
        name = words[2].decode(errors="replace")
        text = words[3].decode(errors="replace")
        described = self._described.get(name, _Described())
        if words[1] == b"HELP":
            text = _ESCAPE.sub(lambda found: "\n" if found[1] == "n" else found[1], text)
            described = described._replace(help=_cut(text))
        elif words[1] == b"TYPE":
            described = described._replace(type=text.lower())
        else:
            described = described._replace(unit=_cut(text))
        self._described[name] = described

    def _kind(self, name: str) -> tuple[_Described, str]:
        """The description of a name or of its family, and the kind that follows from it."""
        family, ending = self._described.get(name), ""
        if family is None:
            for one in _ENDINGS:
                if name.endswith(one) and (found := self._described.get(name.removesuffix(one))) is not None:
                    family, ending = found, one
                    break
        if family is None or not family.type or family.type in _TYPELESS:
            return family or _Described(), COUNTER if name.endswith(_GROWING_BY_NAME) else GAUGE
        return family, COUNTER if ending in _GROWING.get(family.type, ()) else GAUGE


def _number(text: bytes) -> float:
    try:
        if b"_" not in text:  # Python's own spelling of thousands
            return float(text)
    except ValueError:
        pass
    raise TextError(f"{_shown(text)} is not a number")


def _time(text: bytes) -> int:
    value = _number(text)
    if 0 < value < math.inf:
        t_ms = round(value if value >= _FIRST_IN_MS else value * 1000)
        if 0 < t_ms <= MAX_T_MS:
            return t_ms
    raise TextError(f"{_shown(text)} is not a Unix time, in seconds or milliseconds")


def _shown(text: bytes) -> str:
    """Untrusted text, shortened and quoted for a message."""
    shown = printable(text[:60].decode(errors="replace"))
    return f"'{shown}{'...' * (len(text) > 60)}'"


def _cut(text: str) -> str:
    return text.encode()[:MAX_TEXT].decode(errors="ignore")
