"""The parser of lines: by tables, and beside prometheus_client's."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import prometheus_client as client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from rondo_tools.catalog import COUNTER, GAUGE
from rondo_tools.feed import text
from rondo_tools.feed.text import MAX_LINE, Parser, TextError
from rondo_tools.selector import parse_selector
from rondo_tools.stream import MAX_SERIES

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def one(line: str | bytes) -> tuple[str, float, int | None]:
    """Series, value and time of a line."""
    sample = Parser().line(line.encode() if isinstance(line, str) else line)
    assert sample is not None
    return str(sample.current.series), sample.value, sample.t_ms


@pytest.mark.parametrize(
    ("line", "series", "value", "t_ms"),
    [
        ("x 1", "x", 1, None),
        ("  x\t 1e3 ", "x", 1000, None),
        ("x{} -0.5", "x", -0.5, None),
        ('x{a="b"} +Inf', 'x{a="b"}', math.inf, None),
        ('x { a = "b" , c = "d" , } -inf', 'x{a="b",c="d"}', -math.inf, None),
        ('x{c="d",a="b"}7', 'x{a="b",c="d"}', 7, None),
        (r'x{a="} \"q\" \\ \n # {"} 1', r'x{a="} \"q\" \\ \n # {"}', 1, None),
        (r'x{a="C:\dir"} 1', r'x{a="C:\\dir"}', 1, None),
        ('x{a="",b="c"} 1', 'x{b="c"}', 1, None),
        ('x{a="é"} 1', 'x{a="é"}', 1, None),
        ("a:b_1 1\r", "a:b_1", 1, None),
        ("x 1 1700000000", "x", 1, 1_700_000_000_000),
        ("x 1 1700000000.25", "x", 1, 1_700_000_000_250),
        ("x 1 1700000000250", "x", 1, 1_700_000_000_250),
        ("x 1 1.7e9", "x", 1, 1_700_000_000_000),
        ('x_total 3 # {trace_id="abc"} 0.5 1700000000', "x_total", 3, None),
        ('x_total 3 1700000000 # {} 0.5', "x_total", 3, 1_700_000_000_000),
    ],
)  # fmt: skip
def test_a_line_is_a_sample(line: str, series: str, value: float, t_ms: int | None) -> None:
    assert one(line) == (series, value, t_ms)


def test_nan_is_parsed() -> None:
    assert math.isnan(one("x NaN")[1])


@pytest.mark.parametrize(
    "line", ["", "   ", "#", "# a comment", "#TYPE x counter", "# EOF", "# TYPE x", "# HELP x"]
)
def test_a_comment_is_no_sample(line: str) -> None:
    assert Parser().line(line.encode()) is None


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("x", "not NAME"),
        ("x ", "not NAME"),
        ("x y", "'y' is not a number"),
        ("x 1_000", "'1_000' is not a number"),
        ("x 0x10", "'0x10' is not a number"),
        ("x 1 2 3", "not NAME"),
        ("x-1", "not NAME"),
        ("1x 1", "not NAME"),
        ("temp celsius 3 4", "not NAME"),
        ("x 1 soon", "'soon' is not a number"),
        ("x 1 -5", "'-5' is not a Unix time"),
        ("x 1 0", "'0' is not a Unix time"),
        ("x 1 NaN", "'NaN' is not a Unix time"),
        ("x 1 1e300", "'1e300' is not a Unix time"),
        ('x{a="b" 1', "not NAME"),
        ("x{a=b} 1", 'not LABEL="VALUE"'),
        ('x{,a="b"} 1', 'not LABEL="VALUE"'),
        ('x{a="b" c="d"} 1', 'not LABEL="VALUE"'),
        ('x{1a="b"} 1', 'not LABEL="VALUE"'),
        ('{"quoted"} 1', "not NAME"),
        ('x{a="b",a="c"} 1', "the label 'a' is there twice"),
        ('x{instance="b"} 1', "give that with --instance"),
        ('x{__a="b"} 1', "'__a'"),
        ('x{rack="b"} 1', "one of --label"),
        (b'x{a="\xff"} 1', "the label 'a' is not valid UTF-8"),
        ("x\x1b[2J 1", r"'x\x1b[2J 1'"),
        ("x" * 1025 + " 1", "1025 bytes"),
        ('x{a="' + "b" * 1025 + '"} 1', "over 1024 bytes"),
        ("x{" + ",".join(f'l{i}="v"' for i in range(33)) + "} 1", "33 labels"),
        ("x" * MAX_LINE + " 1", "..."),
    ],
)  # fmt: skip
def test_invalid_lines_are_reported(line: str | bytes, why: str) -> None:
    with pytest.raises(TextError) as caught:
        Parser(common=["rack"]).line(line.encode() if isinstance(line, str) else line)
    assert why in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("lines", "kinds"),
    [
        (["x 1", "x_total 1", "x_bucket 1", "x_count 1", "x_sum 1"], [GAUGE, COUNTER, COUNTER, GAUGE, GAUGE]),
        (["# TYPE x counter", "x 1"], [COUNTER]),
        (["# TYPE x counter", "x_total 1", "x_created 1"], [COUNTER, GAUGE]),
        (["# TYPE x_total gauge", "x_total 1"], [GAUGE]),
        (["# TYPE x_total untyped", "x_total 1"], [COUNTER]),
        (["# TYPE x histogram", 'x_bucket{le="1"} 1', "x_sum 1", "x_count 1"], [COUNTER] * 3),
        (["# TYPE x summary", 'x{quantile="1"} 1', "x_sum 1", "x_count 1"], [GAUGE, COUNTER, COUNTER]),
        (["# TYPE x gaugehistogram", 'x_bucket{le="1"} 1', "x_gsum 1", "x_gcount 1"], [GAUGE] * 3),
        (["# TYPE x info", 'x_info{a="b"} 1', "# TYPE y stateset", 'y{y="on"} 1'], [GAUGE] * 2),
        (["x 1", "# TYPE x counter", 'x{a="b"} 1'], [GAUGE, GAUGE]),  # a name has one kind, the first
    ],
)  # fmt: skip
def test_counters_and_gauges(lines: list[str], kinds: list[str]) -> None:
    parser = Parser()
    samples = [parser.line(line.encode()) for line in lines]
    assert [sample.current.series.kind for sample in samples if sample is not None] == kinds


def test_help_and_unit_are_kept() -> None:
    parser = Parser()
    page = (
        "# HELP t How\\nwarm.\n# TYPE t gauge\n# UNIT t kelvin\nt 1\ny_bytes_total 1\nz_seconds 1\nbytes 1\n"
    )
    series = [current.series for current in parser.page(page.encode()).values]
    assert [(one.help, one.unit) for one in series] == [
        ("How\nwarm.", "kelvin"), ("", "bytes"), ("", "seconds"), ("", "")
    ]  # fmt: skip


def test_spellings_of_a_series_are_one_series() -> None:
    parser = Parser()
    spellings = ('x{a="b",c="d"} 1', 'x{c="d",a="b"} 2', 'x {c="d" , a="b",}  3', 'x{a="b",c="d",e=""} 4')
    samples = [parser.line(line.encode()) for line in spellings]
    assert len({id(sample.current) for sample in samples if sample is not None}) == 1
    page = parser.page("\n".join(spellings).encode() + b"\n")
    assert ([*page.values.values()], page.repeated) == ([1.0], 3)  # the first line counts


@pytest.mark.parametrize(
    ("page", "why"),
    [
        ("x 1\ny", "in the middle of a line"),
        ("x 1\n\ny\n", "line 3: not NAME"),
        ("x 1 1700000000\ny 1 1700000001\n", "more than one time"),
        ("x 1 1700000000\ny 1\n", "--ignore-times"),
        ("".join(f"x{i} 1\n" for i in range(MAX_SERIES + 1)), f"over {MAX_SERIES} series"),
    ],
)  # fmt: skip
def test_a_page_is_good_or_not(page: str, why: str) -> None:
    with pytest.raises(TextError, match=why):
        Parser().page(page.encode())


def test_a_page_has_the_time_of_its_lines() -> None:
    assert Parser().page(b"x 1 1700000000\ny 1 1700000000000\n").t_ms == 1_700_000_000_000
    assert Parser().page(b"x 1\n").t_ms is None
    assert Parser().page(b"").values == {}


def test_only_matching_lines_become_series() -> None:
    parser = Parser(match=parse_selector('{__name__=~"x|y",a!="c"}'))
    page = b'x 1\ny{a="b"} 2\ny{a="c"} 3\nz 4\n'
    for _ in range(2):  # new, then remembered
        assert [str(current.series) for current in parser.page(page).values] == ["x", 'y{a="b"}']
    # Series that do not match do not count for the limit.
    assert not parser.page(b"".join(b"z%d 1\n" % i for i in range(3 * MAX_SERIES))).values


def test_the_remembered_spellings_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_MOST_REMEMBERED", 8)
    parser = Parser()
    listed = parser.line(b"listed 1")
    assert listed is not None
    listed.current.listed = True
    for number in range(100):
        parser.page(b"x%d 1\n" % number)
    assert len(parser._known) <= 9
    assert len(parser._currents) <= 9
    again = parser.line(b"listed 2")
    assert again is not None
    assert again.current is listed.current  # or the header would have it twice


# --- beside prometheus_client -------------------------------------------------------------------------


def ours(page: str) -> Samples:
    values = Parser().page(page.encode()).values
    return {(current.series.name, current.series.labels): value for current, value in values.items()}


def theirs(page: str, parse: Callable[[str], Iterable[Metric]] = parse_text) -> Samples:
    """Its samples with the names on the page: it changes the ending of counters."""
    found: Samples = {}
    for family in parse(page):
        for sample in family.samples:
            name = sample.name
            if f"\n{name}" not in f"\n{page}":
                name = name.removesuffix("_total")
            labels = tuple(sorted((key, value) for key, value in sample.labels.items() if value))
            found.setdefault((name, labels), float(sample.value))
    return found


def same(first: Samples, second: Samples) -> bool:
    return {key: repr(value) for key, value in first.items()} == {key: repr(v) for key, v in second.items()}


NAMES = st.from_regex(r"[a-z_:][a-z0-9_:]{0,8}", fullmatch=True)
LABEL_NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,4}", fullmatch=True).filter(lambda name: name != "instance")
LABEL_VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\r\x85\u2028\u2029"), max_size=8)
VALUES = (
    st.floats().map(repr) | st.integers().map(str) | st.sampled_from(["+Inf", "-Inf", "NaN", "1e5", "+4."])
)
SPACES = st.text(" \t", max_size=2)


@st.composite
def lines(draw: st.DrawFn) -> str:
    labels = draw(st.dictionaries(LABEL_NAMES, LABEL_VALUES, max_size=3))
    space = draw(SPACES)
    pairs = [
        f'{name}{space}={space}"' + value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") + '"'
        for name, value in labels.items()
    ]
    braces = (
        "{"
        + space
        + f"{space},{space}".join(pairs)
        + space
        + draw(st.sampled_from(["", ","])) * bool(pairs)
        + "}"
    )
    if not pairs:
        braces = draw(st.sampled_from(["", "{}"]))
    between = draw(st.sampled_from([" ", "\t", "  "]))
    return draw(SPACES) + draw(NAMES) + space * bool(braces) + braces + between + draw(VALUES)


@given(st.lists(lines(), max_size=5))
def test_a_page_has_the_samples_that_prometheus_client_finds(found: list[str]) -> None:
    page = "".join(f"{line}\n" for line in found)
    assert same(ours(page), theirs(page))


@pytest.mark.parametrize("second", ["x {}\t2", 'x {a="b"}\t2', 'x {a="b c"}\t2'])
def test_a_known_name_is_no_head_before_a_tab(second: str) -> None:
    page = f"x 1\n{second}\n"
    assert same(ours(page), theirs(page))
    parser = Parser(match=parse_selector('{a!=""}'))
    assert [parser.line(line.encode()) is not None for line in page.splitlines()] == [False, "a=" in second]


@given(st.text('x{}a="b,\\ 1.e+Nn\t', max_size=24))
def test_accepted_lines_are_samples_for_prometheus_client_too(line: str) -> None:
    try:
        found = ours(f"x{line}\n")
    except TextError:
        return
    assert same(found, theirs(f"x{line}\n"))


@given(st.lists(st.tuples(LABEL_VALUES.filter(bool), st.floats(0, 1e9)), min_size=1, max_size=4))
def test_a_page_of_each_type_in_both_formats(observed: list[tuple[str, float]]) -> None:
    registry = client.CollectorRegistry()
    counter = client.Counter("c", "Counts\n\\.", ["l"], registry=registry)
    gauge = client.Gauge("g_bytes", "G", ["l"], registry=registry)
    histogram = client.Histogram("h", "H", ["l"], registry=registry, buckets=(1, 10))
    summary = client.Summary("s", "S", registry=registry)
    client.Info("i", "I", registry=registry).info({"version": observed[0][0]})
    client.Enum("e", "E", registry=registry, states=["on", "off"])
    for label, value in observed:
        counter.labels(label).inc(value, exemplar={"trace_id": "abc"})
        gauge.labels(label).set(-value)
        histogram.labels(label).observe(value)
        summary.observe(value)
    openmetrics = generate_openmetrics(registry)  # type: ignore[no-untyped-call]  # the library's gap
    for page, parse in (
        (client.generate_latest(registry).decode(), parse_text),
        (openmetrics.decode(), parse_openmetrics),
    ):
        parser = Parser()
        values = parser.page(page.encode()).values
        found = {(one.series.name, one.series.labels): value for one, value in values.items()}
        assert same(found, theirs(page, parse))
        growing = {one.series.name for one in values if one.series.kind == COUNTER}
        assert growing == {"c_total", "h_bucket", "h_count", "h_sum", "s_count", "s_sum"}


def test_the_docs_quote_the_messages_of_the_sources() -> None:
    """The table of docs/feed.md quotes messages of the sources, of which some go over several lines."""
    root = Path(__file__).resolve().parents[2]
    sources = "".join(path.read_text() for path in (root / "rondo_tools" / "feed").glob("*.py"))
    sources = re.sub(r'"\n\s+f?"', "", sources).replace("{MAX_SERIES}", str(MAX_SERIES))
    sources = sources.replace("{{", "{").replace("}}", "}")
    table = (root / "docs" / "feed.md").read_text().partition("| message |")[2].partition("\n\n")[0]
    quoted = re.findall(r"^\| `(?:line 3 is left out: )?([^`]+)`", table, re.MULTILINE)
    assert len(quoted) >= 7
    assert [one for one in quoted if one not in sources] == []
