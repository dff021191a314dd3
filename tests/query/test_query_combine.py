"""Combined series: sums and the like, rates, groups and the highest, against plain loops."""

from __future__ import annotations

import csv
import io
import json
import math
import tempfile
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rondo_tools.catalog import COUNTER, GAUGE, Series
from rondo_tools.query import group
from rondo_tools.query.cli import main
from rondo_tools.query.curve import Curve
from rondo_tools.query.group import Grouping, highest
from rondo_tools.query.steps import common_step_ms, lasts, rolled_up
from rondo_tools.store.reader import Store
from tests.support.query.made_store import SERIES, T0, Row, add_session, keep_house, roll_up

NAN = math.nan
VALUE = st.floats(-1e12, 1e12) | st.integers(-5, 5).map(float) | st.sampled_from((NAN, NAN, math.inf))

Points = list[tuple[int, float]]


class Life(NamedTuple):
    """A session made by a test."""

    instance: str
    start_ms: int
    interval_ms: int
    labels: tuple[tuple[str, str], ...]
    rows: list[Row]


# --- the plain loops


def plain_steps(points: Points, step_ms: int, aggregate: str) -> Points:
    steps: dict[int, list[float]] = {}
    for t_ms, value in points:
        if not math.isnan(value):
            steps.setdefault(t_ms // step_ms * step_ms, []).append(value)
    return [(step, plain(values, aggregate)) for step, values in steps.items()]


def plain_rates(points: Points, step_ms: int) -> Points:
    last: dict[int, tuple[int, float]] = {}
    for t_ms, value in points:
        if not math.isnan(value):
            last[t_ms // step_ms * step_ms] = t_ms, value
    return [
        (step, (v1 if v1 < v0 else v1 - v0) * 1000 / (t1 - t0))
        for (_, (t0, v0)), (step, (t1, v1)) in pairwise(last.items())
    ]


def plain(values: Sequence[float], how: str, quantile: float = 0.0) -> float:
    total = 0.0
    for value in values:
        total += value
    if how == "quantile":
        ordered = sorted(values)
        rank = quantile * (len(values) - 1)
        lower = math.floor(rank)
        weight = rank - lower
        if not weight:
            return ordered[lower]
        return ordered[lower] * (1 - weight) + ordered[lower + 1] * weight
    return {
        "last": values[-1],
        "sum": total,
        "avg": total / len(values),
        "min": min(values),
        "max": max(values),
        "count": float(len(values)),
    }[how]


def plain_groups(series: Iterable[tuple[object, Points]], how: str, quantile: float) -> dict[object, Points]:
    groups: dict[object, dict[int, list[float]]] = {}
    for key, points in series:
        for step, value in points:
            if not math.isnan(value):
                groups.setdefault(key, {}).setdefault(step, []).append(value)
    return {
        key: [(step, plain(values, how, quantile)) for step, values in sorted(steps.items())]
        for key, steps in groups.items()
    }


def same(one: Points, other: Points) -> bool:
    return [t for t, _ in one] == [t for t, _ in other] and np.array_equal(
        [v for _, v in one], [v for _, v in other], equal_nan=True
    )


def points_of(t_ms: Iterable[int], values: Iterable[float]) -> Points:
    return list(zip(np.asarray(t_ms).tolist(), np.asarray(values).tolist(), strict=True))


# --- the pure parts


POINTS = st.lists(st.integers(-50, 3000), max_size=40, unique=True).flatmap(
    lambda times: st.tuples(*[VALUE] * len(times)).map(
        lambda values: list(zip(sorted(times), values, strict=True))
    )
)


def arrays(points: Points) -> tuple[np.ndarray, np.ndarray]:
    return np.array([t for t, _ in points], np.int64), np.array([v for _, v in points], np.float64)


@given(POINTS, st.sampled_from((1, 7, 100, 1000)), st.sampled_from(("last", "avg", "min", "max")))
def test_steps(points: Points, step_ms: int, aggregate: str) -> None:
    assert same(
        points_of(*rolled_up(*arrays(points), step_ms, aggregate)), plain_steps(points, step_ms, aggregate)
    )
    last: dict[int, tuple[int, float]] = {}
    for t_ms, value in points:
        if not math.isnan(value):
            last[t_ms // step_ms] = t_ms, value
    assert points_of(*lasts(*arrays(points), step_ms)) == list(last.values())


def test_the_step_in_which_every_session_has_a_row() -> None:
    assert common_step_ms(0, [100, 1000, 250]) == 1000
    assert common_step_ms(0, []) == 1
    assert common_step_ms(10_000, [1000]) == 10_000
    assert common_step_ms(10_000, [15_000, 1000]) == 20_000  # of whole rows
    assert common_step_ms(10_000, [20_000]) == 20_000


def curve_of(points: Points, start_ms: int = 0, **labels: str) -> Curve:
    series = Series("x", tuple(sorted(labels.items())), GAUGE, "bytes", "")
    return Curve(None, series, 1, *arrays(points), start_ms)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), POINTS), max_size=6),
    st.sampled_from(("sum", "avg", "min", "max", "count", "quantile")),
    st.sampled_from((0.0, 0.25, 0.5, 0.99, 1.0)),
    st.sampled_from((0, 10, 1 << 16)),
)
def test_groups(some: list[tuple[str, Points]], how: str, quantile: float, pending: int) -> None:
    """Also if values are added a few at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group, "_PENDING", pending)
        curves = [curve_of(points, zone=zone, other=str(at)) for at, (zone, points) in enumerate(some)]
        got = {
            curve.labels["zone"]: points_of(curve.t_ms, curve.values)
            for curve in Grouping(how, ("zone",), quantile).curves(curves)
        }
    expected = plain_groups(some, how, quantile)
    assert got.keys() == expected.keys()
    assert all(same(got[key], expected[key]) for key in got)


@given(st.lists(POINTS, max_size=8), st.integers(1, 9))
def test_the_highest(some: list[Points], count: int) -> None:
    def average(points: Points) -> float:
        values = [value for _, value in points if not math.isnan(value)]
        return float(np.mean(values)) if values else -math.inf

    found = highest((curve_of(points, at=str(at)) for at, points in enumerate(some)), count)
    order = sorted(range(len(some)), key=lambda at: (-average(some[at]), at))[:count]
    assert found.places == [at + 1 for at in order]
    assert [curve.labels["at"] for curve in found.curves] == [str(at) for at in order]
    assert found.left_out == len(some) - len(order)


# --- the command, with a store


@st.composite
def fleets(draw: st.DrawFn) -> list[Life]:
    """Up to five lives of two instances, each at its own milliseconds, a tick every second or every three."""
    found, begin_ms = [], dict.fromkeys("ab", T0)
    for _ in range(draw(st.integers(1, 5))):
        instance = draw(st.sampled_from("ab"))
        start_ms = begin_ms[instance] + draw(st.integers(0, 3000))
        interval_ms = draw(st.sampled_from((1000, 3000)))
        ticks = draw(st.lists(st.integers(1, 8), min_size=1, unique=True).map(sorted))
        shift = draw(st.integers(-300, 300))
        rows: list[Row] = [
            (start_ms + each * interval_ms + shift, draw(st.tuples(VALUE, VALUE, VALUE))) for each in ticks
        ]
        zone = draw(st.sampled_from((None, "x", "y")))
        labels = () if zone is None else (("zone", zone),)
        found.append(Life(instance, start_ms, interval_ms, labels, rows))
        begin_ms[instance] = rows[-1][0] + 1
    return sorted(found)


def make(store: Path, lives: Iterable[Life]) -> None:
    for life in lives:
        add_session(
            store, life.rows, instance=life.instance, start_ms=life.start_ms, end="reset",
            labels=life.labels, interval_ms=life.interval_ms,
        )  # fmt: skip


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    try:
        status = main([str(each) for each in argv])
    except SystemExit as exc:
        status = exc.code if isinstance(exc.code, int) else -1
    out, err = capsys.readouterr()
    return status, out, err


def series_of(lives: Iterable[Life], selected: Sequence[int]) -> Iterable[tuple[Life, Series, Points]]:
    for life in lives:
        for number in selected:
            yield life, SERIES[number], [(t_ms, values[number]) for t_ms, values in life.rows]


@pytest.mark.heavy
@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lives=fleets(),
    how=st.sampled_from(("sum", "avg", "min", "max", "count", "quantile")),
    by=st.sampled_from(((), ("instance",), ("zone", "reason"), ("session",))),
    rate=st.booleans(),
    since_birth=st.booleans(),
    aggregate=st.sampled_from(("avg", "min", "max")),
    is_rolled_up=st.booleans(),
)
def test_read_against_plain_loops(
    capsys: pytest.CaptureFixture[str],
    lives: list[Life],
    how: str,
    by: tuple[str, ...],
    rate: bool,
    since_birth: bool,
    aggregate: str,
    is_rolled_up: bool,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        make(store, lives)
        if is_rolled_up:
            roll_up(store)
        flags = [f"--{how}"] if how != "quantile" else ["--quantile=0.75"]
        flags += [f"--by={','.join(by)}"] if by else []
        flags += ["--rate"] if rate else []
        flags += ["--since-birth"] if since_birth else []
        selector = "exits_total" if rate else "{}"
        status, out, _ = run(
            capsys, store, "read", selector, "--unix", "--format=json", f"--aggregate={aggregate}", *flags
        )
    if "zone" in by and not any(life.labels for life in lives):
        assert (status, out) == (64, "")  # no series has such a label
        return
    step_ms = max(life.interval_ms for life in lives)
    lined_up = []
    for life, series, points in series_of(lives, (0, 1) if rate else (0, 1, 2)):
        if since_birth:
            points = [(t_ms - life.start_ms, value) for t_ms, value in points]
        one = "last" if series.kind == COUNTER else aggregate
        points = plain_rates(points, step_ms) if rate else plain_steps(points, step_ms, one)
        labels = {"instance": life.instance, **dict(life.labels), **dict(series.labels)}
        key = (
            series.name,
            tuple(sorted((name, labels[name]) for name in by if name in labels)),
            life.start_ms if "session" in by else None,
        )
        lined_up.append((key, points))
    expected = plain_groups(lined_up, how, 0.75)
    got: dict[object, Points] = {}
    for line in out.splitlines():
        sample = json.loads(line)
        key = sample["name"], tuple(sorted(sample["labels"].items())), sample["session"]
        value = NAN if sample["value"] is None else float(sample["value"])
        got.setdefault(key, []).append((sample["time"], value))
    assert got.keys() == expected.keys()
    assert all(same(got[key], expected[key]) for key in got)
    assert status == (0 if expected else 1)


def steady(seconds: int, begin: int, each: float, memory: float) -> list[Row]:
    return [(begin + 1000 * i, (each * i, 0.0, memory)) for i in range(1, seconds + 1)]


@pytest.fixture
def aged(store: Path) -> Path:
    """A VM of 20 minutes, the first ten of which have only coarse rows left, and one that lived for 30 s
    then, whose coarse rows have expired and whose ticks are left."""
    add_session(store, steady(30, T0 + 3000, 7.0, 2.0), instance="short", start_ms=T0 + 3000, end="reset")
    roll_up(store, T0 + 40_000)
    add_session(store, steady(1200, T0, 10.0, 1.0), instance="long", end="reset")
    roll_up(store, T0 + 1_201_000)
    keep_house(store, T0 + 1_400_000)
    kept = {
        session.instance: [session.rows(tier).t_ms.size for tier in (0, 1)]
        for session in Store(store).sessions()
    }
    assert kept == {"short": [30, 0], "long": [600, 241]}
    return store


def test_one_life_from_ticks_and_one_from_a_coarser_tier(
    aged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, err = run(capsys, aged, "read", "rss_bytes", "--sum", "--unix", "--format=csv")
    rows = {int(row["time"]) - T0: float(row["value"]) for row in csv.DictReader(io.StringIO(out))}
    assert rows == {5000 * step: 3.0 if step < 7 else 1.0 for step in range(241)}
    assert "tier 1 (5s:100s)" in err
    _, out, _ = run(
        capsys, aged, "read", 'exits_total{reason="io"}', "--rate", "--sum", "--unix", "--format=csv"
    )
    rows = {int(row["time"]) - T0: float(row["value"]) for row in csv.DictReader(io.StringIO(out))}
    assert rows == {5000 * step: 17.0 if 0 < step < 7 else 10.0 for step in range(1, 241)}


@pytest.mark.parametrize("aggregate", ["avg", "min", "max"])
def test_ticks_are_rolled_up_as_the_store_does(
    store: Path, capsys: pytest.CaptureFixture[str], aggregate: str
) -> None:
    """A life that is complete in tier 0, in steps of tier 1, equals its rows in tier 1, to the bit."""
    rng = np.random.default_rng(1)
    rows = [(T0 + 1000 * i + int(rng.integers(900)), tuple(rng.normal(size=3))) for i in range(1, 40)]
    add_session(store, steady(1200, T0, 10.0, 1.0), instance="long", end="reset")
    add_session(store, rows, instance="short", end="reset")
    roll_up(store, T0 + 1_201_000)

    def values(*flags: str) -> list[float]:
        argv = ["{}", "--unix", "--format=json", f"--aggregate={aggregate}", *flags]
        _, out, _ = run(capsys, store, "read", *argv)
        samples = map(json.loads, out.splitlines())
        return [each["value"] for each in samples if each["labels"]["instance"] == "short"]

    coarse = values("--tier=1")
    keep_house(store, T0 + 1_260_000)
    lined_up = values("--max", "--by=instance,reason")
    assert lined_up == coarse
    assert len(coarse) == 3 * 8


def test_only_a_few_rows_are_kept_between_the_passes(
    aged: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = aged, "read", "{}", "--sum", "--by=reason", "--unix"
    expected = run(capsys, *argv)
    monkeypatch.setattr("rondo_tools.query.lineup._KEPT_BYTES", 0)
    assert run(capsys, *argv) == expected


def test_a_vm_without_a_value_adds_nothing(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor does NaN; and a VM that ticks every three seconds does not appear and disappear."""
    add_session(store, [(T0 + 1000 * i + 17, (0.0, 0.0, 1.0)) for i in range(1, 10)], instance="a")
    add_session(store, [(T0 + 3000 * i, (0.0, 0.0, 10.0)) for i in (1, 2)], instance="b", interval_ms=3000)
    add_session(store, [(T0 + 4000, (0.0, 0.0, NAN)), (T0 + 7000, (0.0, 0.0, 100.0))], instance="c")
    _, out, _ = run(capsys, store, "read", "rss_bytes", "--sum", "--unix")
    assert [line.split() for line in out.splitlines()[1:]] == [
        [str(T0), "-", "rss_bytes", "1"],
        [str(T0 + 3000), "-", "rss_bytes", "11"],
        [str(T0 + 6000), "-", "rss_bytes", "111"],
        [str(T0 + 9000), "-", "rss_bytes", "1"],
    ]


