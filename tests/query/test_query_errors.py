"""Any question gets a status and an error of a line or two, and never a traceback."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rondo_tools import stream
from rondo_tools.catalog import SERIES
from rondo_tools.errors import StoreError
from rondo_tools.store.format.opened import open_store
from rondo_tools.stream import Header
from tests.support.fixtures import Query
from tests.support.query.made_store import T0, add_session

ROOT = Path(__file__).resolve().parents[2]

FAR = 2**53 - 60_000  # the last minute that a tick may have, in the year 287396


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the least and the greatest of times and values; no test changes it."""
    store = tmp_path_factory.mktemp("odd") / "store"
    add_session(store, [(T0 + 1000 * i, (10.0 * i, 0.0, 1.0)) for i in range(9)], end="poweroff")
    huge = [(T0 + 1000 * i, (1e308, math.inf, 1.7e308 * (-1) ** i)) for i in range(9)]
    add_session(store, huge, instance="huge", end="poweroff")
    tiny = [(1 + 1000 * i, (0.0, 0.0, 5e-324 * i)) for i in range(9)]
    add_session(store, tiny, instance="tiny", start_ms=1, end="poweroff")
    far = [(FAR + 1000 * i, (10.0 * i, 0.0, 1.0)) for i in range(9)]
    add_session(store, far, instance="far", start_ms=FAR, end="poweroff")
    return store


READ = ["read", "{}"]
NINES = "9" * 400
LONG = "x" * 100_000

ERRORS = [
    # selectors
    (["read", '{a=~"(?u)x"}'], 64, "column 5: not a regular expression: ASCII and UNICODE flags"),
    (["read", '{a=~"(?L)x"}'], 64, "column 5: not a regular expression"),
    (["read", '{a=~"x{99999999999}"}'], 64, "column 5: not a regular expression"),
    (["read", '{a=~"' + "(" * 30_000 + '"}'], 64, "column 5: not a regular expression"),
    (["read", '{a="' + LONG], 64, "column 4: the string that opens here is not closed"),
    (["read", '{a="' + LONG + '"'], 64, "column 100006: a comma or } is expected"),
    (["read", LONG + "{"], 64, "column 100002: a label name is expected"),
    (["read", "{" * 100_000], 64, "column 2: a label name is expected"),
    (["read", f'{{a="{LONG}"}}'], 1, "nothing matches"),
    (["list", "--match", LONG], 1, "nothing matches"),
    (["tail", b'{a="\xff"}'], 64, "not valid UTF-8"),
    # times
    ([*READ, f"--start={NINES}"], 64, "--start: 999"),
    ([*READ, f"--end=-{NINES}"], 64, "--end: '999"),
    ([*READ, f"--range={NINES}"], 64, "--range: '999"),
    ([*READ, "--start=nan"], 64, "--start: 'nan' is not a time"),
    ([*READ, "--start=inf"], 64, "--start: 'inf' is not a time"),
    ([*READ, b"--start=\xff"], 64, "--start: '\\udcff' is not a time"),
    ([*READ, "--start=--"], 64, "--start: -- is no value"),
    ([*READ, "--end=0001-01-01T00:00:00+23:59"], 1, "no values from the beginning to "),
    ([*READ, "--start=9999-12-31T23:59:59.999-23:59", "--end=-1m"], 64, "--end -1m is before --start"),
    ([*READ, "--range=999999999w"], 64, "--range: '999999999w' is too long"),
    # numbers
    ([*READ, "--tier=99999999999999999999"], 64, "--tier"),
    (["tail", "{}", f"--lines={NINES}"], 64, "--lines"),
    (["plot", "{}", f"--width={NINES}"], 64, "--width and --height"),
    (["plot", "{}", "--height=" + "9" * 5000], 64, "--height"),
    (["plot", "{}", "--height=--"], 64, "--height: -- is no value"),
    (["plot", "{}", "--width=2001"], 64, "2000 at most"),
    # files
    (["plot", "{}", b"--output=\xff"], 64, "--output \\udcff: the name must end"),
    (["plot", 'rss_bytes{instance="vm-1"}', "--output=" + "x" * 300 + ".svg"], 69, "File name too long"),
    (["plot", '{instance="far"}', "--output=far.svg"], 65, "--output far.svg: these times or values"),
    # labels
    (["export", "{}", "--format=csv", "--label=a=" + LONG], 64, "--label: "),
    (["export", "{}", "--format=csv", b"--label=a=\xff"], 64, "--label: "),
    (["export", "{}", "--format=csv", "--label=__name__"], 64, "--label: "),
]


@pytest.mark.parametrize(("argv", "status", "says"), ERRORS, ids=[f"{n}" for n in range(len(ERRORS))])
def test_each_error_is_short(
    odd: Path, query: Query, tmp_path: Path, argv: list[str], status: int, says: str
) -> None:
    if "--output=" in str(argv):
        pytest.importorskip("matplotlib")
    done = query(odd, *argv, cwd=tmp_path)
    err = done.stderr.decode()
    assert (done.returncode, done.stdout) == (status, b"")
    assert says in err
    assert "Traceback" not in err
    # A selector's error has the text and a mark below; a flag's has the way to --help.
    assert len(err.splitlines()) <= (3 if "selector, column" in err else 2)
    assert len(err) < 5000


