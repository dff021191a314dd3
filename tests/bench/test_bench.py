"""The benches' rows, and the figures of the docs that are made from them."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest
import snappy

from bench import run
from bench.remote_read import count_samples
from bench.report import Peer, Report, as_json, fill_in, from_json, number, pages, run_part
from bench.vms import LIFE_S, Fleet
from rondo_tools.catalog import COUNTER, SERIES
from rondo_tools.prom.proto.remote_write_v1_pb2 import Sample, TimeSeries, WriteRequest
from rondo_tools.prom.wire import varint

ROOT = Path(__file__).resolve().parents[2]
PARTS = ROOT / "scripts" / "bench"
RESULTS = ROOT / "docs" / "benchmarks.json"


@pytest.fixture
def report() -> Report:
    made = Report()
    made.row("10; rondo; cost", 2.0, "µs", peer=Peer("rrdtool", 9.0), times=4.5)
    made.row("10; scraped; cost", 3.25, "µs", at_most=3)
    made.row("100; rondo; cost", 1234.5, "µs", peer=Peer("rrdtool", 617.25), more_is_better=True)
    made.row("100; rondo; lost", 0, at_most=0)
    return made


def results(report: Report) -> dict[str, object]:
    rows = [as_json(row) for row in report.rows]
    result = {"command": "scripts/bench.py x", "date": "2026-11-26", "machine": "a machine", "rows": rows}
    document: dict[str, object] = json.loads(json.dumps({"parts": {"x": result}}))
    return document


def test_a_row_knows_its_ratio_and_whether_its_bars_are_held(report: Report) -> None:
    first, second, third, fourth = report.rows
    assert (first.ratio, first.bar, first.held) == (4.5, "≥ 4.5 times", True)
    assert (second.ratio, second.bar, second.held) == (None, "≤ 3 µs", False)
    assert (third.ratio, third.bar, third.held) == (2.0, None, None)
    assert (fourth.figure, fourth.held) == ("0", True)
    assert not report.is_held


def test_rows_survive_json(report: Report) -> None:
    assert [from_json(json.loads(json.dumps(as_json(row)))) for row in report.rows] == report.rows


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0123, "0.012"),
        (1.5, "1.50"),
        (17.66, "17.7"),
        (123.4, "123"),
        (1234.5, "1,234"),
        (20_000, "20,000"),
    ],
)
def test_a_number_has_the_digits_that_it_needs(value: float, text: str) -> None:
    assert number(value) == text


def test_markers_are_filled_with_tables_figures_and_grids(report: Report) -> None:
    page = (
        "a <!-- bench x: 100; rondo; lost -->old<!-- end --> b\n"
        "<!-- bench x -->old\n<!-- end -->\n<!-- bench x; cost --><!-- end -->\n"
    )
    filled = fill_in(page, results(report))
    assert "a <!-- bench x: 100; rondo; lost -->0<!-- end --> b" in filled
    assert "old" not in filled
    assert "| 10; rondo; cost | 2 µs | rrdtool: 9 µs (4.50 times) | ≥ 4.5 times: held |" in filled
    assert "| 10; scraped; cost | 3.25 µs | | ≤ 3 µs: MISSED |" in filled
    grid = "Cost:\n\n| | rondo | scraped |\n| --- | --- | --- |\n"
    grid += "| 10 | 2 µs | 3.25 µs: MISSED |\n| 100 | 1,234 µs | none |\n"
    assert grid in filled
    assert filled.count("`scripts/bench.py x`, 2026-11-26: a machine.") == 2
    assert fill_in(filled, results(report)) == filled


@pytest.mark.parametrize("marker", ["y", "x: no such row", "x; no such measure"])
def test_a_figure_that_nobody_measured_is_an_error(report: Report, marker: str) -> None:
    with pytest.raises(KeyError):
        fill_in(f"<!-- bench {marker} --><!-- end -->", results(report))


def test_a_part_keeps_its_rows_and_fails_below_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def main(report: Report, arguments: list[str]) -> None:
        report.row("given", int(arguments[1]), at_most=5)

    rows = tmp_path / "rows"
    for given, status in (("5", 0), ("6", 1)):
        monkeypatch.setattr(sys, "argv", ["part", "--rows", str(rows), "--given", given])
        assert run_part(main) == status
        assert [row["value"] for row in json.loads(rows.read_text())] == [int(given)]


def test_the_figures_of_the_docs_are_those_of_the_results() -> None:
    document = json.loads(RESULTS.read_text())
    assert pages(ROOT)
    for page in pages(ROOT):
        text = page.read_text()
        assert text == fill_in(text, document), f"{page.name}: run make bench-docs"


def test_every_part_can_be_run_and_has_results_in_the_docs() -> None:
    with_main = {path.stem for path in PARTS.glob("*.py") if "run_part(main)" in path.read_text()}
    assert with_main == set(run.PARTS)
    assert set(json.loads(RESULTS.read_text())["parts"]) == with_main
    shown = "".join(page.read_text() for page in pages(ROOT))
    for part in with_main:
        assert f"<!-- bench {part} -->" in shown or f"<!-- bench {part}; " in shown, part


def test_a_part_that_is_run_again_replaces_its_own_results_only(report: Report, tmp_path: Path) -> None:
    kept, rows = tmp_path / "results.json", [as_json(row) for row in report.rows]
    run.keep(kept, "x", [], rows)
    run.keep(kept, "y", ["--seconds", "5"], rows[:1])
    run.keep(kept, "x", [], rows[1:])
    parts = json.loads(kept.read_text())["parts"]
    assert [from_json(row) for row in parts["x"]["rows"]] == report.rows[1:]
    assert [from_json(row) for row in parts["y"]["rows"]] == report.rows[:1]
    assert parts["y"]["command"] == "scripts/bench.py y --seconds 5"


def test_a_part_that_there_is_not_is_a_wrong_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["no-such-part"]) == 64
    assert "no such part: no-such-part; there are startup, vmm" in capsys.readouterr().err


def test_a_short_vm_of_the_fleet_lives_five_seconds() -> None:
    fleet = Fleet(3)
    lived = Counter(name for second in range(60) for name in fleet.at(second)[0])
    assert lived == dict.fromkeys(fleet.steady, 60) | dict.fromkeys(fleet.short, LIFE_S)
    begun = [name for second in range(60) for name in fleet.born(second)]
    assert begun == fleet.short
    later = dict(zip(fleet.at(6)[0], fleet.at(6)[1], strict=True))
    earlier = dict(zip(fleet.at(5)[0], fleet.at(5)[1], strict=True))
    at = [series.kind == COUNTER for series in SERIES]
    for name in later.keys() & earlier.keys():
        assert (later[name][at] > earlier[name][at]).all(), "counters climb"


@pytest.mark.parametrize("lengths", [(), (1,), (3, 0, 400)])
def test_samples_of_a_remote_read_are_counted(lengths: tuple[int, ...]) -> None:
    result = WriteRequest(timeseries=[TimeSeries(samples=[Sample(value=1)] * n) for n in lengths])
    data = result.SerializeToString()
    assert count_samples(bytes(snappy.compress(b"\x0a" + varint(len(data)) + data))) == sum(lengths)
