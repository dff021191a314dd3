"""Tables on a terminal: for people, no wider than the terminal, and harmless; unchanged for programs."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import pytest

from devtools.terminal_host import TerminalHost
from tests.support.fixtures import Query
from tests.support.query.made_store import add_session

PROGRAM = str(Path(__file__).resolve().parents[2] / "bin" / "rondo-query")
HOSTILE = "\x1b[2Jvm\n\u202e" + "漢" * 60
PLAIN = {"NO_COLOR": "1", "TZ": "UTC"}
DAY_MS = 86_400_000


def on_terminal(store: Path, *argv: str, columns: int = 80, env: dict[str, str] | None = None) -> str:
    """The output of a command on a terminal of that width."""
    command = [sys.executable, PROGRAM, str(store), *argv]
    with TerminalHost(command, columns=columns, lines=40, env=PLAIN | (env or {})) as host:
        assert host.end() == 0, host.text
        return host.written.decode().replace("\r\n", "\n")


def shown(store: Path, *argv: str, env: dict[str, str] | None = None) -> list[list[str]]:
    """The fields of each line."""
    return [re.split(r" {2,}", line) for line in on_terminal(store, *argv, env=env).splitlines()]


@pytest.fixture
def fleet(store: Path) -> Path:
    now_ms = time.time_ns() // 1_000_000
    for instance, ago_ms, lived_s, end in (
        ("vm-1", 3 * DAY_MS + 5000, 93_785, "poweroff"),
        (HOSTILE, 2 * DAY_MS + 5000, 4.5, "error"),
        ("vm-3", DAY_MS + 5000, 725, None),
    ):
        start_ms = now_ms - ago_ms
        rows = [(start_ms + round(1000 * lived_s), (1.0, 2.0, 3.0))]
        add_session(store, rows, instance=instance, start_ms=start_ms, end=end)
    return store


def test_a_list_for_people(fleet: Path) -> None:
    head, first, second, third = shown(fleet, "list")
    assert head == ["instance", "state", "started (UTC)", "lived", "last seen", "ticks"]
    assert first[:2] == ["vm-1", "poweroff"]
    assert first[3:] == ["1d2h", "1d ago", "1"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", first[2])
    assert second[0].startswith("\\x1b[2Jvm\\n\\u202e")
    assert second[0].endswith("…")
    assert second[3:] == ["4.5s", "2d ago", "1"]
    assert (third[1], third[3:]) == ("silent", ["12m05s", "23h ago", "1"])
    (local, *_) = shown(fleet, "list", env={"TZ": "Asia/Tokyo"})
    assert local[2] == "started"


@pytest.mark.parametrize("columns", [80, 31, 1])
@pytest.mark.parametrize("argv", [["list"], ["series"]])
def test_no_line_is_wider_than_the_terminal(fleet: Path, columns: int, argv: list[str]) -> None:
    command = [sys.executable, PROGRAM, str(fleet), *argv]
    with TerminalHost(command, columns=columns, lines=40, env=PLAIN) as host:
        assert host.end() == 0
        written = host.written.decode()
        assert host.screen.cursor.y == written.count("\n")  # nothing was wrapped
        assert all(line.isprintable() for line in written.splitlines())


def test_colours_unless_no_color_is_set(fleet: Path) -> None:
    coloured = on_terminal(fleet, "list", env={"NO_COLOR": ""})
    assert re.findall(r"\x1b\[\d+m", coloured) == [
        "\x1b[1m", "\x1b[0m", "\x1b[2m", "\x1b[0m", "\x1b[31m", "\x1b[0m", "\x1b[33m", "\x1b[0m"
    ]  # fmt: skip
    for env in ({"NO_COLOR": "1"}, {"NO_COLOR": "", "TERM": "dumb"}):
        assert "\x1b" not in on_terminal(fleet, "list", env=env)


def test_without_utf_8_it_is_ascii(fleet: Path) -> None:
    text = on_terminal(fleet, "list", env={"PYTHONIOENCODING": "ascii"})
    assert text.isascii()
    assert "~  error" in text


def test_flags_print_the_whole_table(fleet: Path, query: Query) -> None:
    """The output for programs is the same in a pipe and with a flag."""

    def without_age(text: str) -> list[list[str]]:
        rows = [line.split() for line in text.splitlines()]
        return [row[:5] + row[6:] for row in rows]

    piped = query(fleet, "list", env={"LC_ALL": "C.UTF-8"}).stdout.decode()
    assert piped.splitlines()[0].split() == [
        "instance", "session", "first", "last", "state", "age_s", "series", "ticks"
    ]  # fmt: skip
    for flag in ("--wide", "--format=table"):
        assert without_age(on_terminal(fleet, "list", flag)) == without_age(piped)
    assert on_terminal(fleet, "list", "--unix").splitlines()[0].split() == piped.split("\n")[0].split()
    for argv in (["series"], ["labels"], ["values", "reason"]):
        piped = query(fleet, *argv, env={"LC_ALL": "C.UTF-8"}).stdout.decode()
        assert on_terminal(fleet, *argv, "--wide") == piped
    as_json = query(fleet, "series", "--format=json").stdout.decode()
    assert on_terminal(fleet, "series", "--format=json") == as_json
