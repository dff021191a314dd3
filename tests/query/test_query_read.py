"""rondo-query read: every sample against a plain model, every format read back to the same float64."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import subprocess
import sys
import tempfile
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rondo_tools.catalog import GAUGE, Series
from rondo_tools.query.cli import COMMANDS, main
from rondo_tools.query.curve import CurveReader, Question, find_in
from rondo_tools.query.damage import Damage
from rondo_tools.query.times import format_times
from rondo_tools.selector import parse_selector
from rondo_tools.store.format.tiers import parse_tiers
from rondo_tools.store.reader import Store
from tests.support.needs import PATIENCE_S
from tests.support.query.made_store import (
    SERIES,
    T0,
    TIERS,
    Row,
    add_session,
    flip_a_bit,
    keep_house,
    roll_up,
)

VALUE = st.floats(width=64) | st.integers(-(2**53), 2**53).map(float) | st.just(math.nan)


@st.composite
def lives(draw: st.DrawFn) -> list[Row]:
    """Up to 100 s of ticks, at any millisecond, some within one second."""
    times = draw(st.lists(st.integers(0, 99_999), min_size=1, max_size=30, unique=True).map(sorted))
    return [(T0 + time, draw(st.tuples(*[VALUE] * len(SERIES)))) for time in times]


def same(one: float, other: float) -> bool:
    return (math.isnan(one) and math.isnan(other)) or (
        one == other and math.copysign(1, one) == math.copysign(1, other)
    )


def run(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> tuple[int, str, str]:
    try:
        status = main([str(each) for each in argv])
    except SystemExit as exc:
        status = exc.code if isinstance(exc.code, int) else -1
    out, err = capsys.readouterr()
    return status, out, err


def as_json(text: str) -> list[tuple[int, str, float]]:
    samples = []
    for line in text.splitlines():
        sample = json.loads(line)
        value = math.nan if sample["value"] is None else float(sample["value"])
        samples.append((sample["time"], sample["name"] + sample["labels"].get("reason", ""), value))
    return samples


def as_rows(text: str, format: str) -> list[tuple[int, str, float]]:
    if format == "csv":
        lines = list(csv.reader(io.StringIO(text)))
    else:
        lines = [line.split() for line in text.splitlines()]
    labels = ["name", "instance", "reason"] if format == "csv" else []
    assert not lines or lines[0] == ["time", "session", "series", "value", *labels]
    names = {
        'exits_total{instance="vm-1",reason="io"}': "exits_totalio",
        'exits_total{instance="vm-1",reason="hlt"}': "exits_totalhlt",
        'rss_bytes{instance="vm-1"}': "rss_bytes",
    }
    assert {len(line) for line in lines} <= {4 + len(labels)}
    return [(int(time), names[series], float(value or "nan")) for time, _, series, value, *_ in lines[1:]]


@pytest.mark.heavy
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=lives(),
    start=st.none() | st.integers(T0 - 1000, T0 + 101_000),
    end=st.none() | st.integers(T0 - 1000, T0 + 101_000),
    rate=st.booleans(),
    format=st.sampled_from(("table", "csv", "json")),
)
def test_tier_0_against_a_model(
    capsys: pytest.CaptureFixture[str],
    rows: list[Row],
    start: int | None,
    end: int | None,
    rate: bool,
    format: str,
) -> None:
    if start is not None and end is not None and start > end:
        start, end = end, start
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        add_session(store, rows)
        span = [f"--start={start}"] * (start is not None) + [f"--end={end}"] * (end is not None)
        flags = ["--tier=0", "--unix", f"--format={format}", *span, *(["--rate"] if rate else [])]
        selector = '{__name__=~".+_total"}' if rate else "{}"
        status, out, err = run(capsys, store, "read", selector, *flags)
    kept = [row for row in rows if (start or 0) <= row[0] <= (end or 2**53)]
    expected = []
    for number, name in enumerate(("exits_totalio", "exits_totalhlt", "rss_bytes")[: 2 if rate else 3]):
        points = [(t_ms, values[number]) for t_ms, values in kept]
        if rate:
            points = [point for point in points if not math.isnan(point[1])]
            points = [
                (t1, (v1 if v1 < v0 else v1 - v0) * 1000 / (t1 - t0))
                for (t0, v0), (t1, v1) in pairwise(points)
            ]
        expected += [(t_ms, name, value) for t_ms, value in points]
    got = as_json(out) if format == "json" else as_rows(out, format)
    assert [each[:2] for each in got] == [each[:2] for each in expected]
    assert all(same(mine[2], theirs[2]) for mine, theirs in zip(got, expected, strict=True))
    assert (status, "no " in err) == ((0, False) if expected else (1, True))


@pytest.mark.heavy
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=lives(),
    tier=st.sampled_from((1, 2)),
    aggregate=st.sampled_from(("avg", "min", "max")),
    is_rolled_up=st.booleans(),
)
def test_coarse_tiers_against_a_model(
    capsys: pytest.CaptureFixture[str],
    rows: list[Row],
    tier: int,
    aggregate: str,
    is_rolled_up: bool,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        add_session(store, rows)
        if is_rolled_up:
            roll_up(store)
        flags = ["--unix", "--format=json", f"--tier={tier}", f"--aggregate={aggregate}"]
        status, out, _ = run(capsys, store, "read", "{}", *flags)
    assert status == 0
    interval, _ = TIERS[tier]
    windows: dict[int, list[Row]] = {}
    for row in rows:
        windows.setdefault(row[0] // interval, []).append(row)
    expected = []
    for number, name in enumerate(("exits_totalio", "exits_totalhlt", "rss_bytes")):
        for window in windows.values():
            values = [row[1][number] for row in window if not math.isnan(row[1][number])]
            if name != "rss_bytes":
                value = values[-1] if values else math.nan
            elif not values:
                value = math.nan
            elif aggregate == "avg":
                total = 0.0
                for each in values:
                    total += each
                value = total / len(values)
            else:
                value = min(values) if aggregate == "min" else max(values)
            expected.append((window[-1][0], name, value))
    got = as_json(out)
    assert [each[:2] for each in got] == [each[:2] for each in expected]
    for (*_, mine), (*_, theirs) in zip(got, expected, strict=True):
        assert (math.isnan(mine) and math.isnan(theirs)) or mine == theirs


def steady(seconds: int, begin: int = T0) -> list[Row]:
    return [(begin + 1000 * i, (10.0 * i, 0.0, 0.5)) for i in range(1, seconds + 1)]


def long_ago(store: Path) -> None:
    """A VM of 20 minutes whose journal is gone: the ticks of its last ten minutes are left."""
    add_session(store, steady(1200), end="poweroff")
    roll_up(store, T0 + 1_201_000)
    keep_house(store, T0 + 1_260_000)
    assert not list(store.glob("tier_0/*"))


def test_auto_is_the_finest_tier_that_reaches_back(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long_ago(store)

    def times(*flags: str) -> list[int]:
        _, out, _ = run(capsys, store, "read", "rss_bytes", "--unix", "--format=json", *flags)
        return [time - T0 for time, *_ in as_json(out)]

    last_ten_minutes = list(range(601_000, 1_201_000, 1000))
    assert times("--tier=0") == last_ten_minutes
    assert times("--tier=0", "--end", str(T0 + 610_000)) == last_ten_minutes[:10]
    assert times(f"--start={T0 + 600_000}") == last_ten_minutes  # a tick of tolerance
    assert times(f"--start={T0 + 700_000}") == last_ten_minutes[99:]
    assert times(f"--start={T0 + 595_000}")[:3] == [599_000, 604_000, 609_000]
    assert times("--range=610s", f"--end={T0 + 1_200_000}")[:3] == [594_000, 599_000, 604_000]
    assert times()[:2] == [4_000, 9_000]  # back to the session's start
    assert times("--end", str(T0 + 605_000))[-1] == 604_000
    assert times("--tier=auto") == times()
    assert times("--tier=2")[:2] == [19_000, 39_000]
    assert times("--range=30s") == []  # up to now, which is another day


def test_auto_is_every_tick_while_the_journal_is_there(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For any span of tier 0: ticks that were not delivered or not rolled up are still there."""
    add_session(store, steady(1200), end="poweroff")
    for _ in range(2):
        _, out, err = run(capsys, store, "read", "rss_bytes", "--tier=auto", "--format=csv")
        assert (len(out.splitlines()), err) == (1201, "")
        roll_up(store)


