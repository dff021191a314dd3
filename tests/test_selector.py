"""Selectors: parsing, errors with their columns, and matching, against a plain model."""

from __future__ import annotations

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rondo_tools.catalog import Series
from rondo_tools.errors import UsageError
from rondo_tools.selector import Matcher, Selector, labels_of, parse_selector
from rondo_tools.stream import Header


def read(text: str) -> list[tuple[str, str, str]]:
    return [matcher[:3] for matcher in parse_selector(text).matchers]


@pytest.mark.parametrize(
    ("text", "matchers"),
    [
        ("up", [("__name__", "=", "up")]),
        ("job:up:sum", [("__name__", "=", "job:up:sum")]),
        ("up{}", [("__name__", "=", "up")]),
        ("{}", []),
        ('{a="b"}', [("a", "=", "b")]),
        ('{a="b",c!="d",e=~"f"}', [("a", "=", "b"), ("c", "!=", "d"), ("e", "=~", "f")]),
        ('up{a="b",}', [("__name__", "=", "up"), ("a", "=", "b")]),
        (' up \n{\t a !~ "b" , } ', [("__name__", "=", "up"), ("a", "!~", "b")]),
        ('{__name__="up",__name__=~"u.*"}', [("__name__", "=", "up"), ("__name__", "=~", "u.*")]),
        ("{a='it is \"so\"'}", [("a", "=", 'it is "so"')]),
        ('{a="it\'s"}', [("a", "=", "it's")]),
        ("{a=`raw \\d \n line`}", [("a", "=", "raw \\d \n line")]),
        (r'{a="\a\b\f\n\r\t\v\\\""}', [("a", "=", '\a\b\f\n\r\t\v\\"')]),
        (r"{a='\''}", [("a", "=", "'")]),
        (r'{a="\x41\101\u00e9\U0001F600"}', [("a", "=", "AAé😀")]),
        (r'{a="\xc3\xa9"}', [("a", "=", "é")]),  # \x is a byte
        ('{a="\\\\d"}', [("a", "=", "\\d")]),
    ],
)  # fmt: skip
def test_reads(text: str, matchers: list[tuple[str, str, str]]) -> None:
    assert read(text) == matchers


@pytest.mark.parametrize(
    ("text", "column", "what"),
    [
        ("", 1, "a metric name or {"),
        ("1up", 1, "a metric name or {"),
        ("up down", 4, "should end here"),
        ("up[5m]", 3, "--range"),
        ("rate(up[5m])", 5, "--rate"),
        ("up{", 4, "a label name"),
        ("up{,}", 4, "a label name"),
        ('up{a="b",,}', 10, "a label name"),
        ('up{a="b" c="d"}', 10, "a comma or }"),
        ('up{a="b"', 9, "a comma or }"),
        ("up{a}", 5, "one of = != =~ !~"),
        ('up{a=="b"}', 6, "a quoted string"),
        ("up{a=b}", 6, "a quoted string"),
        ('up{a="b}', 6, "not closed"),
        ('up{a="b\n"}', 6, "not closed"),
        ("up{a=`b}", 6, "not closed"),
        (r'up{a="\d"}', 7, "no such escape"),
        (r'up{a="\'"}', 7, "no such escape"),
        (r'up{a="\400"}', 7, "octal"),
        (r'up{a="\ud800"}', 7, "no such character"),
        (r'up{a="\U00110000"}', 7, "no such character"),
        (r'up{a="\xff"}', 6, "UTF-8"),
        ('up{a="\udcff"}', 6, "UTF-8"),  # a byte on a command line that is no UTF-8
        ('up{a=~"("}', 7, "regular expression"),
        ('up{a=~"a{99999999999}"}', 7, "regular expression"),
        ('up{__name__="up"}', 4, "name"),
        ('up{a:b="c"}', 5, "one of = != =~ !~"),
    ],
)
def test_refuses_and_points_at_the_column(text: str, column: int, what: str) -> None:
    with pytest.raises(UsageError, match=re.escape(what)) as caught:
        parse_selector(text)
    message, shown, pointer = str(caught.value).rsplit("\n", 2)
    assert f"column {column}:" in message
    assert pointer.index("^") - 2 == column - 1
    assert len(shown) - 2 == len(text)


LABELS = ("__name__", "instance", "reason", "region")
VALUES = st.sampled_from(("", "io", "mmio", "vm-1", "vm-2", "a\nb", 'q"\\', "up"))
PATTERNS = st.sampled_from(("", "io", ".*io", "vm-.", ".+", ".*", "io|mmio", "[^v].*", "a.b"))
NAMED = st.builds(
    Matcher, st.just("__name__"), st.just("="), st.sampled_from(("up", "vm-1", "a b")), st.none()
)
MATCHERS = st.one_of(
    NAMED,
    st.builds(Matcher, st.sampled_from(LABELS), st.sampled_from(("=", "!=")), VALUES, st.none()),
    st.builds(
        lambda label, operator, text: Matcher(label, operator, text, re.compile(text, re.DOTALL | re.ASCII)),
        st.sampled_from(LABELS),
        st.sampled_from(("=~", "!~")),
        PATTERNS,
    ),
)
SELECTORS = st.builds(lambda matchers: Selector(tuple(matchers)), st.lists(MATCHERS, max_size=4))


@given(SELECTORS)
def test_str_is_read_back(selector: Selector) -> None:
    assert parse_selector(str(selector)) == selector


@given(st.text())
def test_any_value_is_read_back(value: str) -> None:
    selector = Selector((Matcher("a", "=", value),))
    assert parse_selector(str(selector)) == selector


@given(st.text(string.printable) | st.text("up{}=~!\"'`\\,ax0 \n", max_size=12))
def test_any_text_parses_or_raises_usage_error(text: str) -> None:
    try:
        selector = parse_selector(text)
    except UsageError:
        return
    assert parse_selector(str(selector)) == selector


def meets(labels: dict[str, str], label: str, operator: str, value: str) -> bool:
    """The definition, word by word."""
    actual = labels.get(label, "")
    if operator == "=":
        return actual == value
    if operator == "!=":
        return actual != value
    anchored = re.search(rf"\A(?s:{value})\Z", actual) is not None
    return anchored if operator == "=~" else not anchored


@given(SELECTORS, st.dictionaries(st.sampled_from(LABELS), VALUES))
def test_matches_like_the_definition(selector: Selector, labels: dict[str, str]) -> None:
    expected = all(
        meets(labels, matcher.label, matcher.operator, matcher.value) for matcher in selector.matchers
    )
    assert selector.matches(labels) == expected


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ('{reason=~"i"}', False),  # a pattern matches all of a value
        ('{reason=~"io|x"}', True),
        ('{region=""}', True),  # missing is empty
        ('{region!=""}', False),
        ('{region=~".*"}', True),
        ('{region!~".+"}', True),
        ('{host=~".*one.two"}', True),  # . is a newline, too
        (r'{digit=~"\\d"}', False),  # \d is ASCII, as in RE2
        ('exits{instance="vm-1",rack="7"}', True),
        ('exits{job="rondo-vmm"}', False),  # not a label of the store
    ],
)
def test_matches_the_labels_of_a_session(text: str, matches: bool) -> None:
    series = Series("exits", (("digit", "\u0663"), ("host", "one\ntwo"), ("reason", "io")), "counter", "", "")
    header = Header("vm-1", 1, (("rack", "7"),), 1000, (series,))
    assert parse_selector(text).matches(labels_of(header, series)) is matches
