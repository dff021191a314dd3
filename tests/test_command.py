"""The common part of the command lines: exit statuses, messages, types, help."""

from __future__ import annotations

import importlib
import logging
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import argh
import pytest

from rondo_tools import __version__, command
from rondo_tools.errors import PushError, RondoError, StoreError, StreamError, UsageError, VmError
from rondo_tools.units import parse_duration
from tests.support.needs import PATIENCE_S

ROOT = Path(__file__).resolve().parent.parent


def make(function: Callable[..., None]) -> command.Parser:
    parser = command.Parser(prog="rondo-x", description="What it does.")
    parser.set_command(function)
    return parser


def run_raising(exc: BaseException) -> int:
    def rondo_x() -> None:
        raise exc

    return command.run(make(rondo_x), [])


@pytest.mark.parametrize(
    ("exc", "status"),
    [
        (UsageError("no such flag"), 64),
        (StreamError("torn", offset=17), 65),
        (StoreError("damaged"), 65),
        (StoreError("gone", exit_code=69), 69),
        (VmError("cannot"), 70),
        (RondoError("cannot"), 70),
        (PushError("later"), 75),
        (PermissionError(13, "Permission denied", "x"), 75),
    ],
)
def test_an_error_is_one_line_and_a_status(
    exc: Exception, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = f"{exc.filename}: {exc.strerror}" if isinstance(exc, OSError) else str(exc)
    assert run_raising(exc) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"rondo-x: {expected}\n" + ("try: rondo-x --help\n" if status == 64 else "")


def test_success() -> None:
    def rondo_x() -> None:
        pass

    assert command.run(make(rondo_x), []) == 0


def test_an_interrupt() -> None:
    assert run_raising(KeyboardInterrupt()) == 130


def test_an_unexpected_error_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run_raising(ZeroDivisionError())


def test_options_arrive_with_their_types(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[object] = []

    @argh.arg("directory")
    @argh.arg("--interval", type=command.typed(parse_duration), help="how often")
    @argh.arg("--count", type=int, help="how many")
    def rondo_x(directory: str, *, interval: int = 1000, count: int | None = None) -> None:
        seen.extend((directory, interval, count))

    assert command.run(make(rondo_x), ["d"]) == 0
    assert command.run(make(rondo_x), ["d", "--interval", "5m", "--count=3"]) == 0
    assert command.run(make(rondo_x), ["--", "--d"]) == 0
    assert seen == ["d", 1000, None, "d", 300_000, 3, "--d", 1000, None]
    for arguments in (
        ["d", "--interval", "soon"],
        ["d", "--count", "x"],
        ["d", "--inter", "5m"],
        [],
        ["d", "e"],
    ):
        with pytest.raises(SystemExit) as exit_info:
            command.run(make(rondo_x), arguments)
        assert exit_info.value.code == 64
        err = capsys.readouterr().err
        assert err.startswith("rondo-x: ")
        assert "try: rondo-x --help" in err
        assert "Traceback" not in err
    with pytest.raises(SystemExit):
        command.run(make(rondo_x), ["d", "--interval", "soon"])
    assert "--interval: 'soon' is not a duration: write 500ms" in capsys.readouterr().err


def make_tool() -> command.Parser:
    """A tool that is a command, and has one more below."""

    @argh.arg("--interval", type=command.typed(parse_duration), help="how often")
    @argh.arg("--text", help="for people")
    def rondo_x(*, interval: int = 1000, text: bool = False) -> None:
        pass

    @argh.arg("--format", choices=("table", "json"), help="how")
    def list_all(*, format: str = "table") -> None:
        raise UsageError(f"no {format} now")

    parser = make(rondo_x)
    parser.add_command("list", help="list all").set_command(list_all)
    return parser


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--intervall", "5s"], "rondo-x: there is no flag --intervall; did you mean --interval?"),
        (["--Text=1"], "rondo-x: there is no flag --Text; did you mean --text?"),
        (["--bogus"], "rondo-x: there is no flag --bogus"),
        (["lst"], "rondo-x: there is no command 'lst'; did you mean list?"),
        (["bogus"], "rondo-x: there is no command 'bogus': list"),
        (
            ["--interval", "--x y"],
            "rondo-x: argument --interval: '--x y' is not a duration: write 500ms, 10s, 5m, 1h30m or 7d",
        ),
        (["--text", "list"], "rondo-x: list comes first, its flags after it: rondo-x list"),
        (["list", "--text"], "rondo-x list: there is no flag --text"),
        (["list", "--formt", "json"], "rondo-x list: there is no flag --formt; did you mean --format?"),
        (["list", "x"], "rondo-x list: unrecognized arguments: x"),
        (["list", "-x"], "rondo-x list: unrecognized arguments: -x"),
        (
            ["list", "--format", "jso"],
            "rondo-x list: argument --format: 'jso' is none of table, json; did you mean json?",
        ),
        (["list", "--format", "xml"], "rondo-x list: argument --format: 'xml' is none of table, json"),
        (["list", "--format"], "rondo-x list: argument --format: its value is missing"),
        (["list"], "rondo-x: no table now"),
    ],
)
def test_an_error_suggests_the_right_word(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: object = command.run(make_tool(), arguments)
    except SystemExit as exc:
        status = exc.code
    assert status == 64
    first, second = capsys.readouterr().err.splitlines()
    assert first == says
    knows = "rondo-x list" if "rondo-x list:" in says or arguments == ["list"] else "rondo-x"
    assert second == f"try: {knows} --help"


def test_an_error_that_shows_the_place_needs_no_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_raising(UsageError("column 2\n  {x\n   ^")) == 64
    assert capsys.readouterr().err == "rondo-x: column 2\n  {x\n   ^\n"


TOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def parsers() -> Iterator[command.Parser]:
    """The parsers of all tools, and of all commands below them."""
    for tool in TOOLS:
        package = tool.removeprefix("rondo-")
        parser = importlib.import_module(f"rondo_tools.{package}.cli").make_parser()
        assert parser.prog == tool
        yield parser
        yield from parser.commands.values()


def test_each_tool_and_command_has_examples_and_knows_its_flags(capsys: pytest.CaptureFixture[str]) -> None:
    for parser in parsers():
        assert re.search(rf"^  .*\b{parser.prog.split()[0]}\b", parser.description or "", re.MULTILINE), (
            parser.prog
        )
        for arguments, hint in (([f"{flag}x"], flag) for flag in parser.flags if flag.startswith("--")):
            with pytest.raises(SystemExit) as exit_info:
                parser.parse_args(arguments)
            first, second = capsys.readouterr().err.splitlines()
            assert exit_info.value.code == 64
            assert first.endswith(f"there is no flag {hint}x; did you mean {hint}?"), parser.prog
            assert second == f"try: {parser.prog} --help"


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    @argh.arg("--interval", type=int, help="how often")
    def rondo_x(*, interval: int = 1000) -> None:
        pass

    with pytest.raises(SystemExit) as exit_info:
        command.run(make(rondo_x), ["--help"])
    assert exit_info.value.code == 0
    out = capsys.readouterr().out
    for expected in ("What it does.", "how often (default: 1000)", "exit status:", "75  not done", "--quiet"):
        assert expected in out
    with pytest.raises(SystemExit):
        command.run(make(rondo_x), ["--version"])
    assert capsys.readouterr().out == f"rondo-x {__version__}\n"


@pytest.mark.parametrize(("flag", "expected"), [("-q", "w"), ("--quiet", "w"), (None, "iw"), ("-v", "diw")])
def test_quiet_and_verbose(flag: str | None, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    def rondo_x() -> None:
        for level, message in ((logging.DEBUG, "d"), (logging.INFO, "i"), (logging.WARNING, "w")):
            logging.getLogger("rondo_tools.x").log(level, message)

    assert command.run(make(rondo_x), [flag] if flag else []) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("", "".join(f"rondo-x: {one}\n" for one in expected))


def test_a_reader_that_is_gone_ends_it_quietly() -> None:
    program = """
import sys
from rondo_tools import command
def rondo_x():
    for _ in range(100_000):
        print("line")
parser = command.Parser(prog="rondo-x")
parser.set_command(rondo_x)
sys.exit(command.run(parser, []))
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE_S) == 128 + 13


@pytest.mark.parametrize("tool", ["store", "push", "query"])
def test_a_tool_has_no_threads_of_numpys(tool: str) -> None:
    program = f"import os, rondo_tools.{tool}.cli, numpy; print(len(os.listdir('/proc/self/task')))"
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert found.stdout == "1\n"
