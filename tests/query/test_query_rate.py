"""--rate of a counter that restarts: its value is then its increase, in every command with rates."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path

import pytest

from tests.support.fixtures import Query
from tests.support.query.made_store import T0, Row, add_session

ROOT = Path(__file__).resolve().parents[2]

NAN = math.nan
# Ten a second; a restart at the fifth; then from 40, after a second without a value; then to 0, and on.
COUNTS = [1000, 1010, 1020, 1030, 7, 17, 27, NAN, 26, 0, 0, 5]
RATES = [10, 10, 10, 7, 10, 10, 13, 0, 0, 5]  # 26 in two seconds


def rows(begin: int = T0) -> list[Row]:
    return [(begin + 1000 * i, (float(count), 0.0, 1.0)) for i, count in enumerate(COUNTS)]


def values(data: bytes) -> list[float]:
    return [json.loads(line)["value"] for line in data.splitlines()]


IO = 'exits_total{reason="io"}'


def test_read(store: Path, query: Query) -> None:
    add_session(store, rows(), end="poweroff")
    done = query(store, "read", IO, "--rate", "--format=json")
    assert (done.returncode, done.stderr, values(done.stdout)) == (0, b"", RATES)
    # A range that begins between two values does not use the one before.
    done = query(store, "read", IO, "--rate", "--format=json", "--tier=0", f"--start={T0 + 4000}")
    assert values(done.stdout) == RATES[4:]


def test_read_of_a_coarse_tier(store: Path, query: Query) -> None:
    """The last value of each window: 7 at the fifth second, 0 at the tenth, 5 at the end."""
    add_session(store, rows(), end="poweroff")
    done = query(store, "read", IO, "--rate", "--format=json", "--tier=1", "--unix")
    assert [
        (json.loads(line)["time"] - T0, json.loads(line)["value"]) for line in done.stdout.splitlines()
    ] == [
        (9000, 0),
        (11_000, 2.5),
    ]


@pytest.mark.parametrize(
    ("first", "second", "rate"), [(math.inf, 5.0, 5.0), (5.0, math.inf, "+Inf"), (1e308, 3.0, 3.0)]
)
def test_the_largest_counters(store: Path, query: Query, first: float, second: float, rate: object) -> None:
    add_session(store, [(T0, (first, 0.0, 0.0)), (T0 + 1000, (second, 0.0, 0.0))])
    assert values(query(store, "read", IO, "--rate", "--format=json").stdout) == [rate]


def test_plot(store: Path, query: Query) -> None:
    pytest.importorskip("plotext")
    add_session(store, rows(), end="poweroff")
    done = query(store, "plot", IO, "--rate", "--width=80", "--height=20")
    assert (done.returncode, done.stderr) == (0, b"")
    axis = [line.split("┤")[0].strip() for line in done.stdout.decode().splitlines() if "┤" in line]
    assert (axis[0], axis[-1]) == ("10", "0")  # and nothing below


def test_a_picture(store: Path, query: Query, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    add_session(store, rows(), end="poweroff")
    done = query(store, "plot", IO, "--rate", f"--output={tmp_path / 'rate.svg'}")
    assert (done.returncode, done.stderr) == (0, b"")
    texts = {"".join(each.itertext()) for each in ET.parse(tmp_path / "rate.svg").iter()}
    assert "0" in texts
    assert not [text for text in texts if text.startswith(("-", "\N{MINUS SIGN}"))]


@pytest.mark.parametrize("seen", [1, 4, 5, 8, 9, len(COUNTS)])
def test_tail_from_look_to_look(store: Path, seen: int) -> None:
    """Rates continue over a look at any time; `seen` ticks are there when the tail begins."""
    begin = time.time_ns() // 1_000_000_000 * 1000 - 10_000
    add = partial(add_session, store, start_ms=begin, interval_ms=600_000)  # running, however slow we are
    add(rows(begin)[:seen])
    flags = ("--rate", "--format=json", "--lines=99", "--new")
    argv: list[str | Path] = [sys.executable, ROOT / "bin" / "rondo-query", store, "tail", IO, *flags]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            lines = [process.stdout.readline() for _ in range(seen)]
            add(rows(begin))
            lines += [process.stdout.readline() for _ in range(len(COUNTS) - seen)]
        finally:
            process.kill()
    found = [json.loads(line)["values"][IO] for line in lines]
    assert found == [None, *RATES[:6], None, *RATES[6:]]
