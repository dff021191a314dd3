"""Standard input as ticks, with a clock that the test sets."""

from __future__ import annotations

import logging
import math

import hypothesis
import pytest
from hypothesis import strategies as st

from rondo_tools import stream
from rondo_tools.feed import session
from rondo_tools.feed.lines import Lines
from rondo_tools.feed.session import Session
from rondo_tools.feed.text import MAX_LINE, Parser
from rondo_tools.ratelimit import RateLimit
from rondo_tools.stream import MAX_SERIES, Header
from tests.support.feed.feed_host import Sink

START = 1_700_000_000_300
SECOND = 1_700_000_000_000
HOLD = 5_000


class Input:
    """Gives lines at simulated times."""

    def __init__(self, hold_ms: int = HOLD, interval_ms: int = 1000) -> None:
        self.sink = Sink()
        header = Header("vm", 1, (("rack", "a"),), interval_ms, ())
        self.session = Session(self.sink, stream.encode, header)
        warnings = RateLimit(logging.getLogger("rondo_tools.feed.cli"), 10, 60.0)
        self.lines = Lines(Parser(), self.session, hold_ms, warnings)
        self.now = START

    def say(self, *lines: str) -> Input:
        self.lines.take("".join(f"{line}\n" for line in lines).encode(), self.now)
        return self

    def until(self, now: int) -> Input:
        """Let time pass, and call `on_time` whenever it is due."""
        while not self.lines.is_over:
            wait = self.lines.wait_ms(self.now)
            if self.now + wait > now:
                break
            self.now += max(1, math.ceil(wait))
            self.lines.on_time(self.now)
        self.now = max(self.now, now)
        return self

    def end(self) -> Input:
        self.lines.close(self.now)
        return self

    @property
    def rows(self) -> list[tuple[float, dict[str, float]]]:
        """Times in seconds after SECOND."""
        return [((t_ms - SECOND) / 1000, values) for t_ms, values in self.sink.rows]


# --- without times ---------------------------------------------------------------------------------------


def test_each_interval_has_a_tick_of_the_newest_values() -> None:
    given = Input().say("x 1", "y_total 5").until(SECOND + 1_500).say("x 2", "x 3").until(SECOND + 3_100)
    assert given.rows == [
        (1, {"x": 1, "y_total": 5}),
        (2, {"x": 3, "y_total": 5}),
        (3, {"x": 3, "y_total": 5}),
    ]
    (header,) = given.sink.headers
    assert (header.instance, header.start_ms, header.labels) == ("vm", START, (("rack", "a"),))
    assert [one.kind for one in header.series] == ["gauge", "counter"]


def test_a_value_is_repeated_for_hold_and_then_gone() -> None:
    given = Input().say("x 1").until(SECOND + 3_900).say("y 1").until(SECOND + 30_000)
    assert [at for at, values in given.rows if "x" in values] == [1, 2, 3, 4, 5]
    assert [at for at, values in given.rows if "y" in values] == [4, 5, 6, 7, 8]
    # One tick without any value, then no tick until there is a value again.
    assert [at for at, values in given.rows if not values] == [9]
    given.say("x 2").until(SECOND + 31_100)
    assert given.rows[-1] == (31, {"x": 2})


def test_a_later_series_gets_a_header_of_the_same_session() -> None:
    given = Input().say("x 1").until(SECOND + 1_500).say('y{a="b"} 1').until(SECOND + 2_100)
    first, second = given.sink.headers
    assert (first.instance, first.start_ms) == (second.instance, second.start_ms)
    assert [str(one) for one in second.series] == ["x", 'y{a="b"}']
    assert given.rows == [(1, {"x": 1}), (2, {"x": 1, 'y{a="b"}': 1})]


def test_a_header_leaves_out_series_until_they_come_back() -> None:
    given = Input().say("x 1").until(SECOND + 9_500).say("y 1").until(SECOND + 10_500).say("x 2")
    given.until(SECOND + 11_100)
    assert [[str(one) for one in header.series] for header in given.sink.headers] == [
        ["x"],
        ["y"],
        ["y", "x"],
    ]
    assert given.rows[-1] == (11, {"y": 1, "x": 2})