def test_no_rate_is_taken_across_two_lives(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_session(store, steady(5, T0, 10.0, 1.0), end="reset")
    add_session(store, steady(5, T0 + 5000, 1000.0, 1.0), start_ms=T0 + 5000)
    argv = 'exits_total{reason="io"}', "--rate", "--sum", "--by=instance", "--unix", "--format=json"
    _, out, _ = run(capsys, store, "read", *argv)
    samples = [json.loads(line) for line in out.splitlines()]
    assert [(each["time"] - T0, each["value"]) for each in samples] == [
        *((1000 * i, 10) for i in range(2, 6)),
        *((1000 * i, 1000) for i in range(7, 11)),
    ]


def fleet(store: Path, number: int = 12) -> None:
    for each in range(number):
        add_session(store, steady(5, T0, 1.0, float(each * 7 % number)), instance=f"vm-{each:02}")


@pytest.mark.parametrize("format", ["table", "csv", "json"])
def test_topk(store: Path, capsys: pytest.CaptureFixture[str], format: str) -> None:
    fleet(store)
    _, out, _ = run(capsys, store, "read", "rss_bytes", "--topk=3", f"--format={format}")
    found = [
        name for line in out.splitlines() for name in (f"vm-{at:02}" for at in range(12)) if name in line
    ]
    assert list(dict.fromkeys(found)) == ["vm-05", "vm-10", "vm-03"]  # 11, 10, 9: the highest first
    assert len(found) == 15
    _, out, _ = run(capsys, store, "read", "rss_bytes", "--max", "--by=instance", "--topk=1", "--unix")
    assert [line.split()[1:] for line in out.splitlines()[1:]] == [
        ["-", 'rss_bytes{instance="vm-05"}', "11"]
    ] * 5


def test_the_session_flag_selects_lives(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for at in range(3):
        start_ms = T0 + 60_000 * at
        add_session(store, steady(5, start_ms, 1.0, at), start_ms=start_ms, end="reset")
    add_session(store, steady(5, T0 + 7, 1.0, 7), instance="vm-2", start_ms=T0 + 7)

    def shown(*flags: str) -> list[int]:
        _, out, _ = run(capsys, store, "read", "rss_bytes", "--unix", "--format=json", *flags)
        return sorted({json.loads(line)["value"] for line in out.splitlines()})

    assert shown() == [0, 1, 2, 7]
    assert shown("--session=last") == shown("--session", "-1") == [2, 7]
    assert shown("--session", "-2") == [1]
    assert shown("--session=-3,-1") == [0, 2, 7]
    assert shown("--session=last,-2") == [1, 2, 7]
    assert shown("--session=2026-11-23T00:50:00.007Z") == shown(f"--session={T0 + 7}") == [7]
    assert shown("--session=2026-11-23T00:50:00.000Z") == [0]
    assert shown("--session=2026-11-23T00:50:00Z") == shown(f"--session={T0 // 1000}") == [0, 7]
    assert shown("--session=2026-11-23 00:51", "--utc") == shown("--session=2026-11-22T19:51-05:00") == [1]
    assert shown("--session=2026-11-23", "--utc") == [0, 1, 2, 7]
    assert shown("--session=last,2026-11-23T00:50:00.000Z") == [0, 2, 7]
    # All lives are counted, also those that ended before the range.
    err = run(capsys, store, "read", "rss_bytes", "--session=-2", f"--start={T0 + 90_000}")[2]
    assert "no values from" in err  # and not that there is no such life
    assert shown("--session=-1", f"--start={T0 + 90_000}") == [2]
    status, out, err = run(capsys, store, "read", "rss_bytes", "--session=-4")
    assert (status, out) == (1, "")
    assert "--session -4: there is none; vm-1 has 3 sessions (see rondo-query STORE list)" in err


def test_two_lives_since_birth_share_rows(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They begin at different milliseconds, and are in the same rows."""
    for at, start_ms in enumerate((T0 + 308, T0 + 60_900)):
        rows = [(start_ms // 1000 * 1000 + 1000 * i, (0.0, 0.0, 10.0 * at + i)) for i in range(1, 4)]
        add_session(store, rows, start_ms=start_ms, end="reset")
    argv = store, "read", "rss_bytes", "--session=-2,-1", "--since-birth"
    _, out, _ = run(capsys, *argv, "--format=csv")
    times = [row["time"] for row in csv.DictReader(io.StringIO(out))]
    assert times == ["0.692", "1.692", "2.692", "0.100", "1.100", "2.100"]
    _, out, _ = run(capsys, *argv, "--format=json", "--unix")
    assert [json.loads(line)["time"] for line in out.splitlines()] == [692, 1692, 2692, 100, 1100, 2100]
    _, out, _ = run(capsys, *argv, "--pivot")
    assert [line.split() for line in out.splitlines()] == [
        [
            "time",
            'rss_bytes{instance="vm-1",session="2026-11-23T00:50:00.308Z"}',
            'rss_bytes{instance="vm-1",session="2026-11-23T00:51:00.900Z"}',
        ],
        ["0.000", "1", "11"],
        ["1.000", "2", "12"],
        ["2.000", "3", "13"],
    ]


@pytest.mark.parametrize(
    ("argv", "status", "says"),
    [
        ("read {} --sum --max", 64, "--sum and --max: give one of them"),
        ("read {} --count --quantile=0.5", 64, "--count and --quantile: give one of them"),
        ("read {} --by=instance", 64, "--by groups series: choose what to compute, --sum, --avg,"),
        (
            "read {} --sum --by=tenant",
            64,
            "--by tenant: the labels of these series are instance, reason, session",
        ),
        ("read {} --sum --by=a-b", 64, "--by: 'a-b' is not a label: write instance, reason, or several"),
        ("read {} --sum --by=", 64, "--by: '' is not a label"),
        ("read {} --quantile=2", 64, "--quantile: '2' is not a quantile: write a number from 0 to 1"),
        ("read {} --quantile=nan", 64, "--quantile: 'nan' is not a quantile"),
        ("read {} --topk=0", 64, "--topk: at least 1 is needed"),
        ("read {} --topk=x", 64, "--topk: 'x' is not a count"),
        ("read {} --session=first", 64, "--session: 'first' is not a time"),
        ("read {} --session=-0", 64, "--session: '-0' is no life: write last, -1, -2, or its start"),
        ("read {} --session=-1h", 64, "--session: '-1h' is no life"),
        ("read {} --session=", 64, "--session: '' is not a time"),
        ("read {} --pivot --format=json", 64, "--pivot makes a table or CSV: add --format csv"),
        ("read {} --sum --rate", 64, "--rate is for counters"),
        ("export {} --format=jsonl --pivot", 64, "--pivot makes a table or CSV"),
        ("export {} --format=openmetrics --sum", 64, "--sum: openmetrics has only stored samples"),
        ("export exits_total --format=openmetrics --rate", 64, "--rate: openmetrics has only stored samples"),
        (
            "export {} --format=openmetrics --since-birth",
            64,
            "--since-birth: openmetrics has only stored samples",
        ),
        ("export {} --format=openmetrics --topk=1", 64, "--topk: openmetrics has only stored samples"),
        ("plot {} --topk=99", 64, "--topk 99: a plot can distinguish at most 52 curves"),
        (f"read {{}} --sum --start={T0 + 10_000}", 1, "no values from"),
    ],
)
def test_mistakes_are_named(
    store: Path, capsys: pytest.CaptureFixture[str], argv: str, status: int, says: str
) -> None:
    add_session(store, steady(5, T0, 1.0, 1.0))
    got, out, err = run(capsys, store, *argv.split())
    assert (got, out) == (status, "")
    assert says in err
    assert "Traceback" not in err


def test_export(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fleet(store, 3)
    argv = "exits_total", "--format=jsonl", "--rate", "--sum", "--by=reason", "--label=job=x"
    status, out, _ = run(capsys, store, "export", *argv)
    assert status == 0
    assert json.loads(out.splitlines()[0]) == {
        "time": "2026-11-23T00:50:02.000Z",
        "session": None,
        "name": "exits_total",
        "labels": {"reason": "io"},
        "value": 3,
    }
    status, out, _ = run(capsys, store, "export", "rss_bytes", "--format=openmetrics", "--session=last")
    assert (status, out.count("\nrss_bytes{")) == (0, 15)


def letters(picture: str) -> set[str]:
    """The letters drawn inside the frame."""
    return {
        char
        for line in picture.splitlines()
        if "│" in line or "┤" in line
        for char in line.split("┤" if "┤" in line else "│", 1)[1]
        if char.isalpha()
    }


def test_a_plot_of_a_fleet_has_the_highest(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("plotext")
    fleet(store)
    _, out, err = run(capsys, store, "plot", "rss_bytes", "--width=80", "--height=30")
    assert err == (
        "rondo-query: the 8 highest of 12 curves, by their averages (--topk N draws more, --sum one of all)\n"
    )
    legend = [line for line in out.splitlines() if "instance=" in line]
    assert [line[-4:-2] for line in legend] == ["05", "10", "03", "08", "01", "06", "11", "04"]
    assert letters(out) == set("abcdefgh")
    _, out, err = run(capsys, store, "plot", "rss_bytes", "--topk=12", "--height=40")
    assert (err, letters(out)) == ("", set("abcdefghijkl"))
    _, out, err = run(capsys, store, "plot", "rss_bytes", "--sum", "--height=20")
    assert (err, out.splitlines()[-1]) == ("", "aa rss_bytes")


def test_plots_of_two_lives(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("plotext")
    for at, start_ms in enumerate((T0, T0 + 600_000)):
        rows = [(start_ms + 1000 * i, (0.0, 0.0, float((at + 1) * i))) for i in range(1, 101)]
        add_session(store, rows, start_ms=start_ms, end="reset")
    argv = store, "plot", "rss_bytes", "--since-birth"
    status, out, _ = run(capsys, *argv, "--width=80", "--height=20")
    assert status == 0
    assert "0:01:00" in out
    assert "since each session began" in out
    assert [line.rsplit(" ", 1)[1] for line in out.splitlines()[-2:]] == [
        "2026-11-23T00:50:00.000Z",
        "2026-11-23T01:00:00.000Z",
    ]
    pytest.importorskip("matplotlib")
    file = tmp_path / "two.svg"
    assert run(capsys, *argv, f"--output={file}")[0] == 0
    text = file.read_text()
    assert ">0:01:00<" in text
    assert ">since each session began<" in text
    assert "2026-11-23T01:00:00.000Z" in text
