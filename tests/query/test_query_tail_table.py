"""rondo-query tail on a terminal: a table with fixed columns, and the series and VMs that it leaves out."""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path

import pytest

from devtools.terminal_host import TerminalHost
from rondo_tools.catalog import COUNTER, GAUGE, Series
from rondo_tools.query.face import UTC
from rondo_tools.query.tail import Life, Line
from rondo_tools.query.tail_table import TailTable
from rondo_tools.view.cells import width
from rondo_tools.view.table import Page
from tests.support.query.made_store import T0, add_session

RSS = Series("rss_bytes", (), GAUGE, "bytes", "Memory.")
WAIT = Series("wait_ns", (), GAUGE, "ns", "Wait.")
EXITS = Series("vcpu_exits_total", (("reason", "io"),), COUNTER, "exits", "Exits.")
MORE = tuple(Series("vcpu_exits_total", (("reason", f"r{i}"),), COUNTER, "exits", "") for i in range(9))


def line(seconds: float, values: dict[Series, float], name: str = "vm-1", interval_ms: int = 1000) -> Line:
    life = Life(name, T0, interval_ms, ())
    return Line(life, T0 + round(1000 * seconds), tuple(values), list(values.values()))


def table(columns: int = 80, height: int = 24, now_ms: int = T0, encoding: str = "utf-8") -> TailTable:
    return TailTable(io.StringIO(), Page(columns, height, encoding, color=False), UTC, now_ms, rate=False)


def text_of(tail: TailTable) -> list[str]:
    assert isinstance(tail._out, io.StringIO)
    return tail._out.getvalue().splitlines()


def test_columns_are_fixed_and_names_are_printed_once() -> None:
    tail = table()
    tail.write([line(1, {RSS: 48_234_496.0, EXITS: 9.0})])
    tail.write([line(2, {RSS: math.nan, EXITS: 123_456_789_012.0}), line(2, {RSS: 1.0}, "vm-2")])
    tail.write([line(3, {EXITS: 0.25, RSS: 512.0})])  # in another order: the same columns
    assert text_of(tail) == [
        "time      instance  rss_bytes  vcpu_exits_total",
        "                                      reason=io",
        "00:50:01  vm-1            46M                 9",
        "00:50:02  vm-1              -      123456789012",
        "00:50:02  vm-2              1",
        "00:50:03  vm-1            512              0.25",
    ]


def test_a_later_series_or_longer_name_moves_the_columns_once() -> None:
    tail = table()
    tail.write([line(1, {RSS: 1.0})])
    tail.write([line(2, {RSS: 1.0, WAIT: 1500.0}, "a-longer-name")])
    tail.write([line(3, {RSS: 1.0})])
    assert [row.split() for row in text_of(tail)] == [
        ["time", "instance", "rss_bytes"],
        ["00:50:01", "vm-1", "1"],
        ["time", "instance", "rss_bytes", "wait_ns"],
        ["00:50:02", "a-longer-name", "1", "1.5µs"],
        ["00:50:03", "vm-1", "1"],
    ]


def test_series_that_do_not_fit_are_left_out_with_one_message(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    tail = table()
    for seconds in (1, 2):
        tail.write([line(seconds, dict.fromkeys(MORE, 1.0))])
    assert text_of(tail)[-1].split() == ["00:50:02", "vm-1", "1", "1", "1"]
    assert [record.getMessage() for record in caplog.records] == [
        "3 of 9 series fit into 80 columns (a selector chooses, --wide shows all)"
    ]


def test_as_many_vms_as_there_are_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    tail = table(height=10)
    for seconds in (1, 2):
        tail.write([line(seconds, {RSS: 1.0}, f"vm-{i:03}") for i in reversed(range(150))])
    assert {row.split()[1] for row in text_of(tail)[1:]} - {"instance"} == {f"vm-{i:03}" for i in range(6)}
    assert [record.getMessage() for record in caplog.records] == [
        "6 VMs are shown, 144 are left out (a selector chooses, top shows all)"
    ]
    # A quiet VM is replaced by another.
    tail.write([line(13, {RSS: 1.0}, f"vm-{i:03}") for i in range(3, 150)])
    assert {row.split()[1] for row in text_of(tail)[-6:]} - {"instance"} <= {
        f"vm-{i:03}" for i in range(3, 9)
    }
    assert text_of(tail)[-1].split()[1] == "vm-008"


def test_names_are_printed_again_once_per_screen() -> None:
    tail = table(height=10)
    for seconds in range(20):
        tail.write([line(seconds, {RSS: 1.0})])
    heads = [number for number, row in enumerate(text_of(tail)) if row.startswith("time")]
    assert heads == [0, 8, 16]


def test_times_have_the_needed_parts() -> None:
    fine = table()
    fine.write([line(0.25, {RSS: 1.0}, interval_ms=250)])
    assert text_of(fine)[1].split()[0] == "00:50:00.250"
    old = table(now_ms=T0 + 3 * 86_400_000)
    old.write([line(1, {RSS: 1.0})])
    assert text_of(old)[1].startswith("2026-11-23 00:50:01  vm-1")


@pytest.mark.parametrize("columns", [200, 80, 30, 9, 1])
def test_no_line_is_wider_than_the_terminal_or_harms_it(columns: int) -> None:
    tail = table(columns, encoding="ascii")
    hostile = Series("x_total", (("a", "\x1b[2J\n\u202e" + "漢" * 99),), COUNTER, "", "")
    tail.write([line(1, {hostile: 1.0, **dict.fromkeys(MORE, 1e300)}, "\x1b[31m\n\u202e" + "漢" * 99)])
    assert all(width(row) <= columns and row.isprintable() and row.isascii() for row in text_of(tail))


def test_on_a_terminal(store: Path) -> None:
    for name in ("vm-1", "a\x1b[31m"):
        add_session(store, [(T0 + 1000, (1.0, 2.0, 3.0))], instance=name)
    program = Path(__file__).resolve().parents[2] / "bin" / "rondo-query"
    heads = {}
    for flag in ((), ("--wide",), ("--format=table",), ("--unix",)):
        command = [sys.executable, str(program), str(store), "tail", "{}", "--once", *flag]
        with TerminalHost(command, columns=80, lines=24, env={"NO_COLOR": "1", "TZ": "UTC"}) as host:
            assert host.end() == 0
            lines = host.written.decode().splitlines()
            assert all(row.isprintable() for row in lines)
            heads[flag] = lines[0].split()
            if not flag:
                assert [row.split()[2:] for row in lines[2:]] == [["a\\x1b[31m", *"123"], ["vm-1", *"123"]]
    assert heads.pop(()) == ["time", "instance", "exits_total", "exits_total", "rss_bytes"]
    whole = ["time", "instance", 'exits_total{reason="io"}', 'exits_total{reason="hlt"}', "rss_bytes"]
    assert set(map(tuple, heads.values())) == {tuple(whole)}