def test_a_series_beyond_the_limit_is_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    given = Input().say(*(f"x{i} 1" for i in range(MAX_SERIES + 1))).until(SECOND + 1_100)
    assert len(given.rows[0][1]) == MAX_SERIES
    assert f"line {MAX_SERIES + 1} is left out: over {MAX_SERIES} series" in caplog.text
    assert given.lines.refused == 1
    # Series that went away are replaced, except one that is given again.
    given.until(SECOND + 9_000).say("x0 2", *(f"y{i} 1" for i in range(MAX_SERIES - 1))).until(
        SECOND + 10_100
    )
    assert len(given.rows[-1][1]) == MAX_SERIES
    assert given.rows[-1][1]["x0"] == 2
    assert given.lines.refused == 1


def test_a_value_that_no_tick_has_had_is_not_replaced() -> None:
    """Without --hold each value is old at once."""
    given = Input(hold_ms=0).say(*(f"x{i} 1" for i in range(MAX_SERIES)))
    given.now += 5
    given.say("y 1").until(SECOND + 1_100)
    assert len(given.rows[0][1]) == MAX_SERIES
    assert given.lines.refused == 1
    given.now += 5
    given.say("y 1").until(SECOND + 2_100)
    assert given.rows[1][1] == {"y": 1}


def test_after_the_clock_was_set_back_a_full_header_drops_old_series() -> None:
    names = [f"x{i}" for i in range(MAX_SERIES)]
    given = Input().say(*(f"{name} 1" for name in names)).until(SECOND + 1_100)
    given.now -= 3_600_000
    given.lines.on_time(given.now)
    given.until(given.now + 1_100)
    given.say(*(f"{name} 2" for name in names)).until(given.now + HOLD + 5_000)
    given.say("y 1").until(given.now + 1_000)
    assert given.lines.refused == 0
    assert given.rows[-1][1] == {"y": 1}


def test_series_beyond_the_limit_take_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Input().say(*(f"x{i} 1" for i in range(MAX_SERIES)))
    drops: list[float] = []
    monkeypatch.setattr(given.session, "_drop", drops.append)
    for _ in range(9):
        given.now += 1
        given.say("y 1", "z 1")
    assert given.lines.refused == 18
    assert len(drops) <= 1


def test_new_series_wait_if_headers_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    most, per_ms = 20_000, 1
    monkeypatch.setattr(session, "_HEADER_BYTES", most)
    monkeypatch.setattr(session, "_HEADER_BYTES_PER_MS", per_ms)
    given = Input(hold_ms=3_600_000).say(*(f'x{{i="{i}",a="{"v" * 20}"}} 1' for i in range(60)))
    for second in range(1, 31):
        given.until(SECOND + 1_000 * second + 500).say(f"y{second} 1")
    sizes = [len(stream.encode(header)) for header in given.sink.headers]
    assert max(sizes) > 5 * per_ms * 1_000
    assert most < sum(sizes) < most + 30_000 * per_ms + max(sizes)
    assert {"y1", "y2"} < given.rows[3][1].keys()  # some at once
    given.until(SECOND + 60_000)
    assert {f"y{second}" for second in range(1, 31)} < given.rows[-1][1].keys()  # all in the end


def test_a_header_that_is_too_large_loses_its_help_texts() -> None:
    helps = [f"# HELP x{i} {'h' * 1000}" for i in range(1_500)]
    given = Input().say(*helps, *(f"x{i} 1" for i in range(1_500))).until(SECOND + 1_100)
    assert len(given.rows[0][1]) == 1_500
    assert {one.help for one in given.sink.headers[0].series} == {""}


def test_series_that_do_not_fit_into_a_header_are_left_out() -> None:
    large = [f'x{{i="{i}",a="{"v" * 1000}"}} 1' for i in range(1_500)]
    given = Input().say("y 1").until(SECOND + 1_500).say(*large, "y 2").until(SECOND + 2_100)
    assert given.rows == [(1, {"y": 1}), (2, {"y": 2})]
    assert given.lines.refused == 1
    assert Input().say(*large).until(SECOND + 2_100).end().until(SECOND + 9_000).rows == []


