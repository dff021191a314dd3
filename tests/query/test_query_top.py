"""rondo-query top on a terminal: its screen, its keys, and the restored terminal."""

from __future__ import annotations

import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol
from xml.etree import ElementTree

import numpy as np
import pytest

from devtools.filled_store import Life, fill
from devtools.terminal_host import TerminalHost
from rondo_tools.catalog import SERIES
from rondo_tools.stream import Header
from tests.support.fixtures import Run
from tests.support.query.fifty_vms import BEGIN_MS, DIED_MS, NOW_MS, make, set_clock, write_program

SIZES = [(80, 24), (200, 50)]


@pytest.fixture(scope="module")
def fifty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fifty") / "store"
    make(path)
    return path


class Start(Protocol):
    def __call__(
        self,
        store: Path,
        *flags: str,
        columns: int = 80,
        lines: int = 24,
        env: dict[str, str] | None = None,
    ) -> TerminalHost: ...


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start top on a store: ``start(store, "--by", "reason", columns=200)``."""
    program = write_program(tmp_path)
    hosts = []

    def begin(
        store: Path, *flags: str, columns: int = 80, lines: int = 24, env: dict[str, str] | None = None
    ) -> TerminalHost:
        host = TerminalHost([str(program), str(store), "top", *flags], columns, lines, env)
        hosts.append(host)
        host.until(lambda text: "rondo top" in text)
        return host

    yield begin
    for host in hosts:
        host.__exit__(None, None, None)


def rows(text: str) -> list[str]:
    """The names in the first column, below the headings."""
    lines = text.splitlines()[3:-1]
    return [line.split()[0] for line in lines if line.strip()]


@pytest.mark.parametrize(("columns", "lines"), SIZES)
def test_a_screen_is_filled(start: Start, fifty: Path, columns: int, lines: int) -> None:
    host = start(fifty, columns=columns, lines=lines)
    text = host.until(lambda text: "q quit" in text)
    shown = text.splitlines()
    assert "running 48  silent 1" in shown[0]
    assert ":05:00" in shown[0]
    assert shown[1].startswith("exits 19k/s")
    assert "EXITS/s▾" in shown[2]
    assert rows(text)[:3] == ["vm-42", "vm-17", "vm-00"]
    assert len(rows(text)) == min(lines - 4, 49)
    assert "9.0k" in shown[3]
    assert "▁██" in shown[3]
    assert ("▁" * 50 + "█" * 10 in shown[3]) == (columns == 200)
    assert [host.screen.buffer[2][at].reverse for at in (0, columns - 1)] == [True, True]
    assert host.screen.cursor.hidden


def test_keys_sort_filter_and_scroll(start: Start, fifty: Path) -> None:
    host = start(fifty)
    host.press("r")
    host.until(lambda text: "EXITS/s▴" in text and rows(text)[0] == "vm-00")
    host.press("r")
    host.until(lambda text: rows(text)[0] == "vm-42")
    host.press("\x1b[D")
    host.until(lambda text: "AGE▾" in text)
    host.press("<<")
    host.until(lambda text: "VM▾" in text and rows(text)[0] == "vm-00")
    host.press("\x1b[6~")
    host.until(lambda text: rows(text)[0] == "vm-19")
    host.press("\x1b[H")
    host.until(lambda text: rows(text)[0] == "vm-00")
    host.press("/VM-3")
    host.until(lambda text: rows(text) == [f"vm-3{n}" for n in range(10)] and "/VM-3_" in text)
    host.press("\x7f\x7f\x7f\x7fsilent\r")
    host.until(lambda text: rows(text) == ["vm-31"] and "filter 'silent': 1" in text)
    host.press("\x1b")
    host.until(lambda text: len(rows(text)) == 20)
    host.press("h")
    host.until(lambda text: "choose the column to sort by" in text)
    host.press("h")
    host.until(lambda text: rows(text)[0] == "vm-00")
    host.press("c")
    host.until(lambda text: "+state" in text)
    host.press("1")
    host.until(lambda text: "-state" in text and "STATE" not in text)
    host.press("cq")
    assert host.end() == 0


def vm(name: str, start_ms: int, first: int, last: int, end: str | None = None) -> Life:
    """The ticks `first` to `last` of a VM with 100 exits a second of each reason."""
    t_ms = start_ms + 1000 * np.arange(first, last + 1)
    values = np.repeat(100.0 * np.arange(first, last + 1), len(SERIES)).reshape(t_ms.size, -1)
    return Life(Header(name, start_ms, (), 1000, SERIES), t_ms, values, end)


def test_lives_appear_and_end_on_the_screen_unless_it_is_paused(start: Start, tmp_path: Path) -> None:
    store = tmp_path / "store"
    at_ms = NOW_MS

    def store_all(*some: Life) -> None:
        fill(store, some, lambda: at_ms)
        set_clock(tmp_path, at_ms)

    at_ms += 1000
    store_all(vm("steady", NOW_MS, 1, 1))
    host = start(store)
    host.until(lambda text: rows(text) == ["steady"])
    at_ms += 2000
    store_all(vm("steady", NOW_MS, 2, 3), vm("short", NOW_MS + 1000, 1, 2, "poweroff"))
    host.until(lambda text: rows(text) == ["short", "steady"] and "poweroff" in text)
    assert "running 1  last minute: began 2, ended 1" in host.text
    set_clock(tmp_path, at_ms + 5000)
    host.until(lambda text: ":08  running" in text)
    assert rows(host.text) == ["short", "steady"]
    host.press("p")
    host.until(lambda text: "PAUSED" in text)
    at_ms += 11_000
    store_all(vm("steady", NOW_MS, 4, 14), vm("later", NOW_MS + 13_000, 1, 1))
    for _ in range(30):
        host.take()
    assert rows(host.text) == ["short", "steady"]
    host.press(" ")
    host.until(lambda text: rows(text) == ["later", "steady"])  # a VM that ended ten seconds ago is not shown
    assert "began 3, ended 1" in host.text
    at_ms += 30_000
    set_clock(tmp_path, at_ms)
    text = host.until(lambda text: "silent 2" in text)
    assert "500" not in text, "the rates of a silent VM are not known"


def test_only_lines_that_changed_are_written(start: Start, fifty: Path) -> None:
    host = start(fifty)
    host.until(lambda text: "q quit" in text)
    while host.take():
        pass
    host.written.clear()
    host.press("/")
    host.until(lambda text: "/_" in text)
    assert len(host.written) < 250  # two lines of eighty
    assert host.written.count(b"\x1b[2J") == 0


def test_it_takes_any_size(start: Start, fifty: Path) -> None:
    host = start(fifty)
    for columns, lines in ((200, 50), (40, 10), (9, 4), (1, 1), (80, 24)):
        host.resize(columns, lines)
        if lines >= 5:
            host.until(lambda text: "rondo top"[: len(text.splitlines()[0])] in text)
    host.until(lambda text: "q quit" in text and rows(text)[:2] == ["vm-42", "vm-17"])
    assert len(rows(host.text)) == 20


@pytest.mark.parametrize("how", ["INT", "TERM", "HUP", "key", "ctrl-c", "error"])
def test_the_terminal_is_restored(start: Start, fifty: Path, how: str) -> None:
    host = start(fifty)
    host.until(lambda text: "q quit" in text)
    assert host.screen.is_alternate
    assert not host.modes[3] & termios.ECHO
    if how == "error":
        (fifty / "state.json").write_text("no state")
    host.press({"key": "q", "ctrl-c": "\x03"}.get(how, ""))
    status = host.end(getattr(signal, f"SIG{how}", None))
    if how == "error":
        (fifty / "state.json").unlink()
    assert status == (65 if how == "error" else 0)
    assert (host.screen.is_alternate, host.screen.cursor.hidden) == (False, False)
    assert host.modes == host.modes_before
    assert ("state.json: not a store's state" in host.text.replace("\n", "")) == (how == "error")
    assert "vm-42" not in host.text


def test_ctrl_z_gives_the_terminal_to_the_shell_and_fg_takes_it_back(fifty: Path, tmp_path: Path) -> None:
    program = write_program(tmp_path)
    shell = ["bash", "--norc", "--noprofile", "--noediting", "-i"]
    with TerminalHost(shell, env={"PS1": "ready> ", "HISTFILE": "/dev/null"}) as host:
        host.until(lambda text: "ready>" in text)
        host.press(f"{program} {fifty} top\n")
        host.until(lambda text: "q quit" in text)
        for _ in range(2):
            host.press("\x1a")
            host.until(lambda text: "Stopped" in text and text.rstrip().endswith("ready>"))
            assert not host.screen.is_alternate
            assert not host.screen.cursor.hidden
            assert host.modes[3] & termios.ECHO
            host.press("fg\n")
            host.until(lambda text: "q quit" in text and rows(text)[0] == "vm-42")
            assert host.screen.is_alternate
        host.press("q")
        host.until(lambda text: text.rstrip().endswith("ready>"))
        host.press("echo status=$?\n")
        host.until(lambda text: "status=0" in text)


def test_a_terminal_that_is_gone_ends_it_quietly(start: Start, fifty: Path) -> None:
    host = start(fifty)
    host.until(lambda text: "q quit" in text)
    host.hang_up()
    assert host.end() == 0


def test_no_color_leaves_out_colours(start: Start, fifty: Path) -> None:
    for env, color in (({}, "brown"), ({"NO_COLOR": "1"}, "default")):
        host = start(fifty, "--sort", "state", "--reverse", env=env)
        text = host.until(lambda text: "silent" in text.splitlines()[3])
        assert rows(text)[0] == "vm-31"
        assert host.screen.buffer[3][0].fg == color


def test_a_hostile_name_and_a_plain_terminal(start: Start, tmp_path: Path) -> None:
    store = tmp_path / "store"
    fill(store, [vm("\x1b[2J\x1b]0;x\x07ü\u202e漢", NOW_MS - 1000, 1, 1)], lambda: NOW_MS)
    host = start(store, columns=200, env={"PYTHONIOENCODING": "ascii"})
    text = host.until(lambda text: "q quit" in text)
    assert r"\x1b[2J\x1b]0;x\x07\u00fc\u202e\u6f22" in text
    assert text.isascii()
    assert "EXITS/s*" in text
    host = start(store, columns=200)
    host.until(lambda text: "漢" in text)


@pytest.mark.parametrize("term", ["dumb", "", "xterm"])
def test_without_a_terminal_it_prints_once(fifty: Path, tmp_path: Path, term: str) -> None:
    """Also on a terminal that can only print."""
    command = [str(write_program(tmp_path)), str(fifty), "top", "-n", "3"]
    if term == "xterm":
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True)
        text, log = done.stdout, done.stderr
        assert "running 48" in log
    else:
        with TerminalHost(command, 200, 50, env={"TERM": term}) as host:
            assert host.end() == 0
            text = log = host.text
        assert b"\x1b" not in host.written
    assert "\x1b" not in text
    assert [line.split()[0] for line in text.splitlines() if line.startswith("vm-")] == [
        "vm-42",
        "vm-17",
        "vm-00",
    ]


def once(fifty: Path, tmp_path: Path, *flags: str) -> list[list[str]]:
    command = [str(write_program(tmp_path)), str(fifty), "-q", "top", "--once", "--format", "csv", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line.split(",") for line in done.stdout.splitlines()]


def test_sums_over_a_range_include_vms_that_ended_in_it(fifty: Path, tmp_path: Path) -> None:
    heading, *lines = once(fifty, tmp_path, "--range", "15m", "--sort", "exits")
    at = heading.index("exits")
    exits = {(line[0], line[1]): int(line[at]) for line in lines}
    assert exits["vm-42", "2026-11-23T02:50:00.000Z"] == 600 * 20_000 + 290 * 100 + 10 * 9000
    assert exits["vm-23", "2026-11-23T02:50:00.000Z"] == (DIED_MS - BEGIN_MS) // 1000 * 100
    states = {line[0]: line[2] for line in lines}
    assert states["vm-23"] == "error"
    assert len(lines) == 51


def test_by_adds_up_each_value_of_a_label(fifty: Path, tmp_path: Path) -> None:
    heading, *lines = once(fifty, tmp_path, "--by", "tenant")
    assert (heading[:3], [line[:3] for line in lines]) == (
        ["tenant", "vms", "exits_per_s"],
        [["a", "25", "11400"], ["b", "24", "7200"]],
    )
    _, *lines = once(fifty, tmp_path, "--by", "reason", '{reason!=""}')
    assert [line[:3] for line in lines][:2] == [["io", "49", "16200"], ["hlt", "49", "2400"]]


def test_a_heading_is_never_cut(fifty: Path, tmp_path: Path) -> None:
    command = [str(write_program(tmp_path)), str(fifty), "-q", "top", "--once", "--by", "tenant"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["TENANT", "a", "b"]


def test_mistakes_of_top_are_named(run: Run, fifty: Path) -> None:
    for flags, status, message in (
        (["--sort", "size"], 64, b"exits, requests"),
        (["--range", "8d"], 64, b"7d"),
        (["--range", "soon"], 64, b"not a duration"),
        (["vm-{"], 64, b"column"),
        (["--once"], 1, b"the store is empty"),
    ):
        store = fifty if status == 64 else fifty / "nothing"
        if status == 1:
            fill(store, [], lambda: NOW_MS)
        done = run("rondo-query", store, "top", *flags)
        assert (done.returncode, message in done.stderr) == (status, True), done.stderr


def test_the_picture_in_the_docs_can_be_drawn(tmp_path: Path) -> None:
    picture = tmp_path / "top.svg"
    script = Path(__file__).resolve().parents[2] / "scripts" / "top_picture.py"
    subprocess.run([sys.executable, script, picture], check=True)
    document = ElementTree.parse(picture)
    texts = ["".join(one.itertext()) for one in document.iter() if one.tag.endswith("text")]
    assert texts[0].startswith("rondo top  03:05:00  running 28  silent 1  last minute: began 5, ended 2")
    assert texts[3].split()[:3] == ["web-19", "running", "1h"]
