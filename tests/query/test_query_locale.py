"""rondo-query's output if standard output is not UTF-8, and if it is closed."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.fixtures import Query
from tests.support.query.made_store import T0, Row, add_session

ROOT = Path(__file__).resolve().parents[2]

# Wide, right to left, outside the first plane; an escape sequence, a direction override, a new line.
NAME = "vm-日本 عربي é 😀 \x1b[31m\u202e\n"
LABELS = (("zone", "ö"),)
# In a table, in UTF-8 and in ASCII; the last one can be used in a selector.
SHOWN = r"vm-日本\x20عربي\x20é\x20😀\x20\x1b[31m\u202e\n"
ASCII = r"vm-\u65e5\u672c\x20\u0639\u0631\u0628\u064a\x20\u00e9\x20\U0001f600\x20\x1b[31m\u202e\n"
LATIN_1 = ASCII.replace(r"\u00e9", "é")

Locale = tuple[dict[str, str], str, str]

NOT_UTF_8 = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LOCALES = {
    "C": (NOT_UTF_8 | {"LC_ALL": "C"}, "ascii", ASCII),
    "POSIX": (NOT_UTF_8 | {"LC_ALL": "POSIX"}, "ascii", ASCII),
    "C-as-python-takes-it": ({"LC_ALL": "C"}, "utf-8", SHOWN),
    "ascii": ({"PYTHONIOENCODING": "ascii"}, "ascii", ASCII),
    "strict": ({"PYTHONIOENCODING": "ascii:strict"}, "ascii", ASCII),
    "latin-1": ({"PYTHONIOENCODING": "latin-1"}, "latin-1", LATIN_1),
    "utf-8": ({"LC_ALL": "C.UTF-8"}, "utf-8", SHOWN),
}


def rows() -> list[Row]:
    return [(T0 + 1000 * i, (20.0 * i, 5.0, 1e6 * i)) for i in range(31)]


@pytest.fixture
def named(store: Path) -> Path:
    """A store with one session, whose name has everything that is hard to show."""
    add_session(store, rows(), instance=NAME, labels=LABELS, end="reset")
    return store


@pytest.fixture(params=LOCALES)
def locale(request: pytest.FixtureRequest) -> Locale:
    """The environment to add, its encoding, and NAME in a table with that encoding."""
    return LOCALES[request.param]


def test_a_table_escapes_unprintable_characters(named: Path, query: Query, locale: Locale) -> None:
    env, encoding, shown = locale
    listed = query(named, "list", env=env)
    assert (listed.returncode, listed.stderr) == (0, b"")
    assert listed.stdout.decode(encoding).splitlines()[1].split()[0] == shown
    read = query(named, "read", "rss_bytes", env=env)
    assert (read.returncode, read.stderr) == (0, b"")
    names, *lines = read.stdout.decode(encoding).splitlines()
    assert {len(line) - len(line.split()[3]) for line in lines} == {names.index("value")}  # they align
    series = lines[0].split()[2]
    assert series.startswith(f'rss_bytes{{instance="{shown}",zone="')
    # The printed name can be used in a selector, in any locale.
    for other in ({}, env):
        assert query(named, "read", series.encode(encoding), env=other | {"LC_ALL": "C"}).returncode == (
            0 if encoding != "latin-1" else 64
        )


@pytest.mark.parametrize("argv", ["read {} --format=csv", "export {} --format=csv"])
def test_csv_is_utf_8(named: Path, query: Query, locale: Locale, argv: str) -> None:
    done = query(named, *argv.split(), env=locale[0])
    assert (done.returncode, done.stderr) == (0, b"")
    series = [row["series"] for row in csv.DictReader(io.StringIO(done.stdout.decode(), newline=""))]
    assert len(series) == 3 * len(rows())
    assert "عربي é 😀" in series[0]
    assert 'zone="ö"' in series[0]


@pytest.mark.parametrize("encoding", ["ascii", "utf-16", "utf-8-sig"])
@pytest.mark.parametrize(
    "argv",
    [
        "list --format=json",
        "list --format=csv",
        "read {} --format=json",
        "read {} --format=csv",
        "export {} --format=jsonl",
        "export {} --format=csv",
        "export {} --format=openmetrics",
    ],
)
def test_output_for_programs_does_not_depend_on_the_locale(
    named: Path, query: Query, argv: str, encoding: str
) -> None:
    # The ages in a list change while the test runs.
    expected = query(named, *argv.split(), env={"PYTHONIOENCODING": "utf-8"}).stdout.decode()
    done = query(named, *argv.split(), env={"PYTHONIOENCODING": encoding})
    assert (done.returncode, done.stderr) == (0, b"")
    got = done.stdout.decode()
    if argv.startswith("list"):
        assert len(got.splitlines()) == len(expected.splitlines())
        assert (NAME.rstrip() in got) or json.dumps(NAME) in got
    else:
        assert got == expected


def test_openmetrics_has_the_name_unchanged(named: Path, query: Query) -> None:
    env = NOT_UTF_8 | {"LC_ALL": "C"}
    argv = ["export", "rss_bytes", "--format=openmetrics", "--label=ort=Köln"]
    done = query(named, *argv, env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (
        done.stdout.decode()
        .split("\n")[3]
        .startswith('rss_bytes{instance="vm-日本 عربي é 😀 \x1b[31m\u202e\\n",ort="Köln",zone="ö"} 0 ')
    )


@pytest.mark.parametrize("term", [False, True], ids=["pipe", "pty"])
def test_a_plot_is_ascii_if_lines_cannot_be_drawn(
    named: Path, locale: Locale, term: bool, query: Query
) -> None:
    pytest.importorskip("plotext")
    env, encoding, shown = locale
    argv = ["plot", "rss_bytes", "--width=150", "--height=20"]
    if term:
        status, data = on_a_terminal(named, *argv, env=env)
        assert b"\x1b[38" in data  # in colour
    else:
        done = query(named, *argv, env=env)
        status, data = done.returncode, done.stdout
        assert done.stderr == b""
    assert status == 0, data
    text = data.decode(encoding)
    assert shown.replace("\\n", "") in text.splitlines()[-1]
    fine = set("│┤⣀⡠⠤⠒⠉") & set(text)
    if encoding == "utf-8":
        assert "│" in fine
    else:
        assert not fine
        *canvas, _ = text.splitlines()
        assert canvas[0].count("-") > 100
        assert sum("|" in line or "+" in line for line in canvas) > 12
        assert sum(line.count("a") for line in canvas) > 20
        assert "".join(canvas).isascii()


def on_a_terminal(store: Path, *argv: str, env: dict[str, str]) -> tuple[int, bytes]:
    """Run it with a terminal of 160 columns as standard output; its status and output."""
    master, slave = pty.openpty()
    try:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 40, 160, 0, 0))
        with subprocess.Popen(
            [sys.executable, ROOT / "bin" / "rondo-query", store, *argv],
            env={**os.environ, "TERM": "xterm", **env},
            stdout=slave,
            stderr=slave,
        ) as process:
            os.close(slave)
            slave = -1
            data = b""
            try:
                while piece := os.read(master, 1 << 16):
                    data += piece
            except OSError:  # EIO: the other side is closed
                pass
            return process.wait(60), data.replace(b"\r\n", b"\n")
    finally:
        os.close(master)
        if slave >= 0:
            os.close(slave)


def test_tables_on_a_terminal_and_in_a_file(
    named: Path, query: Query, locale: Locale, tmp_path: Path
) -> None:
    env, encoding, shown = locale
    status, data = on_a_terminal(named, "list", env=env)
    assert (status, shown in data.decode(encoding)) == (0, True)
    with (tmp_path / "out").open("wb") as file:
        assert query(named, "list", env=env, stdout=file, capture_output=False).returncode == 0
    assert shown in (tmp_path / "out").read_bytes().decode(encoding)


@pytest.mark.parametrize(
    ("argv", "shows"),
    [
        ("read rss_bytes", "2026-11-23T01:50:30.000+01:00"),
        ("read rss_bytes --utc", "2026-11-23T00:50:30.000Z"),
        ("read rss_bytes --format=csv", "2026-11-23T00:50:30.000Z"),
        ("list --wide", "2026-11-23T01:50:30.000+01:00"),
        ("list --format=json", "2026-11-23T00:50:30.000Z"),
        ("plot rss_bytes", "2026-11-23 +01:00"),
        ("plot rss_bytes --utc", "2026-11-23 UTC"),
        (
            "read rss_bytes --range=1s",
            "(the matching sessions were last seen at 2026-11-23T01:50:30.000+01:00)",
        ),
        (
            "read rss_bytes --range=1s --utc",
            "(the matching sessions were last seen at 2026-11-23T00:50:30.000Z)",
        ),
    ],
)
def test_a_terminal_gets_local_time(named: Path, argv: str, shows: str) -> None:
    if argv.startswith("plot"):
        pytest.importorskip("plotext")
    _, data = on_a_terminal(named, *argv.split(), env={"TZ": "CET-1CEST,M3.5.0,M10.5.0/3"})
    assert shows in data.decode()
    assert ("+01:00" in data.decode()) is ("+01:00" in shows)
    if argv.startswith("plot"):
        assert ("01:50:30" in data.decode()) is ("+01:00" in shows)


def test_an_error_escapes_unprintable_names(named: Path, query: Query, locale: Locale) -> None:
    env, encoding, shown = locale
    if encoding == "latin-1":
        return  # arguments are UTF-8 there too
    done = query(named, "tail", f'{{instance="{shown}"}}'.encode(encoding), env=env)
    assert (done.returncode, done.stdout) == (1, b"")
    message = f'rondo-query: nothing that matches {{instance="{shown}"}} is running'
    assert done.stderr.decode(encoding).replace(" ", r"\x20").startswith(message.replace(" ", r"\x20"))


HOSTILE = [
    ([b"\x1b[31mred\x07", b"list"], 69, b"\\x1b[31mred\\x07: no store there"),
    ([b"\xff\xfe", b"list"], 69, b"\\udcff\\udcfe: no store there"),
    ([b"S", b"li\x1bst"], 64, b"\\x1b"),
    ([b"S", b"list", b"--so\x1brt"], 64, b"there is no flag --so\\x1brt; did you mean --sort?"),
    ([b"S", b"list", b"--sort=\x9b\x1b"], 69, b"S: no store"),
    ([b"S", b"read", b"{\x1b}"], 64, b"column 2: a label name is expected"),
    ([b"S", b"read", b'{a="\xff"}'], 64, b"the string is not valid UTF-8"),
    ([b"S", b"read", b"{}", b"--start=\x1b\xff"], 64, b"is not a time"),
    ([b"S", b"read", b"{}", b"--tier=\x1b\xff"], 64, b"--tier"),
    ([b"S", b"plot", b"{}", b"--output=\x1b\xff"], 64, b"--output \\x1b\\udcff"),
    ([b"S", b"export", b"{}", b"--format=csv", b"--label=\xff"], 64, b"--label"),
]


@pytest.mark.parametrize("locale", [LOCALES["C"], LOCALES["latin-1"], LOCALES["utf-8"]])
@pytest.mark.parametrize(("argv", "status", "says"), HOSTILE)
def test_an_error_shows_nothing_raw(
    query: Query, locale: Locale, argv: list[bytes], status: int, says: bytes
) -> None:
    env, encoding, _ = locale
    done = query(*argv, env=env)
    assert (done.returncode, done.stdout) == (status, b"")
    assert b"Traceback" not in done.stderr
    if encoding != "latin-1":  # its bytes, decoded by the file system's encoding, may be characters
        assert says in done.stderr
    assert all(char.isprintable() or char == "\n" for char in done.stderr.decode(encoding))


@pytest.mark.parametrize("locale", [LOCALES["C"], LOCALES["latin-1"]])
@pytest.mark.parametrize("tool", ["rondo-vmm", "rondo-store", "rondo-push", "rondo-query"])
@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["--\x1b\u202eö"]])
def test_every_tool_prints_messages_in_every_locale(
    run: Query, locale: Locale, tool: str, argv: list[str]
) -> None:
    env, encoding, _ = locale
    done = run(tool, *(word.encode() for word in argv), env={**os.environ, **env})
    assert done.returncode == (64 if argv[0] not in ("--help", "--version") else 0)
    assert b"Traceback" not in done.stderr
    text = (done.stdout + done.stderr).decode(encoding)
    assert all(char.isprintable() or char == "\n" for char in text)


def closed(number: int) -> Callable[[], None]:
    return lambda: os.close(number)


def test_errors_do_not_go_to_standard_output(named: Path, query: Query) -> None:
    """With standard error closed there is no place for a message; in the data it would be damage."""
    done = query(named, "read", "nothing", preexec_fn=closed(2))
    assert (done.returncode, done.stdout) == (1, b"")
    done = query(named, "read", "{}", "--range=x", preexec_fn=closed(2))
    assert (done.returncode, done.stdout) == (64, b"")


@pytest.mark.parametrize("argv", [["list"], ["read", "{}"], ["export", "{}", "--format=openmetrics"]])
def test_a_full_disk_under_standard_output_is_reported_once(
    named: Path, query: Query, argv: list[str]
) -> None:
    with Path("/dev/full").open("wb") as full:
        done = query(named, *argv, stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert (done.returncode, done.stderr) == (75, b"rondo-query: standard output: No space left on device\n")


def test_a_full_disk_under_standard_error_changes_no_status(named: Path, query: Query) -> None:
    with Path("/dev/full").open("wb") as full:
        for argv, status in ((["check"], 0), (["list"], 0), (["read", "nothing"], 1), (["read"], 64)):
            done = query(named, *argv, stderr=full, stdout=subprocess.PIPE, capture_output=False)
            assert done.returncode == status, argv
