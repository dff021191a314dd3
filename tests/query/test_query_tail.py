"""rondo-query tail: the lines of running sessions, with a clock passed in; and as a process."""

from __future__ import annotations

import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rondo_tools.catalog import COUNTER, Series
from rondo_tools.query.cli import main
from rondo_tools.query.tail import Line, Tail
from rondo_tools.selector import parse_selector
from rondo_tools.store.reader import Store
from tests.support.needs import PATIENCE_S
from tests.support.query.made_store import SERIES, T0, Row, add_session, roll_up

ROOT = Path(__file__).resolve().parents[2]


def ticks(first: int, last: int, begin: int = T0) -> list[Row]:
    """One per second; the first counter grows by 10 each, and the gauge by 1."""
    return [(begin + 1000 * i, (10.0 * i, 0.0, float(i))) for i in range(first, last + 1)]


def follow(
    store: Path, selector: str = "rss_bytes", *, lines: int = 10, rate: bool = False, new: bool = False
) -> Tail:
    return Tail(Store(store), parse_selector(selector), lines=lines, rate=rate, new=new)


def shown(lines: list[Line]) -> list[tuple[str, int]]:
    return [(line.session.instance, (line.t_ms - T0) // 1000) for line in lines]


def test_each_tick_is_shown_once_in_time_order(store: Path) -> None:
    add_session(store, ticks(1, 5), instance="a")
    add_session(store, ticks(1, 4), instance="b")
    tail = follow(store, lines=2)
    assert shown(tail.look(T0 + 5000)) == [("b", 3), ("a", 4), ("b", 4), ("a", 5)]
    assert shown(tail.look(T0 + 5000)) == []
    add_session(store, ticks(1, 7), instance="a")
    add_session(store, ticks(1, 6), instance="b")
    assert shown(tail.look(T0 + 7000)) == [("b", 5), ("a", 6), ("b", 6), ("a", 7)]
    assert not tail.is_over


def test_once_shows_the_last_ticks_of_the_newest_life_running_or_ended(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_session(store, ticks(1, 20), instance="a", end="reset")
    add_session(store, ticks(1, 15, T0 + 30_000), instance="a", start_ms=T0 + 30_000, end="error")
    add_session(store, ticks(1, 3), instance="b")
    assert main([str(store), "tail", "rss_bytes", "--once"]) == 0
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1:] for line in lines] == [
        *(["b", str(i)] for i in range(1, 4)),
        *(["a", str(i)] for i in range(6, 16)),
    ]
    assert main([str(store), "tail", "rss_bytes", "--once", "--new"]) == 64
    assert main([str(store), "tail", "nothing", "--once"]) == 1


def test_it_is_over_when_all_have_ended(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    add_session(store, ticks(1, 2), instance="a")
    add_session(store, ticks(1, 2), instance="b")
    tail = follow(store)
    tail.look(T0 + 2000)
    add_session(store, ticks(1, 3), instance="a", end="poweroff")
    assert shown(tail.look(T0 + 3000)) == [("a", 3)]  # the last ticks come before the end
    assert "a: poweroff at 2026-11-23T00:50:03.001Z" in caplog.text
    assert not tail.is_over
    assert tail.look(T0 + 2000 + 8001) == []
    assert "b: silent since 2026-11-23T00:50:02.000Z" in caplog.text
    assert tail.is_over


def test_it_is_over_when_the_clock_is_set_back(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    add_session(store, ticks(1, 2))
    tail = follow(store)
    assert len(tail.look(T0 + 2000)) == 2
    tail.look(T0 + 2000 - 8000)  # a small step does not matter
    assert not tail.is_over
    tail.look(T0 + 2000 - 3_600_000)
    assert "vm-1: silent since 2026-11-23T00:50:02.000Z" in caplog.text
    assert tail.is_over


def test_a_lost_session_comes_back(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It continues while others are followed; roll-ups in between make no difference."""
    caplog.set_level("INFO")
    add_session(store, ticks(1, 2), instance="a")
    add_session(store, ticks(1, 2), instance="b")
    for new in (False, True):
        tail = follow(store, new=new)
        tail.look(T0 + 2000)
        begin = 2 if not new else 6
        add_session(store, ticks(1, begin + 1), instance="a", end="lost")
        assert shown(tail.look(T0 + 3000)) == [("a", begin + 1)]
        assert [session.instance for session in tail.sessions] == ["b"]
        roll_up(store)
        add_session(store, ticks(1, begin + 3), instance="a")
        roll_up(store)
        add_session(store, ticks(1, begin + 4), instance="a")
        assert shown(tail.look(T0 + 4000)) == [("a", begin + 2), ("a", begin + 3), ("a", begin + 4)]
        assert sorted(session.instance for session in tail.sessions) == ["a", "b"]
        assert shown(tail.look(T0 + 4000)) == []
    assert caplog.text.count("a: lost at 2026-11-23T00:50:03.000Z") == 1


def test_a_silent_session_comes_back(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    add_session(store, ticks(1, 2), instance="a")
    add_session(store, ticks(1, 9), instance="b")
    tail = follow(store)
    tail.look(T0 + 9000)
    add_session(store, ticks(1, 20), instance="b")
    tail.look(T0 + 20_000)
    assert [session.instance for session in tail.sessions] == ["b"]
    add_session(store, ticks(1, 2) + ticks(20, 20), instance="a")
    assert shown(tail.look(T0 + 20_000)) == [("a", 20)]
    tail.look(T0 + 40_000)
    assert tail.is_over
    assert caplog.text.count("a: silent since") == 2


def test_a_restart_is_another_session(store: Path) -> None:
    add_session(store, ticks(1, 2))
    tail = follow(store, new=True)
    assert len(tail.look(T0 + 2000)) == 2
    add_session(store, ticks(1, 3), end="reset")
    add_session(store, ticks(5, 6), start_ms=T0 + 4000)
    assert shown(tail.look(T0 + 6000)) == [("vm-1", 3), ("vm-1", 5), ("vm-1", 6)]
    assert [session.start_ms for session in tail.sessions] == [T0 + 4000]


def test_series_that_change(store: Path) -> None:
    """Lines have the sent series; rates of unchanged series continue."""
    other = (SERIES[0], Series("more_total", (), COUNTER, "", ""))
    add_session(store, ticks(1, 2))
    tail = follow(store, '{__name__=~".+_total",reason!="hlt"}', rate=True)
    tail.look(T0 + 2000)
    add_session(store, [(T0 + 3000, (35.0, 1.0)), (T0 + 4000, (50.0, 3.0))], series=other)
    first, second = tail.look(T0 + 4000)
    assert [str(one) for one in first.series] == ['exits_total{reason="io"}', "more_total"]
    assert first.values[0] == 15.0
    assert math.isnan(first.values[1])
    assert second.values == [15.0, 2.0]


@pytest.mark.heavy
def test_a_look_reads_only_new_ticks(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For any size of the journals."""
    values = (0.0, 0.0, 0.0)
    for number in range(4):
        rows = [(T0 + 10 * i, values) for i in range(1, 2001)]
        add_session(store, rows, instance=f"vm-{number}", interval_ms=10)
    for number in range(200):
        add_session(store, ticks(1, 1), instance=f"brief-{number}", end="poweroff")
    roll_up(store)
    tail = follow(store, lines=1)
    assert len(tail.look(T0 + 20_000)) == 4
    read: list[bytes] = []
    pread = os.pread

    def reading(fd: int, size: int, at: int) -> bytes:
        read.append(data := pread(fd, size, at))
        return data

    monkeypatch.setattr(os, "pread", reading)
    for second in range(21, 26):
        add_session(store, [(T0 + 1000 * second, values)], instance="vm-1", interval_ms=10)
        assert tail.sessions
        read.clear()
        assert shown(tail.look(T0 + 20_000)) == [("vm-1", second)]
        assert 0 < sum(map(len, read)) < 20_000, "2000 ticks of four VMs are 288,000 bytes"
        read.clear()
        assert tail.look(T0 + 20_000) == []
        assert sum(map(len, read)) < 2000


def test_only_running_sessions_are_followed(store: Path) -> None:
    add_session(store, ticks(1, 2), instance="ended", end="reset")
    add_session(store, ticks(1, 2), instance="silent")
    add_session(store, ticks(15, 16), instance="running", start_ms=T0 + 14_000)
    tail = follow(store)
    assert shown(tail.look(T0 + 16_000)) == [("running", 15), ("running", 16)]
    assert [session.instance for session in tail.sessions] == ["running"]
    add_session(store, ticks(17, 18), instance="later", start_ms=T0 + 16_500)
    assert shown(tail.look(T0 + 18_000)) == []


def test_new_sessions_are_shown_from_their_first_tick(store: Path) -> None:
    add_session(store, ticks(1, 1), instance="other", end="reset")
    tail = follow(store, new=True, lines=1)
    assert tail.look(T0) == []
    add_session(store, ticks(1, 3), instance="brief", end="poweroff")  # a whole life between two looks
    add_session(store, ticks(2, 3), instance="longer", start_ms=T0 + 1500)
    assert shown(tail.look(T0 + 3000)) == [
        ("brief", 1),
        ("brief", 2),
        ("longer", 2),
        ("brief", 3),
        ("longer", 3),
    ]
    assert tail.look(T0 + 20_000) == []  # silent, and the tail waits for it
    add_session(store, ticks(2, 3) + ticks(21, 21), instance="longer", start_ms=T0 + 1500)
    assert shown(tail.look(T0 + 21_000)) == [("longer", 21)]
    assert not tail.is_over


def test_rates_continue_from_look_to_look(store: Path) -> None:
    rows = ticks(1, 3)
    rows[1] = (rows[1][0], (math.nan, 0.0, 0.0))
    add_session(store, rows)
    tail = follow(store, "exits_total", rate=True, lines=2)
    first, second = tail.look(T0 + 3000)
    assert math.isnan(first.values[0])
    assert [second.values[0], first.values[1]] == [10.0, 0.0]
    add_session(store, rows + ticks(5, 5))
    assert [line.values for line in tail.look(T0 + 5000)] == [[10.0, 0.0]]


@contextmanager
def running(store: Path, *argv: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, ROOT / "bin" / "rondo-query", store, "tail", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def lines_of(process: subprocess.Popen[bytes], count: int) -> list[str]:
    """The next `count` lines."""
    assert process.stdout is not None
    data = b""
    while data.count(b"\n") < count:
        assert select.select([process.stdout], [], [], PATIENCE_S)[0], data
        piece = os.read(process.stdout.fileno(), 1 << 16)
        assert piece, data
        data += piece
    return data.decode().splitlines()


def now_s() -> int:
    return time.time_ns() // 1_000_000_000 * 1000


def test_a_process_follows_to_the_end(store: Path) -> None:
    begin = now_s() - 3000
    rows = [(begin + 1000 * i, (0.0, 0.0, float(i))) for i in range(60)]
    add_session(store, rows[:3], start_ms=begin)
    with running(store, "rss_bytes", "--format=json") as process:
        assert [json.loads(line)["values"] for line in lines_of(process, 3)] == [
            {"rss_bytes": float(i)} for i in range(3)
        ]
        add_session(store, rows[:4], start_ms=begin)
        (line,) = lines_of(process, 1)
        assert json.loads(line) == {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(rows[3][0] / 1000)),
            "session": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(begin / 1000)),
            "labels": {"instance": "vm-1"},
            "values": {"rss_bytes": 3},
        }
        add_session(store, rows[:5], start_ms=begin, end="poweroff")
        out, err = process.communicate(timeout=PATIENCE_S)
    assert json.loads(out)["values"] == {"rss_bytes": 4}
    assert (process.returncode, b"vm-1: poweroff" in err) == (0, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(store: Path, number: signal.Signals) -> None:
    begin = now_s() - 2000
    add_session(store, ticks(1, 2, begin), start_ms=begin)
    with running(store, "{}", "--new") as process:
        assert lines_of(process, 3)[0].split() == [
            "time",
            "instance",
            'exits_total{reason="io"}',
            'exits_total{reason="hlt"}',
            "rss_bytes",
        ]
        process.send_signal(number)
        assert process.communicate(timeout=PATIENCE_S) == (b"", b"")
    assert process.returncode == 0


def test_it_ends_when_its_reader_closes_even_without_a_tick(store: Path) -> None:
    begin = now_s() - 2000
    add_session(store, ticks(1, 2, begin), start_ms=begin)
    with running(store, "{}", "--new") as process:
        lines_of(process, 3)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(PATIENCE_S) == 141
        assert process.stderr.read() == b""
        process.stdout = None


def test_names_are_printed_again_when_the_series_change(
    store: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from rondo_tools.query.face import Face
    from rondo_tools.query.output import LineWriter

    add_session(store, ticks(1, 2), instance="vm 1")
    one, two = follow(store).look(T0 + 2000)
    other = follow(store, "exits_total").look(T0 + 2000)[0]
    writer = LineWriter(sys.stdout, "table", Face(unix=True))
    writer.write((one, two, other, two))
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].index("rss_bytes") == lines[1].rindex("1"), "the values stand below their name"
    assert [line.split() for line in lines] == [
        ["time", "instance", "rss_bytes"],
        [str(T0 + 1000), r"vm\x201", "1"],
        [str(T0 + 2000), r"vm\x201", "2"],
        ["time", "instance", 'exits_total{reason="io"}', 'exits_total{reason="hlt"}'],
        [str(T0 + 1000), r"vm\x201", "10", "0"],
        ["time", "instance", "rss_bytes"],
        [str(T0 + 2000), r"vm\x201", "2"],
    ]


def test_mistakes_of_tail_are_named(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_session(store, ticks(1, 2))
    for argv, status, says in (
        (["rss_bytes"], 1, "nothing that matches rss_bytes is running"),
        (["nothing"], 1, "nothing matches nothing"),
        (["rss_bytes", "--rate", "--new"], 64, "--rate is for counters"),
    ):
        assert main([str(store), "tail", *argv]) == status
        out, err = capsys.readouterr()
        assert (out, says in err) == ("", True)
    with pytest.raises(SystemExit, match="64"):
        main([str(store), "tail", "{}", "--lines", "-1"])
    assert "--lines" in capsys.readouterr().err
