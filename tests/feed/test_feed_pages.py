"""Pages as ticks, with a fake scraper and a clock that the test sets."""

from __future__ import annotations

import math

import pytest

from rondo_tools import stream
from rondo_tools.feed.pages import Pages
from rondo_tools.feed.scrape import Scraped
from rondo_tools.feed.session import Session
from rondo_tools.feed.text import Parser
from rondo_tools.stream import MAX_SERIES, Header
from tests.support.feed.feed_host import Sink

START = 1_700_000_000_300
SECOND = 1_700_000_000_000
NONE = {"up": 0.0, "scrape_duration_seconds": 0.25}
OWN = NONE | {"up": 1.0}


class FakeScraper:
    """The methods of a Scraper that Pages uses."""

    name = "http://exporter/metrics"
    left_s = 0.9

    def __init__(self) -> None:
        self.begun = 0
        self.result: Scraped | None = None

    def begin(self) -> None:
        self.begun += 1

    def take(self) -> Scraped | None:
        result, self.result = self.result, None
        return result


class Exporter:
    """Pages, one each second."""

    def __init__(self, *, ignore_times: bool = False) -> None:
        self.sink, self.scraper = Sink(), FakeScraper()
        session = Session(self.sink, stream.encode, Header("vm", 1, (), 1000, ()))
        self.pages = Pages(
            Parser(),
            session,
            self.scraper,  # type: ignore[arg-type]  # a fake, see there
            ignore_times=ignore_times,
        )
        self.pages.begin(START)
        self.now = SECOND

    def page(self, *lines: str, error: str = "", seconds: float = 0.25) -> Exporter:
        self.now += 1_000
        self.pages.on_time(self.now)
        data = "".join(f"{line}\n" for line in lines)
        self.scraper.result = Scraped(data.encode(), error, seconds)
        self.pages.on_time(self.now + 250)
        return self

    @property
    def rows(self) -> list[tuple[float, dict[str, float]]]:
        return [((t_ms - SECOND) / 1000, values) for t_ms, values in self.sink.rows]


def test_a_page_is_a_tick_at_the_time_of_its_scrape() -> None:
    exporter = Exporter().page("# TYPE c counter", "c 1", "g NaN", "i +Inf").page("c 2", "g 3", "i 4")
    assert exporter.rows == [(1, OWN | {"c": 1, "i": math.inf}), (2, OWN | {"c": 2, "g": 3, "i": 4})]
    (header,) = exporter.sink.headers
    assert header.start_ms == START
    assert {one.name: one.kind for one in header.series} == {
        "c": "counter", "g": "gauge", "i": "gauge", "up": "gauge", "scrape_duration_seconds": "gauge"
    }  # fmt: skip


