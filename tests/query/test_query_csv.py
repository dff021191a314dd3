"""CSV with a column for each label, and --pivot: a column for each series, a row for each time."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest

from rondo_tools.catalog import GAUGE, Series
from rondo_tools.query import pivot
from rondo_tools.query.cli import main
from tests.support.query.made_store import SERIES, T0, add_session, keep_house, roll_up


def run(capsys: pytest.CaptureFixture[str], store: Path, *argv: str) -> str:
    assert main([str(store), *argv]) == 0
    return capsys.readouterr().out


def records(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("command", ["read", "export"])
def test_a_column_for_each_label(store: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    rows = [(T0 + 1000, (1.0, 2.0, 3.0))]
    add_session(store, rows, labels=(("zone", 'é "x", y'),))
    add_session(store, rows, instance="vm-2")
    text = run(capsys, store, command, "{}", "--format=csv")
    assert text.splitlines()[0] == "time,session,series,value,name,instance,reason,zone"
    assert [list(each.values())[3:] for each in records(text)] == [
        ["1", "exits_total", "vm-1", "io", 'é "x", y'],
        ["2", "exits_total", "vm-1", "hlt", 'é "x", y'],
        ["3", "rss_bytes", "vm-1", "", 'é "x", y'],
        ["1", "exits_total", "vm-2", "io", ""],
        ["2", "exits_total", "vm-2", "hlt", ""],
        ["3", "rss_bytes", "vm-2", "", ""],
    ]
    # Only labels of the matching series.
    text = run(capsys, store, command, 'rss_bytes{instance="vm-2"}', "--format=csv")
    assert text.splitlines()[0] == "time,session,series,value,name,instance"
    text = run(capsys, store, "export", "rss_bytes", "--format=csv", "--label=job=x")
    assert {each["job"] for each in records(text)} == {"x"}


def test_labels_with_the_names_of_columns(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = tuple((name, f"the {name}") for name in ("label_value", "name", "time", "value"))
    add_session(store, [(T0 + 1000, (7.0,))], labels=labels, series=(Series("x", (), GAUGE, "", ""),))
    (record,) = records(run(capsys, store, "read", "{}", "--format=csv"))
    assert record == {
        "time": "2026-11-23T00:50:01.000Z",
        "session": "2026-11-23T00:50:00.000Z",
        "series": record["series"],
        "value": "7",
        "name": "x",
        "instance": "vm-1",
        "label_value": "the label_value",
        "label_name": "the name",
        "label_time": "the time",
        "label_label_value": "the value",
    }


def test_groups_have_the_labels_of_by(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_session(store, [(T0 + 1000, (1.0, 2.0, 3.0))], labels=(("zone", "x"),))
    add_session(store, [(T0 + 1000, (1.0, 2.0, 3.0))], instance="vm-2")
    text = run(capsys, store, "read", "exits_total", "--sum", "--by=zone,session", "--format=csv")
    assert text.splitlines()[0] == "time,session,series,value,name,zone"
    assert [(each["session"][11:19], each["value"], each["zone"]) for each in records(text)] == [
        ("00:50:00", "3", "x"),
        ("00:50:00", "3", ""),
    ]
    text = run(capsys, store, "read", "rss_bytes", "--sum", "--format=csv")
    assert text.splitlines()[1] == "2026-11-23T00:50:01.000Z,,rss_bytes,6,rss_bytes"


@pytest.mark.parametrize("rows_at_once", [1, 3, 4096])
@pytest.mark.parametrize("format", ["table", "csv"])
@pytest.mark.parametrize("command", ["read", "export"])
def test_pivot_has_every_value(
    store: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    format: str,
    rows_at_once: int,
) -> None:
    """In a row for each second, at any milliseconds."""
    if command == "export" and format == "table":
        return
    monkeypatch.setattr(pivot, "_ROWS", rows_at_once)
    one = [(T0 + 1000 * i, (1.5 * i, math.inf, math.nan if i == 2 else 5.0)) for i in (1, 2, 3, 5, 8)]
    two = [(T0 + 1000 * i + 500, (float(i), 0.1, 0.0)) for i in (2, 3, 4)]
    add_session(store, one)
    add_session(store, two, instance="vm 2")
    expected: dict[tuple[int, str], float] = {}
    for instance, rows in (("vm-1", one), ("vm 2", two)):
        for t_ms, values in rows:
            for series, value in zip(SERIES, values, strict=True):
                labels = tuple(sorted((*series.labels, ("instance", instance))))
                name = str(series._replace(labels=labels))
                if not math.isnan(value):
                    expected[t_ms // 1000 * 1000, name] = value
    text = run(capsys, store, command, "{}", "--pivot", "--unix", f"--format={format}")
    header, *lines = csv.reader(io.StringIO(text)) if format == "csv" else map(str.split, text.splitlines())
    empty = "" if format == "csv" else "NaN"
    got = {
        (int(line[0]), name.replace(r"\x20", " ")): float(value)
        for line in lines
        for name, value in zip(header[1:], line[1:], strict=True)
        if value != empty
    }
    assert got == expected
    times = [int(line[0]) for line in lines]
    assert times == sorted(set(times))
    assert header[0] == "time"
    assert len(header) == 7


def test_pivot_of_a_life_of_coarse_rows_and_one_of_ticks(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, seconds in (("long", 1200), ("short", 30)):
        rows = [(T0 + 1000 * i, (0.0, 0.0, float(i))) for i in range(1, seconds + 1)]
        add_session(store, rows, instance=name, end="reset")
    roll_up(store, T0 + 1_201_000)
    keep_house(store, T0 + 1_260_000)
    text = run(capsys, store, "read", "rss_bytes", "--pivot", "--format=csv", "--unix", "--aggregate=max")
    shown = {int(time) - T0: values for time, *values in list(csv.reader(io.StringIO(text)))[1:]}
    assert shown[0] == ["4", "4"]
    assert shown[5000] == ["9", "9"]
    assert shown[30_000] == ["34", "30"]
    assert shown[35_000] == ["39", ""]


def test_pivot_of_groups_and_of_the_highest(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        rows = [(T0 + 1000 * i, (1.0, 2.0, float(number))) for i in (1, 2)]
        add_session(store, rows, instance=f"vm-{number}")
    text = run(capsys, store, "read", "exits_total", "--sum", "--by=reason", "--pivot", "--format=csv")
    assert text.splitlines()[:2] == [
        'time,"exits_total{reason=""io""}","exits_total{reason=""hlt""}"',
        "2026-11-23T00:50:01.000Z,3,6",
    ]
    text = run(capsys, store, "read", "rss_bytes", "--topk=2", "--pivot", "--format=csv")
    assert text.splitlines()[1] == "2026-11-23T00:50:01.000Z,2,1"


def test_json_is_unchanged(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_session(store, [(T0 + 1000, (1.0, 2.0, 3.0))], labels=(("zone", "x"),))
    (line,) = run(capsys, store, "read", "rss_bytes", "--format=json").splitlines()
    assert line == (
        '{"time": "2026-11-23T00:50:01.000Z", "session": "2026-11-23T00:50:00.000Z", "name": "rss_bytes", '
        '"labels": {"instance": "vm-1", "zone": "x"}, "value": 3}'
    )
    assert json.loads(line)["value"] == 3