@pytest.mark.parametrize("tool", ["rondo-vmm", "rondo-store", "rondo-push", "rondo-query"])
def test_a_wrong_flag_of_any_tool_is_two_lines(run: Query, tool: str) -> None:
    for argv, says in ((["--nothing"], ""), (["--quiet=--"], "--quiet: -- is no value")):
        done = run(tool, *argv)
        first, second = done.stderr.decode().splitlines()
        assert (done.returncode, done.stdout, second) == (64, b"", f"try: {tool} --help")
        assert first.startswith(f"{tool}: ")
        assert says in first


def test_the_mark_is_below_the_column(odd: Path, query: Query) -> None:
    for text in ('{a="b" c="d"}', "{" + 'a="b",' * 100 + 'a="b" !,' + 'a="b",' * 100 + "}"):
        first, shown, mark = query(odd, "read", text).stderr.decode().splitlines()
        assert first.startswith("rondo-query: selector, column ")
        at = int(first.split()[3].rstrip(":")) - 1
        assert shown[mark.index("^")] == text[at]
        assert len(shown) < 130


@pytest.mark.parametrize(
    "selector", ["rss_bytes", '{instance="huge"}', '{instance="tiny"}', '{instance="far"}']
)
def test_odd_times_and_values_are_drawn(odd: Path, query: Query, selector: str) -> None:
    pytest.importorskip("plotext")
    done = query(odd, "plot", selector)
    assert (done.returncode, done.stderr) == (0, b"")
    # A terminal may have any size; a plot has its limits.
    wide = query(odd, "plot", selector, env={"COLUMNS": "99999999999", "LINES": "10"})
    assert (wide.returncode, wide.stderr) == (0, b"")
    assert len(wide.stdout.decode().splitlines()[0]) <= 2000


COMMANDS = [
    "list",
    "read {}",
    "export {} --format=csv",
    "export {} --format=openmetrics",
    "plot rss_bytes",
    "stream",
    "check",
    "tail {} --new",
]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with more samples than the pipe and our buffers can hold; no test changes it."""
    store = tmp_path_factory.mktemp("large") / "store"
    rows = [(T0 + 1000 * i, (10.0 * i, 0.0, 1.0)) for i in range(40)]
    for number in range(4):
        add_session(store, rows, instance=f"vm-{number}-{'x' * 400}", labels=(("label", "y" * 400),))
    return store


@pytest.mark.parametrize("argv", [*COMMANDS, "--help"])
@pytest.mark.parametrize("size", [0, 5000])
def test_a_reader_that_closes_at_any_moment(large: Path, argv: str, size: int) -> None:
    words = [] if argv == "--help" else [large]
    with subprocess.Popen(
        [sys.executable, ROOT / "bin" / "rondo-query", *words, *argv.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            process.stdout.read(0 if "tail" in argv else size)  # it has nothing to print
            process.stdout.close()
            err = process.stderr.read()
            status = process.wait(60)
        finally:
            process.kill()
    assert status in (0, 141)
    assert err == b"" or (err.count(b"\n") == 1 and b"nothing wrong" in err)


@pytest.mark.parametrize("argv", [each for each in COMMANDS if "tail" not in each])
def test_a_store_that_vanishes_while_it_is_read(large: Path, store: Path, argv: str) -> None:
    shutil.copytree(large, store)
    with subprocess.Popen(
        [sys.executable, ROOT / "bin" / "rondo-query", store, *argv.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        try:
            process.stdout.read(1)
            shutil.rmtree(store)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert b"Traceback" not in err
    # Unlike the store, which updates state.json first: the loss of a file may be noticed.
    assert process.returncode in (0, 65)


@pytest.mark.parametrize("harm", ["[]", "{}", "[" * 100_000, '{"rondo_store": 1}', "\udcff", "null"])
def test_a_folder_that_is_not_a_store(store: Path, query: Query, harm: str) -> None:
    store.mkdir()
    (store / "store.json").write_bytes(harm.encode(errors="surrogateescape"))
    for argv in ("list", "tail {} --new"):
        done = query(store, *argv.split())
        assert (done.returncode, done.stdout) == (65, b""), argv
        (line,) = done.stderr.decode().splitlines()
        assert line.startswith(f"rondo-query: {store}/store.json: ")


@pytest.mark.parametrize("store", ["", "/dev/null", "/proc", "\udcff", "x" * 5000, "a\nb"])
def test_a_missing_store(query: Query, store: str) -> None:
    for argv in ("read {}", "check"):
        done = query(store, *argv.split())
        assert (done.returncode, done.stdout) == (69, b""), argv
        assert len(done.stderr.decode().splitlines()) == 1 + store.count("\n")


def test_a_fifo_in_place_of_a_store_is_not_opened(tmp_path: Path) -> None:
    """Opening it would wait for a writer for ever; this one has a writer, so that the test cannot wait."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    fd = os.open(fifo, os.O_RDWR)
    try:
        os.write(fd, stream.encode(Header("vm-1", 1, (), 1000, SERIES)))
        with pytest.raises(StoreError, match="this is a file; a store is a folder"):
            open_store(fifo)
    finally:
        os.close(fd)