def test_auto_passes_over_a_gap(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A VM that was lost and came back: the last ticks before are kept, and only some of those after."""
    rows, tiers = steady(3000), parse_tiers("1s:40s,5s:1h,20s:2h")
    add_session(store, rows[:700], end="lost", tiers=tiers)
    roll_up(store, T0 + 700_000)
    add_session(store, rows[:2000], tiers=tiers)
    roll_up(store, T0 + 2_000_000)
    add_session(store, rows, tiers=tiers)
    roll_up(store, T0 + 3_000_000)
    keep_house(store, T0 + 3_060_000)
    _, out, _ = run(capsys, store, "read", "rss_bytes", "--tier=0", "--unix", "--format=json")
    there = [(time - T0) // 1000 for time, *_ in as_json(out)]
    assert there == [*range(101, 701), *range(2001, 3001)]
    for start, step in ((650, 5), (2100, 1)):
        _, out, _ = run(
            capsys, store, "read", "rss_bytes", f"--start={T0 + 1000 * start}", "--unix", "--format=json"
        )
        times = [(time - T0) // 1000 for time, *_ in as_json(out)]
        assert {later - earlier for earlier, later in pairwise(times)} <= {step, 1}
        assert times[0] < start + step


def test_omitted_rows_are_logged(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Finer rows exist for a part only, and a tier does not reach back to the start."""
    long_ago(store)
    add_session(store, steady(5, T0 + 1_300_000), instance="vm-2", start_ms=T0 + 1_300_000)

    def logged(*flags: str) -> list[str]:
        lines = run(capsys, store, "read", "rss_bytes", *flags)[2].splitlines()
        return [line.removeprefix("rondo-query: ") for line in lines]

    coarse = (
        "tier 1 (5s:100s): a row every 5s, gauges as {}; finer rows do not reach back so far "
        "(a shorter --range, or --tier, shows the finer rows that are kept)"
    )
    assert logged() == [coarse.format("avg")]
    assert logged("--aggregate=max") == [coarse.format("max")]
    assert logged("--quiet") == []
    assert logged(f"--start={T0 + 700_000}") == []
    assert logged("--tier=1") == []  # everything there is, from the requested tier
    of_tier_0 = (
        "the beginning of 1 session is left out: tier 0 (1s:40s) has nothing older than "
        "2026-11-23T01:00:01.000Z; --tier auto reaches back furthest"
    )
    assert logged("--tier=0") == [of_tier_0]
    assert logged("--tier=0", f"--start={T0 + 300_000}") == [of_tier_0]
    assert logged("--tier=0", f"--start={T0 + 700_000}") == []
    assert logged("--tier=0", f"--start={T0 - 2000}", f"--end={T0 - 1000}")[:-1] == []  # before it began


def test_rows_older_than_the_last_tier_are_logged(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seconds, end in ((1200, None), (2400, None), (3600, "poweroff")):
        add_session(store, steady(seconds), end=end)
        roll_up(store, T0 + 1000 * seconds)
    keep_house(store, T0 + 3_660_000)
    _, out, err = run(capsys, store, "read", "rss_bytes", "--unix", "--format=csv")
    first = int(out.splitlines()[1].split(",")[0])
    assert first > T0 + 60_000
    assert err.splitlines()[-1] == (
        "rondo-query: the beginning of 1 session is left out: "
        f"nothing older than {format_times([first])[0]} is kept"
    )


def test_evictions_are_logged(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If the range includes it, and only then."""
    add_session(store, steady(1200), instance="long")
    add_session(store, steady(3, T0 + 1_200_000), instance="later", start_ms=T0 + 1_200_000)
    roll_up(store, T0 + 1_201_000)
    keep_house(store, T0 + 1_202_000, max_bytes=1)
    says = "evicted for lack of space: "
    for argv in ("list", "read rss_bytes --tier=0", f"read rss_bytes --start={T0} --tier=0"):
        status, _, err = run(capsys, store, *argv.split())
        assert status in (0, 1)
        assert says in err, argv
        assert "of tier 0" in err
        assert "2026-11-23T00:50:01.000Z to 2026-11-23T01:10:03.000Z" in err
    for argv in ("read rss_bytes --tier=1", f"read rss_bytes --tier=0 --end={T0}"):
        assert says not in run(capsys, store, *argv.split())[2], argv


def test_a_session_whose_series_changed(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is one session, with all series that it ever had."""
    other = (SERIES[2], Series("fds", (), GAUGE, "", ""))
    add_session(store, steady(3))
    add_session(store, [(T0 + 1000 * i, (0.25, 7.0)) for i in (4, 5)], series=other, end="poweroff")
    for _ in range(2):
        _, out, _ = run(capsys, store, "read", '{__name__=~"fds|rss_bytes"}', "--unix", "--format=json")
        assert [(time - T0, name, value) for time, name, value in as_json(out) if value == value] == [
            *((1000 * i, "rss_bytes", 0.5 if i < 4 else 0.25) for i in range(1, 6)),
            *((1000 * i, "fds", 7.0) for i in (4, 5)),
        ]
        _, out, _ = run(capsys, store, "list", "--format=json")
        (record,) = map(json.loads, out.splitlines())
        assert (record["series"], record["ticks"]) == (4, 5)
        roll_up(store)


def test_series_of_long_ago_are_series_of_the_session(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first series have only coarse rows: before its end, and after."""
    other = (Series("fds", (), GAUGE, "", ""),)
    tiers = parse_tiers("1s:40s,5s:1h,20s:2h")
    add_session(store, steady(5), tiers=tiers)
    roll_up(store, T0 + 6000)
    for seconds, end in ((1000, None), (1100, "poweroff")):
        rows = [(T0 + 1000 * i, (7.0,)) for i in range(6, seconds + 1)]
        add_session(store, rows, series=other, tiers=tiers, end=end)
        roll_up(store, T0 + 1000 * seconds)
        keep_house(store, T0 + 1000 * seconds + 60_000)
        _, out, _ = run(capsys, store, "read", "rss_bytes", "--tier=1", "--unix", "--format=json")
        there = [(time - T0, value) for time, _, value in as_json(out) if value == value]
        assert there == [(4000, 0.5), (9000, 0.5)]
        _, out, _ = run(capsys, store, "list", "--format=json")
        assert json.loads(out)["series"] == 4


def test_all_ticks_within_a_second_are_printed(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(T0 + 100 * i, (float(i), 0.0, 0.0)) for i in range(25)]
    add_session(store, rows, interval_ms=100, end="poweroff")
    for _ in range(2):
        _, out, _ = run(capsys, store, "read", 'exits_total{reason="io"}', "--unix", "--format=json")
        assert [(time, value) for time, _, value in as_json(out)] == [(t_ms, row[0]) for t_ms, row in rows]
        roll_up(store)


def test_the_last_of_counters_and_of_ticks(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_session(store, steady(90))
    flags = ["--aggregate=last", "--unix", "--format=json"]
    status, out, _ = run(capsys, store, "read", "{}", "--tier=0", *flags)
    assert (status, as_json(out)[-1]) == (0, (T0 + 90_000, "rss_bytes", 0.5))
    status, out, _ = run(capsys, store, "read", "exits_total", "--tier=2", *flags)
    assert (status, as_json(out)[0]) == (0, (T0 + 19_000, "exits_totalio", 190.0))


def test_sessions_are_kept_apart(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_session(store, steady(3), end="reset")
    add_session(store, steady(3, T0 + 10_000), start_ms=T0 + 10_000)
    _, out, _ = run(capsys, store, "read", 'exits_total{reason="io"}', "--rate", "--format=csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["value"] for row in rows] == ["10"] * 4  # no rate from one life to the next
    assert [row["session"] for row in rows] == ["2026-11-23T00:50:00.000Z"] * 2 + [
        "2026-11-23T00:50:10.000Z"
    ] * 2
    moments = [datetime.fromisoformat(row["time"]).timestamp() * 1000 - T0 for row in rows]
    assert moments == [2000, 3000, 12_000, 13_000]


def test_numbers_and_words(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = [0.1, 0.0, 3.0, 2.0**53, 1e300, -0.0, math.inf, -math.inf, math.nan]
    rows = [(T0 + 1000 * i, (0.0, 0.0, value)) for i, value in enumerate(values)]
    add_session(store, rows, instance='a b\x1b[31m"\n', labels=(("zone", "é\u2003x"),))
    _, out, _ = run(capsys, store, "read", "rss_bytes")
    fields = [line.split() for line in out.splitlines()]
    assert {len(each) for each in fields} == {4}
    shown = ["0.1", "0", "3", "9007199254740992", "1e+300", "-0.0", "+Inf", "-Inf", "NaN"]
    assert [each[3] for each in fields[1:]] == shown
    name = r'rss_bytes{instance="a\x20b\x1b[31m\"\n",zone="é\u2003x"}'
    assert {each[2] for each in fields[1:]} == {name}
    assert run(capsys, store, "read", name)[1] == out  # the printed name can be used in a selector
    _, out, _ = run(capsys, store, "read", "rss_bytes", "--format=csv")
    assert [row["value"] for row in csv.DictReader(io.StringIO(out))] == [*shown[:-1], ""]
    _, out, _ = run(capsys, store, "read", "rss_bytes", "--format=json")
    samples = [json.loads(line, parse_constant=pytest.fail) for line in out.splitlines()]
    assert [sample["value"] for sample in samples][-3:] == ["+Inf", "-Inf", None]
    assert samples[0]["labels"] == {"instance": 'a b\x1b[31m"\n', "zone": "é\u2003x"}
    assert samples[0]["time"] == "2026-11-23T00:50:00.000Z"


@pytest.mark.parametrize(
    ("argv", "status", "says"),
    [
        (["read", "exits_total{"], 64, "column 13"),
        (["read", "{}", "--tier", "3"], 64, "0 (1s:40s), 1 (5s:100s), 2 (20s:10m)"),
        (["read", "{}", "--tier", "x"], 64, "--tier"),
        (["read", "{}", "--range", "x"], 64, "--range"),
        (["read", "{}", "--start", "tomorrow"], 64, "--start: 'tomorrow' is not a time: write 14:12,"),
        (["read", "{}", "--end", "99999999999999999999"], 64, "--end"),
        (["read", "{}", "--start", "-1m", "--range", "1m"], 64, "--start"),
        (["read", "{}", "--start", "-1m", "--end", "-2m"], 64, "--end -2m is before --start -1m"),
        (["read", "{}", "--rate"], 64, 'rss_bytes{instance="vm-1"} is a gauge'),
        (["read", "{}", "--aggregate=last", "--tier=1"], 64, 'rss_bytes{instance="vm-1"} is a gauge'),
        (["read", "{}", "--aggregate=last"], 64, "avg, min and max; --tier 0 has every value"),
        (["read", "{}", "--format", "xml"], 64, "--format"),
        (["read", "nothing"], 1, "nothing matches nothing"),
        (["read", '{job="x"}'], 1, "no series here has the label 'job'"),
        (["read", "{}", "--range", "1ms"], 1, "last seen at 2026-11-23T00:50:05.000Z"),
        (["read", "exits_total", "--rate", "--start", str(T0 + 5000)], 1, "two values"),
        (["plot", "nothing"], 1, "nothing matches"),
        (["plot", "{}", "--width", "x"], 64, "--width"),
        ([], 64, "a command is missing: top, "),
        (["head"], 64, "there is no command 'head'; did you mean read?"),
        (["tail"], 64, "SELECTOR"),
    ],
)
def test_mistakes_are_named(
    store: Path,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    status: int,
    says: str,
) -> None:
    add_session(store, steady(5))
    got, out, err = run(capsys, store, *argv)
    assert (got, out) == (status, "")
    assert says in err
    assert "Traceback" not in err


def test_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("list", "read {}", "plot {}"):
        status, out, err = run(capsys, tmp_path / "none", *command.split())
        assert (status, out) == (69, "")
        assert f"{tmp_path / 'none'}: no store there" in err


def test_damage_does_not_hide_the_others(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_session(store, steady(3), instance="bad")
    add_session(store, steady(5), instance="bad")
    add_session(store, steady(5), instance="good")
    journal = flip_a_bit(store, T0 + 5000, "bad")
    for argv in (["read", "rss_bytes", "--unix"], ["export", "rss_bytes", "--format=csv"]):
        status, out, err = run(capsys, store, *argv)
        assert (status, out.count('good"'), out.count('bad"')) == (65, 5, 3)
        assert f"{journal}: byte " in err
        assert "left out: 1 damaged place (see rondo-query STORE check)" in err


def test_a_session_that_expires_meanwhile_is_read_as_it_was(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_session(store, steady(5), instance="gone")
    add_session(store, steady(5), instance="here")
    opened = Store(store)
    damage = Damage(opened)
    matches = find_in(opened.sessions(), parse_selector("rss_bytes"))
    shutil.rmtree(store / "tier_0")
    found = list(CurveReader(Question(), opened, damage).curves(matches))
    assert [(curve.session.instance, curve.t_ms.size) for curve in found if curve.session is not None] == [
        ("gone", 5),
        ("here", 5),
    ]
    damage.finish()
    assert not caplog.records


def test_a_reader_that_leaves_early_is_no_error(store: Path) -> None:
    add_session(store, steady(40))
    rondo_query = [sys.executable, "-c", "from rondo_tools.query.cli import main; raise SystemExit(main())"]
    # Far more than the pipe and our buffer can hold, so that writing must fail.
    for number in range(20):
        add_session(store, steady(40), instance=f"vm-{number}-{'x' * 1000}")
    with subprocess.Popen(
        [*rondo_query, store, "read", "{}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"time")
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141  # 128 + SIGPIPE, as the shell has it


def test_a_closed_standard_output_is_an_error(store: Path) -> None:
    add_session(store, steady(5))
    code = "import sys; sys.stdout = None; from rondo_tools.query.cli import main; sys.exit(main())"
    closed = subprocess.run(
        [sys.executable, "-c", code, store, "list"], capture_output=True, timeout=PATIENCE_S
    )
    assert (closed.returncode, closed.stdout) == (64, b"")
    assert closed.stderr.startswith(b"rondo-query: standard output is closed")


def test_help_has_examples_and_is_fast() -> None:
    code = """if True:
        import sys
        from rondo_tools.query.cli import main
        try:
            main(sys.argv[1:])
        finally:
            assert "numpy" not in sys.modules
            assert "plotext" not in sys.modules
        """
    for argv in (["--help"], *(["S", name, "--help"] for name, *_ in COMMANDS)):
        shown = subprocess.run(
            [sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True
        ).stdout
        assert "rondo-query vmm_metrics" in shown
        assert "exit status" in shown
