"""rondo-query list: how each session stands, for eyes, for awk and for jq."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_store import SERIES, T0, add_session

from rondo_tools.query.cli import main
from rondo_tools.query.damage import Damage
from rondo_tools.query.life import fields, lives
from rondo_tools.store.reader import Store

Query = Callable[..., subprocess.CompletedProcess[bytes]]


def steady(seconds: int, begin: int) -> list[tuple[int, tuple[float, ...]]]:
    return [(begin + 1000 * i, (1.0, 2.0, 3.0)) for i in range(1, seconds + 1)]


def listed(store: Store, now_ms: int, *, unix: bool = False) -> list[dict[str, Any]]:
    """The records; nothing is damaged."""
    damage = Damage(store)
    records = lives(store, store.sessions(), damage, now_ms, unix=unix)
    damage.finish()
    return records


def test_each_state(store: Path) -> None:
    add_session(store, steady(90, T0), instance="ended", end="poweroff")
    add_session(store, steady(3, T0 + 90_000), instance="alive", start_ms=T0 + 90_000)
    add_session(store, steady(3, T0 + 60_000), instance="dead", start_ms=T0 + 60_000)
    add_session(store, [], instance="no ticks", start_ms=T0 + 30_000)
    records = listed(Store(store), T0 + 93_000 + 8_000, unix=True)
    assert [
        {key: record[key] for key in ("instance", "first", "last", "state", "age_s")} for record in records
    ] == [
        {"instance": "ended", "first": T0 + 4000, "last": T0 + 90_000, "state": "poweroff", "age_s": 11},
        {"instance": "no ticks", "first": None, "last": None, "state": "silent", "age_s": 71},
        {"instance": "dead", "first": T0 + 61_000, "last": T0 + 63_000, "state": "silent", "age_s": 38},
        {"instance": "alive", "first": T0 + 91_000, "last": T0 + 93_000, "state": "running", "age_s": 8},
    ]
    records = listed(Store(store), T0 + 93_000 + 8_001)
    assert records[3]["state"] == "silent"  # three intervals and five seconds
    assert records[0]["session"] == "2026-11-23T00:50:00.000Z"


def test_a_last_tick_ahead_of_the_clock(store: Path, query: Query) -> None:
    """The clock was set back since: a VM that died before is not running until it is reached again."""
    now_ms = time.time_ns() // 1_000_000
    hour = 3_600_000
    for instance, ahead_ms, end in (
        ("an hour", hour, None),
        ("days", 48 * hour, None),
        ("minutes", hour // 20, None),
        ("ended", hour, "poweroff"),
        ("starts", hour, None),
    ):
        begin = now_ms + ahead_ms - 3000
        rows = [] if instance == "starts" else steady(3, begin)
        add_session(store, rows, instance=instance, start_ms=begin, end=end)
    done = query(store, "list", "--format=json")
    assert (done.returncode, done.stderr) == (0, b"")
    records = {each["instance"]: each for each in map(json.loads, done.stdout.splitlines())}
    assert {name: record["state"] for name, record in records.items()} == {
        "an hour": "silent",
        "days": "silent",
        "minutes": "silent",
        "ended": "poweroff",
        "starts": "silent",
    }
    # All that can be said of an age, whatever time passes between.
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


def test_rows_series_and_bytes(store: Path) -> None:
    add_session(store, steady(90, T0), end="deadline")
    (record,) = listed(Store(store), T0)
    assert (record["series"], record["rows_1s"], record["rows_5s"], record["rows_20s"]) == (
        len(SERIES),
        40,
        19,
        5,
    )
    on_disk = sum(file.stat().st_blocks * 512 for file in store.glob("instances/*/*/*"))
    assert record["bytes"] == on_disk > 0
    assert record["age_s"] == -90


def test_formats_say_the_same(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_session(store, steady(3, T0), instance="vm 1", end="signal")
    add_session(store, [], instance="vm-2", start_ms=T0 + 1)
    assert main([str(store), "list", "--format=json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [list(record) for record in records] == [fields(Store(store))] * 2
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


def test_a_session_that_expires_meanwhile_is_passed_over(store: Path) -> None:
    add_session(store, steady(3, T0), instance="gone")
    add_session(store, steady(3, T0), instance="here")

    class Expiring(Store):
        def sessions(self):  # type: ignore[no-untyped-def]
            sessions = super().sessions()
            shutil.rmtree(sessions[0].path)
            return sessions

    assert [record["instance"] for record in listed(Expiring(store), T0)] == ["here"]


def names(capsys: pytest.CaptureFixture[str], store: Path, *argv: str) -> list[str]:
    assert main([str(store), "list", "--format=json", *argv]) == 0
    return [json.loads(line)["instance"] for line in capsys.readouterr().out.splitlines()]


def test_sorted_and_filtered(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_session(store, steady(9, T0), instance="a", labels=(("zone", "x"),))
    add_session(store, steady(2, T0 + 20_000), instance="b", start_ms=T0 + 2, end="reset")
    add_session(store, [], instance="c", start_ms=T0 + 1)
    assert names(capsys, store) == ["a", "c", "b"]
    assert names(capsys, store, "--sort=instance") == ["a", "b", "c"]
    assert names(capsys, store, "--sort=instance", "--reverse") == ["c", "b", "a"]
    assert names(capsys, store, "--sort", "rows_1s") == ["c", "b", "a"]
    assert names(capsys, store, "--sort", "last") == ["a", "b", "c"]
    assert names(capsys, store, "--sort=last", "--reverse") == ["b", "a", "c"]  # what has no value is last
    assert names(capsys, store, "--match", '{instance=~"a|b"}', "--sort=session", "--reverse") == ["b", "a"]
    assert names(capsys, store, "--match", '{zone=""}') == ["c", "b"]
    assert main([str(store), "list", "--match", '{instance="d"}']) == 1
    assert "nothing matches" in capsys.readouterr().err
    assert main([str(store), "list", "--sort=size"]) == 64
    assert "--sort size: the fields are instance, session, first" in capsys.readouterr().err


def test_an_empty_store_lists_nothing(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_session(store, [])
    shutil.rmtree(store / "instances")
    assert main([str(store), "list"]) == 0
    assert capsys.readouterr().out.split() == fields(Store(store))
    assert main([str(store), "read", "{}"]) == 1
    assert "the store is empty" in capsys.readouterr().err