def test_warnings_have_the_number_of_the_line(caplog: pytest.LogCaptureFixture) -> None:
    given = Input().say("x 1", "garbage", "y", "", 'z{instance="b"} 1', "w 2").until(SECOND + 1_100)
    assert given.rows == [(1, {"x": 1, "w": 2})]
    assert given.lines.refused == 3
    assert "line 2 is left out" in caplog.text
    assert "line 5 is left out: the label 'instance'" in caplog.text
    assert "--instance" in caplog.text
    given.say(*["garbage"] * 100)
    assert len(caplog.records) == 10
    assert given.lines.refused == 103


def test_a_stream_in_place_of_text_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    given = Input()
    given.lines.take(b"\x87\xa5rondo\x01\n\x91\n\x92\n", START)  # a header, and bytes that look like lines
    assert given.lines.refused == 3
    (record,) = caplog.records
    assert "line 1 is left out: this is a rondo stream" in record.message


def test_a_line_without_newline_is_refused() -> None:
    given = Input()
    given.lines.take(b"x 12", START)
    given.until(SECOND + 2_000)
    assert given.rows == []
    given.lines.take(b"34\ny 1", given.now)
    given.end().until(SECOND + 9_000)
    assert {name: value for _, values in given.rows for name, value in values.items()} == {"x": 1234}
    assert given.lines.refused == 1


def test_a_huge_line_takes_no_memory() -> None:
    given = Input().say("x 1")
    for _ in range(100):
        given.lines.take(b"y" * MAX_LINE, given.now)
    assert len(given.lines._rest) <= MAX_LINE
    given.lines.take(b" 1\nz 1\n", given.now)
    assert given.until(SECOND + 1_100).rows == [(1, {"x": 1, "z": 1})]
    assert given.lines.refused == 1


LINES = st.sampled_from(
    ["x 1", "x NaN", "y_total 2", 'z{a="b"} 3', "garbage", "# TYPE z counter", "", "é 1", "x" * 99]
)


@hypothesis.given(st.lists(LINES, max_size=12), st.lists(st.integers(0, 400), max_size=6))
def test_the_result_does_not_depend_on_the_pieces_of_the_input(lines: list[str], cuts: list[int]) -> None:
    data = "\n".join(lines).encode()
    whole, pieces = Input(), Input()
    whole.lines.take(data, START)
    begin = 0
    for cut in sorted({*cuts, len(data)}):
        pieces.lines.take(data[begin:cut], START)
        begin = max(begin, cut)
    for one in (whole, pieces):
        one.end().until(SECOND + 20_000)
    assert whole.sink.data == pieces.sink.data
    assert whole.lines.refused == pieces.lines.refused


# --- the end of the input --------------------------------------------------------------------------------


def test_values_are_repeated_after_the_end_of_the_input() -> None:
    given = Input().say("x 1").end()
    assert given.lines.is_held
    given.until(SECOND + 20_000)
    assert [at for at, _ in given.rows] == [1, 2, 3, 4, 5]
    assert all(values == {"x": 1} for _, values in given.rows)
    assert given.sink.ends == [stream.End("eof", SECOND + 5_000)]
    assert given.lines.is_over


def test_without_holding_the_end_follows_at_once() -> None:
    given = Input(hold_ms=0).say("x 1").end()
    assert given.rows == [(0.301, {"x": 1})]
    assert given.sink.ends == [stream.End("eof", SECOND + 301)]
    # Also if the last value is of a time ahead of the clock.
    assert Input(hold_ms=0).say(f"x 1 {START + 9_000}").end().lines.is_over
    # And a value is in one tick only.
    given = Input(hold_ms=0).say("x 1", "y 1").until(SECOND + 1_500).say("x 2").until(SECOND + 4_100)
    assert given.rows == [(1, {"x": 1, "y": 1}), (2, {"x": 2}), (3, {})]


def test_an_input_without_a_value_has_no_session() -> None:
    for given in (
        Input().end(),
        Input(hold_ms=0).say("# HELP x y", "garbage").end(),
        Input().say("garbage").end(),
    ):
        assert given.lines.is_over
        assert given.sink.data == b""


