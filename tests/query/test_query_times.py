"""Times: each spelling, with one "now", in zones with and without daylight saving, and printed times."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rondo_tools.errors import UsageError
from rondo_tools.query.face import Face, face
from rondo_tools.query.times import Span, format_times, make_span, parse_since, parse_time
from tests.support.fixtures import Query
from tests.support.query.made_store import T0, add_session

NOW = T0 + 250  # 2026-11-23T00:50:00.250Z
HOUR_MS, DAY_MS = 3_600_000, 86_400_000

Zone = Callable[[str], None]


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Zone]:
    """Set the local zone, by POSIX rules, which need no file."""

    def set_zone(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield set_zone
    monkeypatch.undo()
    time.tzset()


BERLIN = "CET-1CEST,M3.5.0,M10.5.0/3"
LONDON = "GMT0BST,M3.5.0/1,M10.5.0"


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


@pytest.mark.parametrize(
    ("text", "t_ms"),
    [
        ("2026-11-23T00:50:00Z", T0),
        ("2026-11-23T00:50:00.123Z", T0 + 123),
        ("2026-11-23T01:50:00+01:00", T0),
        ("2026-11-23 00:50", T0),
        ("2026-11-23", T0 - 50 * 60_000),
        ("1795395000", T0),
        ("1795395000.123", T0 + 123),
        ("1795395000123", T0 + 123),  # as --unix prints it
        ("0", 0),
        ("now", NOW),
        ("-10m", NOW - 600_000),
        ("-90", NOW - 90_000),
        ("-1h30m", NOW - 5_400_000),
        ("00:50", T0),
        ("0:50:00.25", NOW),
        ("0:50:00.251", NOW + 1 - DAY_MS),  # the last one before now
        ("14:12:30", ms("2026-11-22T14:12:30Z")),
        ("today", ms("2026-11-23T00:00Z")),
        ("today 14:12", ms("2026-11-23T14:12Z")),  # it may be ahead
        ("yesterday", ms("2026-11-22T00:00Z")),
        ("yesterday 3:00", ms("2026-11-22T03:00Z")),
        ("yesterdayT03:00:00.5", ms("2026-11-22T03:00:00.500Z")),
    ],
)
def test_parse_time(text: str, t_ms: int) -> None:
    assert parse_time(text, NOW, utc=True) == t_ms


@pytest.mark.parametrize(
    ("text", "t_ms"),
    [
        ("2026-11-23 01:50", T0),
        ("2026-11-23T00:50:00Z", T0),
        ("2026-11-22T19:50-05:00", T0),
        ("2026-07-01 12:00", ms("2026-07-01T10:00Z")),
        ("1:50", T0),
        ("0:30", ms("2026-11-22T23:30Z")),
        ("23:00", ms("2026-11-22T22:00Z")),
        ("today", ms("2026-11-22T23:00Z")),
        ("yesterday 03:00", ms("2026-11-22T02:00Z")),
        ("1795395000", T0),
        ("-10m", NOW - 600_000),
    ],
)
def test_a_time_without_a_zone_is_local(zone: Zone, text: str, t_ms: int) -> None:
    zone(BERLIN)
    assert parse_time(text, NOW) == t_ms
    zone("UTC0")
    assert parse_time(text, NOW) == parse_time(text, NOW, utc=True)


@pytest.mark.parametrize(
    "text",
    ["", " ", "-", "10m", "-x", "2026-13-01", "1e3", "9" * 30, "٣", "24:00", "1:60", "1:2", "1:00:60",
     "tomorrow", "today tomorrow", "yesterday 25:00", "today-1h", "NOW", "0001-01-01T00:00:00+99:00"],
)  # fmt: skip
@pytest.mark.parametrize("zone_name", ["UTC0", BERLIN, "<-12>12"])
def test_invalid_times_are_refused(zone: Zone, zone_name: str, text: str) -> None:
    zone(zone_name)
    for utc in (False, True):
        with pytest.raises(UsageError):
            parse_time(text, NOW, utc=utc)


@pytest.mark.parametrize("text", ["0001-01-01", "9999-12-31 23:59:59.999"])
@pytest.mark.parametrize("zone_name", ["<+14>-14", "<-12>12"])
def test_the_ends_of_the_calendar(zone: Zone, zone_name: str, text: str) -> None:
    """They are times, or refused: no other error is raised."""
    zone(zone_name)
    try:
        parse_time(text, NOW)
    except UsageError as exc:
        assert "is not a time" in str(exc)


@given(st.integers(0, 4 * 10**12))
def test_printed_times_can_be_parsed(t_ms: int) -> None:
    assert parse_time(format_times([t_ms])[0], NOW) == t_ms
    if t_ms >= 10**11:
        assert parse_time(str(t_ms), NOW) == t_ms


def test_printed_local_times_can_be_parsed(zone: Zone) -> None:
    """In any zone: the offset is printed, also in the hour that occurs twice."""
    rng = np.random.default_rng(1)
    change = ms("2026-10-25T01:00Z")
    times = [
        *range(change - 2 * HOUR_MS, change + 2 * HOUR_MS, 600_007),
        *rng.integers(0, 2**42, 500).tolist(),
    ]
    for name in (BERLIN, LONDON, "<+1245>-12:45", "<-0330>3:30"):
        zone(name)
        shown = Face(local=True).times(times)
        assert {len(text) for text in shown} == {Face(local=True).width}
        assert [text[-6:] for text in shown] == [
            datetime.fromtimestamp(t_ms / 1000).astimezone().isoformat()[-6:] for t_ms in times
        ]
        zone("JST-9")
        assert [parse_time(text, NOW) for text in shown] == times


def test_the_hour_that_occurs_twice(zone: Zone) -> None:
    """A range has both passes: it starts in the first and ends in the second."""
    zone(BERLIN)
    first, second = ms("2026-10-25T00:30Z"), ms("2026-10-25T01:30Z")
    now = ms("2026-10-25T09:00Z")
    assert parse_time("2026-10-25 02:30", now) == first
    assert parse_time("2:30", now, latest=True) == second
    assert make_span(None, "2:30", "2:30", now) == Span(first, second)
    assert make_span(None, "today 2:30", None, now) == Span(first, None)
    assert parse_time("2026-10-25T02:30+01:00", now) == second


def test_the_hour_that_is_skipped(zone: Zone) -> None:
    """Each of its minutes is the moment at which the clock skips it."""
    zone(BERLIN)
    change = ms("2026-03-29T01:00Z")
    now = ms("2026-03-29T09:00Z")
    for text in ("2026-03-29 02:00", "2026-03-29 02:30:07", "2:59", "today 02:01"):
        for latest in (False, True):
            assert parse_time(text, now, latest=latest) == change
    assert parse_time("1:59:59", now) == change - 1000
    assert parse_time("3:00", now) == change
    assert make_span(None, "1:30", "2:30", now) == Span(change - 1_800_000, change)


@given(st.integers(0, 2 * 366 * 24 * 60))
def test_local_times_against_the_zone_database(minutes: int) -> None:
    """Each minute of two years: the same as zoneinfo, except the skipped hour."""
    berlin = ZoneInfo("Europe/Berlin")
    wall = datetime(2026, 1, 1) + timedelta(minutes=minutes)
    passes = [wall.replace(tzinfo=berlin, fold=fold).astimezone(UTC) for fold in (0, 1)]
    is_left_out = passes[0].astimezone(berlin).replace(tzinfo=None) != wall
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", BERLIN)
        time.tzset()
        got = [parse_time(wall.isoformat(" "), NOW, latest=latest) for latest in (False, True)]
    time.tzset()
    if is_left_out:
        assert got[0] == got[1]
        assert passes[1].timestamp() * 1000 <= got[0] <= passes[0].timestamp() * 1000
    else:
        assert got == [round(each.timestamp() * 1000) for each in passes]


def test_format_times() -> None:
    assert format_times([T0, T0 + 7]) == ["2026-11-23T00:50:00.000Z", "2026-11-23T00:50:00.007Z"]
    assert format_times([]) == []
    rng = np.random.default_rng(1)
    for most in (10**9, 10**12, 253_402_300_800_000, 2**53):  # the last ones beyond the year 9999
        times = [0, most - 1, *rng.integers(0, most, 2000).tolist()]
        expected = [f"{each}Z" for each in np.asarray(times, "datetime64[ms]").astype(str).tolist()]
        assert format_times(times) == expected
    assert format_times([2**53 - 1])[0].endswith("Z")  # a producer's start may be anything


def test_faces(zone: Zone) -> None:
    zone(BERLIN)
    assert Face().times([T0]) == ["2026-11-23T00:50:00.000Z"]
    assert Face(local=True).times([T0, ms("2026-07-01T10:00Z")]) == [
        "2026-11-23T01:50:00.000+01:00",
        "2026-07-01T12:00:00.000+02:00",
    ]
    assert Face(unix=True).times([T0]) == [str(T0)]
    assert Face(elapsed=True).times([0, 1308, -7]) == ["0.000", "1.308", "-0.007"]
    assert Face(elapsed=True, unix=True).times([1308]) == ["1308"]
    assert Face(local=True).time(2**53 - 1)  # a producer's start may be anything


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_local_time_is_for_terminals(zone: Zone) -> None:
    zone(BERLIN)
    assert face(Terminal(), utc=False) == Face(local=True)
    assert face(Terminal(), utc=True) == Face()
    assert face(Terminal(), utc=False, unix=True) == Face(unix=True)
    assert face(io.StringIO(), utc=False) == Face()
    zone(LONDON)
    assert face(Terminal(), utc=False) == Face(local=True)
    zone("UTC0")
    assert face(Terminal(), utc=False) == Face()  # with a Z


@pytest.mark.parametrize(
    ("flags", "span"),
    [
        ((None, None, None), Span(None, None)),
        (("10m", None, None), Span(NOW - 600_000, None)),
        (("10m", None, str(T0)), Span(T0 - 600_000, T0)),
        (("10m", None, "now"), Span(NOW - 600_000, NOW)),
        ((None, "-2m", "-1m"), Span(NOW - 120_000, NOW - 60_000)),
        ((None, None, "-1m"), Span(None, NOW - 60_000)),
        ((None, "-2m", "now"), Span(NOW - 120_000, NOW)),
        # The end is the first such time after the start, on any day.
        ((None, "23:50", "0:10"), Span(ms("2026-11-22T23:50Z"), ms("2026-11-23T00:10Z"))),
        ((None, "yesterday 9:00", "17:00"), Span(ms("2026-11-22T09:00Z"), ms("2026-11-22T17:00Z"))),
        ((None, "0:40", "1:00"), Span(T0 - 600_000, T0 + 600_000)),
        ((None, "2026-11-01 9:00", "9:00"), Span(ms("2026-11-01T09:00Z"), ms("2026-11-01T09:00Z"))),
        ((None, None, "1:00"), Span(None, ms("2026-11-22T01:00Z"))),
    ],
)
def test_make_span(flags: tuple[str | None, str | None, str | None], span: Span) -> None:
    assert make_span(*flags, NOW, utc=True) == span


@pytest.mark.parametrize(
    ("text", "t_ms"), [("10m", NOW - 600_000), ("1:00", ms("2026-11-22T01:00Z")), ("now", NOW)]
)
def test_parse_since(text: str, t_ms: int) -> None:
    assert parse_since(text, NOW, utc=True) == t_ms


def test_a_command_means_the_same_in_every_zone(store: Path, query: Query) -> None:
    """A time without a zone is local, also in a pipe; a pipe gets UTC."""
    add_session(store, [(T0 + 1000 * i, (10.0 * i, 0.0, 1.0)) for i in range(60)], end="poweroff")

    def times(*flags: str, tz: str = BERLIN) -> list[str]:
        done = query(store, "read", "rss_bytes", *flags, env={"TZ": tz})
        return [line.split()[0] for line in done.stdout.decode().splitlines()[1:]]

    last = ["2026-11-23T00:50:58.000Z", "2026-11-23T00:50:59.000Z"]
    assert times("--start=2026-11-23 01:50:58") == last
    assert times("--start=2026-11-23 00:50:58", "--utc") == last
    assert times("--start=2026-11-23 00:50:58", tz="UTC0") == last
    assert times("--start=2026-11-23T00:50:58Z") == last
    for command in (["list", "--since"], ["list", "--utc", "--since"]):
        assert query(store, *command, "2026-11-23 01:50:30", env={"TZ": BERLIN}).returncode == (
            1 if "--utc" in command else 0
        )
