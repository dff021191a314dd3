"""What the four command lines share: exit statuses, messages, types, help."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import argh
import pytest
from needs import PATIENCE_S

from rondo_tools import __version__, command
from rondo_tools.errors import PushError, RondoError, StoreError, StreamError, UsageError, VmError
from rondo_tools.units import parse_duration


def make(function: object) -> command.Parser:
    parser = command.Parser(prog="rondo-x", description="What it does.")
    parser.set_command(function)  # type: ignore[arg-type]
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
    assert run_raising(exc) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"rondo-x: {exc}\n"


def test_all_is_well() -> None:
    def rondo_x() -> None:
        pass

    assert command.run(make(rondo_x), []) == 0


def test_an_interrupt() -> None:
    assert run_raising(KeyboardInterrupt()) == 130


def test_what_nobody_foresaw_is_not_hidden() -> None:
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
    assert seen == ["d", 1000, None, "d", 300_000, 3]
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


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    @argh.arg("--interval", type=int, help="how often")
    def rondo_x(*, interval: int = 1000) -> None:
        pass

    with pytest.raises(SystemExit) as exit_info:
        command.run(make(rondo_x), ["--help"])
    assert exit_info.value.code == 0
    out = capsys.readouterr().out
    for said in ("What it does.", "how often (default: 1000)", "exit status:", "75  not done", "--quiet"):
        assert said in out
    with pytest.raises(SystemExit):
        command.run(make(rondo_x), ["--version"])
    assert capsys.readouterr().out == f"rondo-x {__version__}\n"


@pytest.mark.parametrize(("flag", "said"), [("-q", "w"), ("--quiet", "w"), (None, "iw"), ("-v", "diw")])
def test_how_much_is_said(flag: str | None, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    def rondo_x() -> None:
        for level, message in ((logging.DEBUG, "d"), (logging.INFO, "i"), (logging.WARNING, "w")):
            logging.getLogger("rondo_tools.x").log(level, message)

    assert command.run(make(rondo_x), [flag] if flag else []) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("", "".join(f"rondo-x: {one}\n" for one in said))


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
