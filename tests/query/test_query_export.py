"""rondo-query export: the real promtool accepts it, and returns every sample from its blocks."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from rondo_tools.catalog import COUNTER, GAUGE, SERIES, Series
from rondo_tools.query.cli import main
from rondo_tools.query.openmetrics import family
from rondo_tools.store.reader import Store
from tests.support.needs import PATIENCE_S
from tests.support.query.made_store import T0, Row, add_session, flip_a_bit

Samples = dict[tuple[tuple[str, str], ...], list[tuple[int, float]]]


def ticks(first: int, last: int) -> list[Row]:
    return [(T0 + 1000 * i, (10.0 * i, 0.1 * i, float(i))) for i in range(first, last + 1)]


def export(capsys: pytest.CaptureFixture[str], store: Path, *argv: str) -> str:
    assert main([str(store), "export", *argv]) == 0
    return capsys.readouterr().out


def from_blocks(promtool: Path, text: str, folder: Path) -> Samples:
    """The samples in the blocks that promtool makes of `text`."""
    source = folder / "all.om"
    source.write_text(text)
    blocks = folder / "blocks"
    made = subprocess.run(
        [promtool, "tsdb", "create-blocks-from", "openmetrics", source, blocks],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert made.returncode == 0, made.stderr
    (blocks / "wal").mkdir(exist_ok=True)  # dump takes the folder for a database's
    dumped = subprocess.run(
        [promtool, "tsdb", "dump", blocks], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    ).stdout
    found: Samples = {}
    for line in dumped.splitlines():
        match = re.fullmatch(r"\{(.*)\} (\S+) (\d+)", line)
        assert match, line
        pairs = re.findall(r'(\w+)=("(?:[^"\\]|\\.)*")', match[1])
        labels = tuple(sorted((name, json.loads(value)) for name, value in pairs))
        found.setdefault(labels, []).append((int(match[3]), float(match[2])))
    return found


def in_store(path: Path, **more: str) -> Samples:
    """The samples of tier 0, without those without a value."""
    found: Samples = {}
    for session in Store(path).sessions():
        rows = session.rows()
        for number, series in enumerate(session.header.series):
            labels = {"__name__": series.name, "instance": session.instance, **more}
            labels |= dict(session.header.labels) | dict(series.labels)
            pairs = zip(rows.t_ms.tolist(), rows.values[:, number].tolist(), strict=True)
            found.setdefault(tuple(sorted(labels.items())), []).extend(
                (t_ms, value) for t_ms, value in pairs if not math.isnan(value)
            )
    return {labels: pairs for labels, pairs in found.items() if pairs}


def test_promtool_returns_every_sample(
    store: Path, capsys: pytest.CaptureFixture[str], program: Callable[[str], Path], tmp_path: Path
) -> None:
    values = [0.1, math.nan, -0.0, 1e300, 2.0**53 - 1, math.inf, -math.inf, 5e-324]
    rows = [(T0 + 1000 * i + 37 * i, (float(i), 0.0, value)) for i, value in enumerate(values)]
    add_session(store, rows, instance='a "b"\\c\nd é', labels=(("zone", "x y"),))
    add_session(store, ticks(1, 5), instance="vm-1", end="reset")
    add_session(store, ticks(10, 12), instance="vm-1", start_ms=T0 + 9000)
    # Two hours later: in another block.
    later = [(t_ms + 7_200_000, row) for t_ms, row in ticks(1, 3)]
    add_session(store, later, instance="vm-1", start_ms=T0 + 7_200_000)
    text = export(capsys, store, "{}", "--format=openmetrics", "--label=job=rondo-vmm")
    expected = in_store(store, job="rondo-vmm")
    assert len(expected) == 6
    assert from_blocks(program("promtool"), text, tmp_path) == expected


def test_the_sixteen_series_as_promtool_reads_them(
    store: Path, capsys: pytest.CaptureFixture[str], program: Callable[[str], Path], tmp_path: Path
) -> None:
    """Names, units and help of the catalogue, and coarse rows, are valid OpenMetrics."""
    values = [float(n) for n in range(len(SERIES))]
    add_session(store, [(T0 + 1000 * i, values) for i in range(1, 31)], series=SERIES)
    text = export(capsys, store, "{}", "--format=openmetrics", "--tier=1", "--aggregate=max")
    got = from_blocks(program("promtool"), text, tmp_path)
    assert len(got) == len(SERIES)
    assert {len(pairs) for pairs in got.values()} == {7}
    assert "# TYPE vcpu_exits counter\n# UNIT vcpu_exits exits\n# HELP vcpu_exits KVM exits" in text
    assert "# UNIT vmm_open_fds" not in text  # its unit, descriptors, is not in its name


def test_families_are_whole_and_series_ascend(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for instance in ("a", "b"):
        add_session(store, ticks(1, 5), instance=instance)
        add_session(store, ticks(4, 7), instance=instance, start_ms=T0 + 3500)  # a clock set back
    assert main([str(store), "export", "{}", "--format=openmetrics"]) == 0
    text, err = capsys.readouterr()
    assert "12 samples left out" in err
    assert text.splitlines()[:3] == [
        "# TYPE exits counter",
        "# HELP exits Exits.",
        'exits_total{instance="a",reason="io"} 10 1795395001.000',
    ]
    assert text.endswith("\n# EOF\n")
    series = [line.rsplit(" ", 2)[0] for line in text.splitlines() if not line.startswith("#")]
    assert sum(one != other for one, other in pairwise(series)) == 6 - 1
    assert text.count("# TYPE") == 2


def series(name: str, kind: str) -> Series:
    return Series(name, (), kind, "", "")


@pytest.mark.parametrize(
    ("of", "names", "expected"),
    [
        ([series("x_total", COUNTER)], {"x_total"}, ("x", "counter")),
        ([series("x_total", COUNTER)], {"x_total", "x"}, ("x_total", "unknown")),  # two families in one
        ([series("x", COUNTER)], {"x"}, ("x", "unknown")),
        ([series("_total", COUNTER)], {"_total"}, ("_total", "unknown")),
        ([series("x", GAUGE)], {"x"}, ("x", "gauge")),
        ([series("x_total", COUNTER), series("x_total", GAUGE)], {"x_total"}, ("x_total", "unknown")),
    ],
)
def test_families(of: list[Series], names: set[str], expected: tuple[str, str]) -> None:
    assert family(of, names)[:2] == expected


def test_csv_and_jsonl_are_the_records_of_read(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_session(store, ticks(1, 5))
    flags = ["rss_bytes", "--unix", f"--start={T0 + 2000}"]
    for exported, read in (("csv", "csv"), ("jsonl", "json")):
        text = export(capsys, store, *flags, f"--format={exported}")
        assert main([str(store), "read", *flags, f"--format={read}"]) == 0
        assert capsys.readouterr().out == text
    assert len(text.splitlines()) == 4
    text = export(capsys, store, *flags, "--format=csv", "--label=job=x")
    assert next(csv.DictReader(io.StringIO(text)))["series"] == 'rss_bytes{instance="vm-1",job="x"}'


@pytest.mark.parametrize(
    ("argv", "status", "says"),
    [
        (["{}"], 64, "--format"),
        (["{}", "--format=openmetrics", "--label=job"], 64, "NAME=VALUE"),
        (["{}", "--format=openmetrics", "--label=zone=b"], 64, "has a label 'zone' already"),
        (["{}", "--format=openmetrics", "--label=reason=b"], 64, "'reason' of exits_total"),
        (["{}", "--format=openmetrics", "--label=a-b=c"], 64, "'a-b' is not a label name"),
        (["nothing", "--format=openmetrics"], 1, "nothing matches"),
        (["{}", "--format=openmetrics", "--range=1ms"], 1, "no values"),
    ],
)
def test_mistakes_are_named(
    store: Path, capsys: pytest.CaptureFixture[str], argv: list[str], status: int, says: str
) -> None:
    add_session(store, ticks(1, 5), labels=(("zone", "a"),))
    try:
        got: object = main([str(store), "export", *argv])
    except SystemExit as exc:
        got = exc.code
    out, err = capsys.readouterr()
    assert (got, out) == (status, "")
    assert says in err


def test_damage_is_reported_once_and_the_rest_is_printed(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_session(store, ticks(1, 5), instance="bad")
    add_session(store, ticks(1, 5), instance="good")
    journal = flip_a_bit(store, T0 + 3000, "bad")
    assert main([str(store), "export", "{}", "--format=openmetrics"]) == 65
    out, err = capsys.readouterr()
    assert (out.count("good"), err.count(str(journal))) == (15, 1)