def test_a_series_that_is_not_on_the_page_has_no_value() -> None:
    exporter = Exporter().page("x 1", "y 1").page("x 2").page("x 3", "z 3").page("y 4", "z 4")
    assert [values.keys() - OWN.keys() for _, values in exporter.rows] == [
        {"x", "y"}, {"x"}, {"x", "z"}, {"y", "z"}
    ]  # fmt: skip
    assert [{str(one) for one in header.series} - OWN.keys() for header in exporter.sink.headers] == [
        {"x", "y"}, {"x", "z"}, {"y", "z"}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "error", "why"),
    [
        ((), "timed out", "timed out"),
        (("x 2", "<html>"), "", "line 2: not NAME"),
        (("x 2", 'y{instance="b"} 1'), "", "give that with --instance"),
        (("x 2 1700000001", "y 1"), "", "--ignore-times"),
        (("x 2 4100000000",), "", "10 min ahead of this clock; --ignore-times"),
        (("x 2", *(f"x{i} 1" for i in range(MAX_SERIES))), "", f"over {MAX_SERIES} series"),
        (("x 2", *(f"x{i} 1" for i in range(MAX_SERIES - 2))), "", "--match"),  # with up and the duration
        (("x 2", *(f'x{{i="{i}",a="{"v" * 1000}"}} 1' for i in range(1500))), "", "choose some with --match"),
    ],
)
def test_a_bad_page_is_a_tick_too(
    lines: tuple[str, ...], error: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    exporter = Exporter().page("x 1").page(*lines, error=error).page(*lines, error=error).page("x 4")
    assert exporter.rows == [(1, OWN | {"x": 1}), (2, NONE), (3, NONE), (4, OWN | {"x": 4})]
    first, second = (record.getMessage() for record in caplog.records)  # the failure, and its end
    assert first.startswith("http://exporter/metrics: ")
    assert why in first
    assert "good again" in second


def test_the_first_page_may_be_bad() -> None:
    exporter = Exporter().page(error="Connection refused").page("x 1")
    assert exporter.rows == [(1, NONE), (2, OWN | {"x": 1})]
    too_large = Exporter().page(*(f'x{{i="{i}",a="{"v" * 1000}"}} 1' for i in range(1500)))
    assert too_large.rows == [(1, NONE)]


def test_the_largest_page_and_another_after_it() -> None:
    exporter = Exporter()
    for letter in "xy":
        exporter.page(*(f"{letter}{i} 1" for i in range(MAX_SERIES - 2)))
    assert [len(values) for _, values in exporter.rows] == [MAX_SERIES] * 2


def test_the_first_line_of_a_repeated_series_counts(caplog: pytest.LogCaptureFixture) -> None:
    exporter = Exporter().page("x 1", "x 2").page("x 3", "x 4")
    assert exporter.rows == [(1, OWN | {"x": 1}), (2, OWN | {"x": 3})]
    (record,) = caplog.records
    assert "only the first of each counts" in record.getMessage()


def test_a_page_cannot_replace_up_and_the_duration() -> None:
    assert Exporter().page("up 7", 'up{job="a"} 7').rows == [(1, OWN | {'up{job="a"}': 7})]


def test_the_time_of_the_page_is_the_ticks_time(caplog: pytest.LogCaptureFixture) -> None:
    exporter = Exporter().page(f"x 1 {START + 100}")
    exporter.page(f"x 1 {START + 100}").page(f"x 2 {START + 900}")
    assert exporter.rows == [(0.4, OWN | {"x": 1}), (1.2, OWN | {"x": 2})]  # the same page is no other tick
    assert not caplog.records
    exporter.page(f"x 2 {START}")
    assert "--ignore-times" in caplog.text
    exporter = Exporter(ignore_times=True).page(f"x 1 {START + 100}", "y 1 1700000000").page("x 2")
    assert exporter.rows == [(1, OWN | {"x": 1, "y": 1}), (2, OWN | {"x": 2})]


def test_a_running_scrape_is_waited_for() -> None:
    exporter = Exporter()
    exporter.pages.on_time(SECOND + 1_000)
    for now in (1_400, 2_000, 2_600):
        exporter.pages.on_time(SECOND + now)
    assert (exporter.scraper.begun, exporter.rows) == (1, [])
    assert exporter.pages.wait_ms(SECOND + 2_600) == 900  # until its deadline
    exporter.scraper.result = Scraped(b"x 1\n", "", 0.25)
    exporter.pages.on_time(SECOND + 2_700)
    assert exporter.rows == [(1, OWN | {"x": 1})]
    assert exporter.scraper.begun == 2


def test_a_clock_set_back_and_a_signal() -> None:
    exporter = Exporter().page("x 1")
    exporter.now -= 3_600_000
    exporter.pages.on_time(exporter.now)
    exporter.page("x 2")
    exporter.pages.stop("signal", exporter.now)
    assert exporter.rows == [(1, OWN | {"x": 1}), (-3_598, OWN | {"x": 2})]
    assert [end.reason for end in exporter.sink.ends] == ["clock", "signal"]
