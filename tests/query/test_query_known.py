"""rondo-query series, labels and values; bare words in place of a selector; suggestions for typos."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from rondo_tools.catalog import COUNTER, GAUGE, Series
from rondo_tools.query.cli import main
from tests.support.fixtures import Query
from tests.support.query.made_store import T0, add_session, roll_up

HOSTILE = 'a\x1b[31m "b\n\u202e'
DISK = (Series("disk_total", (("op", "read"),), COUNTER, "requests", "Requests, by\x1b[2J kind."),)


@pytest.fixture
def fleet(store: Path) -> Path:
    rows = [(T0 + 1000 * i, (1.0 * i, 2.0 * i, 3.0)) for i in (1, 2, 3)]
    add_session(store, rows, instance="vm-1", labels=(("tenant", "a"),), end="poweroff")
    add_session(store, rows, instance="vm-1", start_ms=T0 + 10_000, labels=(("tenant", "a"),))
    roll_up(store)
    add_session(store, rows, instance="vm-2", labels=(("tenant", HOSTILE),))
    add_session(store, [(T0 + 1000, (7.0,))], instance=HOSTILE, series=DISK)
    return store


def records(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> list[dict[str, object]]:
    assert main([*map(str, argv), "--format=json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_series_labels_and_values(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    disk, exits, rss = records(capsys, fleet, "series")
    assert exits == {
        "name": "exits_total", "kind": "counter", "unit": "exits", "instances": 2, "labels": "reason",
        "help": "Exits.",
    }  # fmt: skip
    assert (disk["instances"], disk["help"]) == (1, DISK[0].help)
    assert (rss["kind"], rss["labels"]) == ("gauge", None)
    assert [one["name"] for one in records(capsys, fleet, "series", "vm-1")] == ["exits_total", "rss_bytes"]
    (only,) = records(capsys, fleet, "series", 'exits_total{reason="io"}')
    assert only["name"] == "exits_total"
    assert records(capsys, fleet, "labels") == [
        {"label": "instance", "values": 3, "instances": 3},
        {"label": "op", "values": 1, "instances": 1},
        {"label": "reason", "values": 2, "instances": 2},
        {"label": "tenant", "values": 2, "instances": 2},
    ]
    assert [one["label"] for one in records(capsys, fleet, "labels", "--match=disk_total")] == [
        "instance",
        "op",
    ]
    assert records(capsys, fleet, "values", "tenant") == [
        {"value": "a", "instances": 1},
        {"value": HOSTILE, "instances": 1},
    ]
    assert records(capsys, fleet, "values", "reason", "--match", 'exits_total{reason!="io"}') == [
        {"value": "hlt", "instances": 2}
    ]
    names = [one["value"] for one in records(capsys, fleet, "values", "__name__")]
    assert names == ["disk_total", "exits_total", "rss_bytes"]


def test_csv_is_unchanged_and_a_table_is_harmless(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(fleet), "values", "instance", "--format=csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out, newline="")))
    assert {row["value"] for row in rows} == {"vm-1", "vm-2", HOSTILE}
    for argv in (["values", "instance"], ["series"], ["values", "tenant"], ["labels"]):
        assert main([str(fleet), *argv]) == 0
        out = capsys.readouterr().out
        assert all(line.isprintable() for line in out.splitlines())
        # Help keeps its spaces, and is the last.
        fields = {len(line.split(maxsplit=5)) for line in out.splitlines()}
        assert len(fields) == 1


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["values", "tenat"], "no series here has the label 'tenat'; did you mean tenant?"),
        (
            ["values", "x"],
            "no series here has the label 'x'; there is instance, op, reason, tenant, __name__",
        ),
        (["series", "exit_total"], "no metric or instance of that name; did you mean exits_total?"),
        (
            ["read", "vm1"],
            "nothing matches vm1 (there is no metric or instance of that name; did you mean vm-1",
        ),
        (["read", "VM-1"], 'nothing matches {instance="VM-1"} ('),
        (["read", "RSS_BYTES"], "did you mean rss_bytes?"),
        (["plot", '{tennant="a"}'], "no series here has the label 'tennant'; did you mean tenant?"),
        (["tail", 'rss_bytes{instance="vm-3"}'], "there is no instance vm-3; did you mean vm-"),
        (["top", "--once", '{instance="vn-2",tenant="a"}'], "there is no instance vn-2; did you mean vm-2?"),
        (["list", "--match", 'exits_total{reason="htl"}'], "no series has reason htl; did you mean hlt?"),
        (["stream", 'exits_total{reason="q"}'], "no series has reason q; there is hlt, io"),
        (["dump", 'exitstotal{reason="io"}'], "there is no metric exitstotal; did you mean exits_total?"),
        (["export", "--format=csv", 'rss_bytes{reason="io"}'], "no series has all of these labels"),
        (["read", '{tenant="a\\x1b[31m \\"b"}'], 'there is a, a\\x1b[31m\\x20\\"b\\n\\u202e)'),
    ],
)
def test_a_typo_gets_a_suggestion(fleet: Path, query: Query, argv: list[str], says: str) -> None:
    done = query(fleet, *argv)
    assert (done.returncode, done.stdout) == (1, b"")
    (line,) = done.stderr.decode().splitlines()
    assert line.isprintable()
    assert says in line


def test_a_bare_word_is_a_metric_or_else_an_instance(fleet: Path, query: Query) -> None:
    add_session(fleet, [(T0 + 1000, (7.0,))], instance="both", series=DISK)
    add_session(fleet, [(T0 + 1000, (7.0,))], instance="web_1", series=DISK)

    def of(*argv: str) -> tuple[set[str], str]:
        done = query(fleet, "series", *argv, "--format=json")
        assert done.returncode == 0
        return {json.loads(line)["name"] for line in done.stdout.splitlines()}, done.stderr.decode()

    assert of("rss_bytes") == ({"rss_bytes"}, "")
    assert of("vm-2") == ({"exits_total", "rss_bytes"}, "")
    assert of("web_1") == ({"disk_total"}, "")  # a possible name of a metric, but there is none
    assert of("both") == ({"disk_total"}, "")
    add_session(fleet, [(T0, (1.0,))], instance="x", series=(Series("both", (), GAUGE, "", ""),))
    shown, says = of("both")
    assert shown == {"both"}
    assert 'both is a metric and an instance; the metric is shown, {instance="both"} is the other' in says
    assert of('{instance="both"}') == ({"disk_total"}, "")
    for argv in (["read", "vm-2"], ["list", "--match=vm-2"], ["export", "vm-2", "--format=jsonl"]):
        done = query(fleet, *argv)
        assert done.returncode == 0
        assert b"vm-2" in done.stdout
        assert b"vm-1" not in done.stdout
    assert query(fleet, "read", "vm-2[5m]").returncode == 64  # not a word: it is parsed as a selector


def test_the_word_after_a_command_may_be_an_instance(fleet: Path, query: Query, tmp_path: Path) -> None:
    fleet.rename(tmp_path / "vmm_metrics")
    for argv in (["read", "vm-2"], ["series", "vm-2"], ["tail", "vm-2", "--once"]):
        assert query(*argv, cwd=tmp_path).returncode == 0
    done = query("series", "--format", "json", "vm-2", cwd=tmp_path)  # also after a flag
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)


def test_an_empty_store_has_no_series(store: Path, query: Query) -> None:
    add_session(store, [])
    for argv in (["series"], ["labels"], ["values", "reason"]):
        done = query(store, *argv)
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"the store is empty" in done.stderr