def test_stop_sends_the_values_since_the_last_tick() -> None:
    given = Input().say("x 1").until(SECOND + 1_100).say("x 2")
    given.lines.stop("signal", SECOND + 1_200)
    assert given.rows == [(1, {"x": 1}), (1.2, {"x": 2})]
    assert given.sink.ends == [stream.End("signal", SECOND + 1_200)]


# --- the clock -------------------------------------------------------------------------------------------


def test_a_clock_set_back_far_ends_the_session_and_begins_another() -> None:
    given = Input().say("x 1").until(SECOND + 2_100)
    given.now -= 3_600_000
    given.lines.on_time(given.now)
    given.until(SECOND - 3_600_000 + 4_100)
    first, second = given.sink.headers
    assert given.sink.ends == [stream.End("clock", SECOND + 2_000)]
    assert second.start_ms == SECOND - 3_600_000 + 2_100
    assert second.series == first.series
    assert given.rows[-1] == (-3_596, {"x": 1})


def test_an_end_after_the_clock_was_set_back_ends_the_old_session() -> None:
    given = Input().say("x 1").until(SECOND + 2_100)
    given.lines.on_time(SECOND - 3_600_000)
    given.lines.stop("signal", SECOND - 3_600_000)
    assert given.sink.ends == [stream.End("clock", SECOND + 2_000)]


def test_a_clock_set_back_a_little_leaves_a_gap() -> None:
    given = Input().say("x 1").until(SECOND + 3_100)
    given.now = SECOND + 1_100
    given.until(SECOND + 4_100)
    assert [at for at, _ in given.rows] == [1, 2, 3, 4]
    assert len(given.sink.headers) == 1


# --- with times ------------------------------------------------------------------------------------------


def test_lines_with_the_same_time_are_one_tick() -> None:
    given = (
        Input(hold_ms=2_000).say("x 1 1600000000", "y 1 1600000000", "x 2 1600000001", "x 3 1600000004").end()
    )
    assert given.sink.rows == [
        (1_600_000_000_000, {"x": 1, "y": 1}),
        (1_600_000_001_000, {"x": 2, "y": 1}),
        (1_600_000_004_000, {"x": 3}),
    ]
    assert given.sink.headers[0].start_ms == 1_600_000_000_000
    assert given.sink.ends == [stream.End("eof", 1_600_000_004_000)]
    assert given.lines.is_over  # the times are long ago: nothing is repeated


def test_the_newest_lines_are_sent_after_an_interval() -> None:
    given = Input().say(f"x 1 {SECOND}").until(START + 900)
    assert given.rows == []  # more lines of that time may come
    assert given.until(START + 1_100).rows == [(0, {"x": 1})]
    given.say(f"y 1 {SECOND}", f"x 2 {SECOND + 2_000}").until(START + 9_000)
    assert given.rows == [(0, {"x": 1}), (2, {"x": 2})]
    assert given.lines.refused == 1  # its tick was sent


def test_values_with_recent_times_are_held_too() -> None:
    given = Input().say(f"x 1 {SECOND}").end().until(SECOND + 20_000)
    assert [at for at, _ in given.rows] == [0, 1, 2, 3, 4]
    assert given.sink.ends == [stream.End("eof", SECOND + 4_000)]
    given = Input().say(f"x 1 {SECOND - 9_000}", f"y 1 {SECOND}").end().until(SECOND + 20_000)
    assert [(at, values) for at, values in given.rows if "x" in values] == [(-9, {"x": 1})]


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["x 1 1600000001", "y 1 1600000000"], "sort the lines by time"),
        (["x 1 1600000001", "y 1"], "had a time and it has none: give a time to all lines or to none"),
        (["x 1 1600000001", "y 1 4100000000"], "over 10 min ahead of this clock"),
        (["x 1", "y 1 1600000001"], "had no time and it has one: give a time to all lines or to none"),
    ],
)  # fmt: skip
def test_invalid_times_are_reported(lines: list[str], why: str, caplog: pytest.LogCaptureFixture) -> None:
    given = Input().say(*lines).end().until(SECOND + 20_000)
    assert given.lines.refused == 1
    assert "line 2 is left out" in caplog.text
    assert why in caplog.text
    assert all(values == {"x": 1} for _, values in given.rows)
