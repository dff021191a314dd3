"""Selectors of series, in Prometheus' spelling: ``vcpu_exits_total{reason="io"}``.

Strategy: a hand-written scanner walks the text once, left to right; an error points at the column where it
stops. A selector is the conjunction of its matchers; the name before the braces is one for ``__name__``.

    selector  = name [ braces ] | braces
    braces    = "{" [ matcher { "," matcher } [ "," ] ] "}"
    matcher   = label ( "=" | "!=" | "=~" | "!~" ) string
    string    = '"' escapes '"' | "'" escapes "'" | "`" raw "`"

As in Prometheus, a missing label has the value "", and a pattern must match the whole value.
Two things differ: ``{}`` is allowed and means everything (a store is small enough), and
patterns are Python's `re` with RE2's defaults (``.`` is any character, ``\\d`` and ``\\w`` are ASCII).
Source: Prometheus, promql/parser (lex.go, generated_parser.y) and util/strutil/quote.go.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple, NoReturn, Protocol

from rondo_tools.catalog import Series, escape
from rondo_tools.errors import UsageError
from rondo_tools.stream import Header

NAME = "__name__"

_SHOWN = 60  # characters of a long selector, before and after the column of an error

_SPACE = re.compile(r"[ \t\r\n]*")
_METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_OPERATOR = re.compile(r"=~|!~|!=|=")
_ESCAPE = re.compile(
    r"""\\(?:([abfnrtv\\'"])|([0-7]{3})|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))"""
)
_SIMPLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class Pattern(Protocol):
    """A compiled pattern: of `re.compile`, or of a safe substitute for patterns from strangers."""

    def fullmatch(self, value: str, /) -> object | None: ...


class Matcher(NamedTuple):
    """One condition on a label; `pattern` is the compiled `value` if the operator takes a pattern."""

    label: str
    operator: str  # = != =~ !~
    value: str
    pattern: Pattern | None = None

    def matches(self, value: str) -> bool:
        """Whether a label with this value meets the condition; "" is a missing label."""
        if self.pattern is None:
            return (value == self.value) == (self.operator == "=")
        return (self.pattern.fullmatch(value) is not None) == (self.operator == "=~")

    def __str__(self) -> str:
        return f'{self.label}{self.operator}"{escape(self.value)}"'


class Selector(NamedTuple):
    """All of its matchers must be met."""

    matchers: tuple[Matcher, ...]

    def matches(self, labels: Mapping[str, str]) -> bool:
        """`labels` are those of one series, its name under ``__name__``; see `labels_of`."""
        return all(matcher.matches(labels.get(matcher.label, "")) for matcher in self.matchers)

    def __str__(self) -> str:
        """A spelling that `parse_selector` reads back."""
        names = [matcher for matcher in self.matchers if matcher.label == NAME]
        if names and names == [self.matchers[0]] and _is_plain_name(names[0]):
            rest = self.matchers[1:]
            return names[0].value + (f"{{{','.join(map(str, rest))}}}" if rest else "")
        return f"{{{','.join(map(str, self.matchers))}}}"


def is_metric_name(text: str) -> bool:
    """Whether `text` may stand before the braces of a selector."""
    return _METRIC_NAME.fullmatch(text) is not None


def _is_plain_name(matcher: Matcher) -> bool:
    return matcher.operator == "=" and is_metric_name(matcher.value)


def labels_of(header: Header, series: Series) -> dict[str, str]:
    """The labels that a selector matches: ``__name__``, ``instance``, those of the header and the series."""
    return {NAME: series.name, "instance": header.instance, **dict(header.labels), **dict(series.labels)}


def rest_of(selector: Selector, instance: str, labels: Iterable[tuple[str, str]]) -> Selector | None:
    """The matchers that the labels of a session do not decide; None if one of these labels does not match.

    It avoids a search for the session's series, which may be slow.
    """
    known = {"instance": instance, **dict(labels)}
    rest = []
    for matcher in selector.matchers:
        if matcher.label not in known:
            rest.append(matcher)
        elif not matcher.matches(known[matcher.label]):
            return None
    return Selector(tuple(rest))


@lru_cache(maxsize=256)
def matching_series(series: tuple[Series, ...], selector: Selector) -> tuple[int, ...]:
    """The places of the series that match by their names and labels alone."""
    return tuple(
        number for number, one in enumerate(series) if selector.matches({NAME: one.name, **dict(one.labels)})
    )


def parse_selector(text: str) -> Selector:
    """Raises UsageError that points at the column of the first error."""
    return _Scanner(text).selector()


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def selector(self) -> Selector:
        matchers = []
        self._space()
        if name := self._take(_METRIC_NAME):
            matchers.append(Matcher(NAME, "=", name))
        if self._take_text("{"):
            matchers += self._braces(named=bool(name))
        elif not name:
            self._fail("a metric name or { is expected")
        self._space()
        if self._at < len(self._text):
            self._fail(
                "the selector should end here (a range is --range, a rate is --rate, a VM is "
                '{instance="NAME"})'
            )
        return Selector(tuple(matchers))

    def _braces(self, *, named: bool) -> list[Matcher]:
        matchers: list[Matcher] = []
        while not self._take_text("}"):
            if matchers and not self._take_text(","):
                self._fail("a comma or } is expected")
            if matchers and self._take_text("}"):
                break
            at = self._at
            matcher = self._matcher()
            if named and matcher.label == NAME:
                self._fail("the name is given before the braces already", at)
            matchers.append(matcher)
        return matchers

    def _matcher(self) -> Matcher:
        label = self._take(_LABEL_NAME) or self._fail("a label name is expected")
        operator = self._take(_OPERATOR) or self._fail("one of = != =~ !~ is expected")
        at = self._at
        value = self._string()
        if operator in ("=", "!="):
            return Matcher(label, operator, value)
        try:
            with warnings.catch_warnings():  # on spellings that a later Python may read otherwise
                warnings.simplefilter("ignore")
                return Matcher(label, operator, value, re.compile(value, re.DOTALL | re.ASCII))
        except (re.error, ValueError, OverflowError, RecursionError) as exc:
            self._fail(f"not a regular expression: {exc}", at)

    def _string(self) -> str:
        quote = self._text[self._at : self._at + 1]
        if quote not in ('"', "'", "`"):
            self._fail("a quoted string is expected; a shell leaves quotes alone between single quotes")
        opened, self._at = self._at, self._at + 1
        pieces = bytearray()  # \x and octal escapes are bytes of UTF-8, not characters
        while (char := self._text[self._at : self._at + 1]) != quote:
            if not char or (char == "\n" and quote != "`"):
                self._fail("the string that opens here is not closed", opened)
            if char == "\\" and quote != "`":
                pieces += self._escape(quote)
            else:
                # A byte of an argument that has no character in the locale is a byte of UTF-8.
                is_byte = "\udc80" <= char <= "\udcff"
                pieces += char.encode(errors="surrogateescape" if is_byte else "surrogatepass")
                self._at += 1
        self._at += 1
        try:
            value = pieces.decode()
        except UnicodeDecodeError:
            self._fail("the string is not valid UTF-8", opened)
        self._space()
        return value

    def _escape(self, quote: str) -> bytes:
        match = _ESCAPE.match(self._text, self._at)
        if match is None or (match[1] in ("'", '"') and match[1] != quote):
            self._fail("there is no such escape (a backslash itself is written twice)")
        simple, octal, byte, *points = match.groups()
        if octal and int(octal, 8) > 0xFF:
            self._fail("an octal escape ends at \\377")
        point = next((int(digits, 16) for digits in points if digits), 0)
        if point > 0x10FFFF or 0xD800 <= point <= 0xDFFF:
            self._fail("there is no such character")
        self._at = match.end()
        if simple:
            return _SIMPLE.get(simple, simple).encode()
        if octal or byte:
            return bytes([int(octal, 8) if octal else int(byte, 16)])
        return chr(point).encode()

    def _take(self, token: re.Pattern[str]) -> str:
        """The token at this place, or ""; skips it, and the space after it."""
        match = token.match(self._text, self._at)
        if match is None:
            return ""
        self._at = match.end()
        self._space()
        return match[0]

    def _take_text(self, char: str) -> bool:
        if not self._text.startswith(char, self._at):
            return False
        self._at += 1
        self._space()
        return True

    def _space(self) -> None:
        match = _SPACE.match(self._text, self._at)
        assert match is not None  # it may be empty
        self._at = match.end()

    def _fail(self, what: str, at: int | None = None) -> NoReturn:
        at = self._at if at is None else at
        # One line: an unprintable character is shown as a space, so that the columns fit.
        first = max(at - _SHOWN, 0) if len(self._text) > 2 * _SHOWN else 0
        text = self._text[first : first + 2 * _SHOWN]
        shown = "".join(char if char.isprintable() else " " for char in text)
        raise UsageError(f"selector, column {at + 1}: {what}\n  {shown}\n  {' ' * (at - first)}^")
