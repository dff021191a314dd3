"""rondo-query list: the state of each session, for people, for awk and for jq."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

from rondo_tools.query.cli import main
from rondo_tools.query.face import Face
from rondo_tools.query.life import FIELDS, lives, newest
from rondo_tools.store.reader import Store
from tests.support.fixtures import Query
from tests.support.query.made_store import SERIES, T0, add_session, roll_up


def steady(seconds: int, begin: int) -> list[tuple[int, tuple[float, ...]]]:
    return [(begin + 1000 * i, (1.0, 2.0, 3.0)) for i in range(1, seconds + 1)]


def listed(store: Store, now_ms: int, *, unix: bool = False) -> list[dict[str, Any]]:
    """The records, by start."""
    columns = lives(newest(store.sessions(), None), now_ms, Face(unix=unix))
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def test_each_state(store: Path) -> None:
    add_session(store, steady(90, T0), instance="ended", end="poweroff")
    add_session(store, steady(3, T0 + 90_000), instance="alive", start_ms=T0 + 90_000)
    add_session(store, steady(3, T0 + 60_000), instance="dead", start_ms=T0 + 60_000)
    add_session(store, steady(3, T0 + 50_000), instance="lost", start_ms=T0 + 50_000, end="lost")
    add_session(store, steady(3, T0 + 40_000), instance="set", start_ms=T0 + 40_000, end="clock")
    add_session(store, steady(3, T0 + 35_000), instance="odd", start_ms=T0 + 35_000, end="vanished")
    add_session(store, [], instance="nothing", start_ms=T0 + 30_000)
    for _ in range(2):
        records = listed(Store(store), T0 + 93_000 + 8_000, unix=True)
        assert [
            [record[key] for key in ("instance", "first", "last", "state", "age_s")] for record in records
        ] == [
            ["ended", T0 + 1000, T0 + 90_000, "poweroff", 11],
            ["odd", T0 + 36_000, T0 + 38_000, "vanished", 63],
            ["set", T0 + 41_000, T0 + 43_000, "clock", 58],
            ["lost", T0 + 51_000, T0 + 53_000, "lost", 48],
            ["dead", T0 + 61_000, T0 + 63_000, "silent", 38],
            ["alive", T0 + 91_000, T0 + 93_000, "running", 8],
        ]
        roll_up(store)
    records = listed(Store(store), T0 + 93_000 + 8_001)
    assert records[-1]["state"] == "silent"  # three intervals and five seconds
    assert records[0]["session"] == "2026-11-23T00:50:00.000Z"


def test_a_session_without_a_tick(store: Path) -> None:
    add_session(store, [], end="error")
    for _ in range(2):
        (record,) = listed(Store(store), T0 + 1000)
        assert [record[one] for one in ("first", "last", "state", "ticks", "series")] == [
            None,
            None,
            "error",
            0,
            0,
        ]
        roll_up(store)


def test_a_lost_session_comes_back(store: Path) -> None:
    for seconds, end, state in ((3, "lost", "lost"), (4, None, "running"), (5, "reset", "reset")):
        add_session(store, steady(seconds, T0), end=end)
        for _ in range(2):
            (record,) = listed(Store(store), T0 + 5000)
            assert (record["state"], record["ticks"]) == (state, seconds)
            roll_up(store)


def test_a_last_tick_ahead_of_the_clock(store: Path, query: Query) -> None:
    """The clock was set back: a VM that died before is not running until that time comes again."""
    now_ms = time.time_ns() // 1_000_000
    hour = 3_600_000
    for instance, ahead_ms, end in (
        ("an hour", hour, None),
        ("days", 48 * hour, None),
        ("minutes", hour // 20, None),
        ("ended", hour, "poweroff"),
    ):
        begin = now_ms + ahead_ms - 3000
        add_session(store, steady(3, begin), instance=instance, start_ms=begin, end=end)
    done = query(store, "list", "--format=json")
    assert (done.returncode, done.stderr) == (0, b"")
    records = {each["instance"]: each for each in map(json.loads, done.stdout.splitlines())}
    assert {name: record["state"] for name, record in records.items()} == {
        "an hour": "silent",
        "days": "silent",
        "minutes": "silent",
        "ended": "poweroff",
    }
    # The only bounds of an age, for any time between the two.
    assert records["days"]["age_s"] < records["an hour"]["age_s"] < 0
    assert records["days"]["age_s"] >= -48 * 3600
    assert records["an hour"]["age_s"] == records["ended"]["age_s"]
    done = query(store, "tail", "{}")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"rondo-query: nothing that matches {} is running")


def test_a_producer_whose_clock_is_a_little_ahead_is_running(store: Path) -> None:
    add_session(store, steady(3, T0))
    for ahead_ms, state, age_s in ((500, "running", 0), (8000, "running", -8), (8001, "silent", -8)):
        (record,) = listed(Store(store), T0 + 3000 - ahead_ms)
        assert (record["state"], record["age_s"]) == (state, age_s)


def test_series_and_ticks(store: Path) -> None:
    add_session(store, steady(90, T0), end="deadline")
    (record,) = listed(Store(store), T0)
    assert (record["series"], record["ticks"]) == (len(SERIES), 90)
    assert record["age_s"] == -90


def test_formats_have_the_same_records(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_session(store, steady(3, T0), instance="vm 1", end="signal")
    add_session(store, [], instance="vm-2", start_ms=T0 + 1, end="error")
    assert main([str(store), "list", "--format=json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [list(record) for record in records] == [list(FIELDS)] * 2
    assert main([str(store), "list", "--format=csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert main([str(store), "list"]) == 0
    names, *table = [line.split() for line in capsys.readouterr().out.splitlines()]
    ignored = names.index("age_s")
    for record, row, line in zip(records, rows, table, strict=True):
        record["age_s"] = row["age_s"] = line[ignored] = "0"
        assert list(row.values()) == ["" if value is None else str(value) for value in record.values()]
        assert line == [
            "-" if value is None else str(value).replace(" ", "\\x20") for value in record.values()
        ]


def names(capsys: pytest.CaptureFixture[str], store: Path, *argv: str) -> list[str]:
    assert main([str(store), "list", "--format=json", *argv]) == 0
    return [json.loads(line)["instance"] for line in capsys.readouterr().out.splitlines()]


def test_sorted_and_filtered(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_session(store, steady(9, T0), instance="a", labels=(("zone", "x"),))
    add_session(store, steady(2, T0 + 20_000), instance="b", start_ms=T0 + 2, end="reset")
    add_session(store, [], instance="c", start_ms=T0 + 1, end="error")
    assert names(capsys, store) == ["a", "c", "b"]
    assert names(capsys, store, "--sort=instance") == ["a", "b", "c"]
    assert names(capsys, store, "--sort=instance", "--reverse") == ["c", "b", "a"]
    assert names(capsys, store, "--sort", "ticks") == ["c", "b", "a"]
    assert names(capsys, store, "--sort", "last") == ["a", "b", "c"]
    assert names(capsys, store, "--sort=last", "--reverse") == [
        "b",
        "a",
        "c",
    ]  # a row without a value is last
    assert names(capsys, store, "--match", '{instance=~"a|b"}', "--sort=session", "--reverse") == ["b", "a"]
    assert names(capsys, store, "--match", '{zone=""}') == ["b"]  # c has no series
    assert main([str(store), "list", "--match", '{instance="d"}']) == 1
    assert "nothing matches" in capsys.readouterr().err
    assert main([str(store), "list", "--sort=size"]) == 64
    assert "--sort size: the fields are instance, session, first" in capsys.readouterr().err


def test_filters_of_the_list(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sessions that lived since a time, sessions in a state, the newest."""
    now_ms = time.time_ns() // 1_000_000
    hour, day = 3_600_000, 24 * 3_600_000
    for instance, ago_ms, end in (
        ("old", 9 * day, "poweroff"),
        ("lost", 2 * day, "lost"),
        ("mute", hour, None),
        ("done", hour // 2, "poweroff"),
    ):
        begin = now_ms - ago_ms
        add_session(store, steady(3, begin), instance=instance, start_ms=begin, end=end)
    begin = now_ms - 2 * hour
    add_session(store, [(begin, (1.0, 1.0, 1.0))], instance="slow", start_ms=begin, interval_ms=hour)
    for _ in range(2):
        assert names(capsys, store) == ["old", "lost", "slow", "mute", "done"]
        assert names(capsys, store, "--since=3d") == ["lost", "slow", "mute", "done"]
        assert names(capsys, store, "--since=1d12h") == ["slow", "mute", "done"]
        assert names(capsys, store, "--since=50m") == ["slow", "done"]  # it is running
        assert names(capsys, store, "--since", "-50m") == ["slow", "done"]
        assert names(capsys, store, f"--since={now_ms - hour // 2}") == ["slow", "done"]
        assert names(capsys, store, "--state=silent") == ["mute"]
        assert names(capsys, store, "--state", "lost,silent,never") == ["lost", "mute"]
        assert names(capsys, store, "--state=poweroff", "--since=1d") == ["done"]
        assert names(capsys, store, "-n", "2") == ["mute", "done"]
        assert names(capsys, store, "-n2", "--sort=instance") == ["done", "mute"]
        assert names(capsys, store, "-n0") == []
        assert names(capsys, store, "--match", '{instance="old"}') == ["old"]
        assert main([str(store), "list", "--match", '{instance="old"}', "--since=1d"]) == 1
        assert "no session that was alive since 20" in capsys.readouterr().err
        assert main([str(store), "list", "--state=reset,signal"]) == 1
        assert "no session that is reset or signal" in capsys.readouterr().err
        roll_up(store, now_ms)
    for flags, says in (
        ("--since=x", "--since: 'x' is not a time"),
        ("--since=5x", "--since: '5x' is not a duration"),
        ("--state=Lost", "--state: 'Lost' is not a state"),
        ("-n=-1", "-n: '-1' is not a count"),
    ):
        try:
            status: object = main([str(store), "list", flags])
        except SystemExit as exc:
            status = exc.code
        assert (status, says in capsys.readouterr().err) == (64, True), flags


def test_an_empty_store_lists_nothing(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_session(store, [])
    assert main([str(store), "list"]) == 0
    assert capsys.readouterr().out.split() == list(FIELDS)
    assert main([str(store), "read", "{}"]) == 1
    assert "the store is empty" in capsys.readouterr().err
