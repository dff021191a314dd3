"""The places of rondo-query's command and store on the command line, and the default store."""

from __future__ import annotations

from pathlib import Path

import pytest

from rondo_tools.errors import StoreError
from rondo_tools.query.arguments import NOT_GIVEN, arrange
from rondo_tools.query.cli import make_parser
from rondo_tools.store.default import default_store
from rondo_tools.store.format.layout import is_store
from tests.support.fixtures import Query
from tests.support.query.made_store import T0, add_session

NONE = NOT_GIVEN


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with stores of all names that can be misread, and with other folders."""
    for name in ("s", "list", "read", "rss_bytes", "-odd", "sub/s"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "store.json").touch()
    for name in ("plot", "empty"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("given", "arranged"),
    [
        # the command first, the store first, no store
        ("read s x", "read s x"),
        ("s read x", "read s x"),
        ("read x", f"read {NONE} x"),
        ("read x s", "read s x"),
        ("check", f"check {NONE}"),
        ("check s", "check s"),
        ("s check", "check s"),
        ("read sub/s x", "read sub/s x"),
        # flags anywhere, with values that are stores, commands or numbers
        ("-q s --rate read x", "read s x -q --rate"),
        ("--rate read s --range 10m x --unix", "read s x --rate --range 10m --unix"),
        ("read s --rate x", "read s x --rate"),
        ("read --format csv x", f"read {NONE} x --format csv"),
        ("plot --output s x", f"plot {NONE} x --output s"),
        ("plot --output=s x", f"plot {NONE} x --output=s"),
        ("plot --output list s x", "plot s x --output list"),
        ("check --help", f"check {NONE} --help"),
        ("s check --help", "check s --help"),
        ("--help check", f"check {NONE} --help"),
        # a missing store: a word too many, or a path
        ("check typo", "check typo"),
        ("typo check", "check typo"),
        ("read typo x", "read typo x"),
        ("read ./typo", "read ./typo"),
        ("stream typo/", "stream typo/"),
        ("dump ..", "dump .."),
        ("read empty x", "read empty x"),
        ("read x empty", "read x empty"),
        # commands with and without a selector
        ("stream", f"stream {NONE}"),
        ("stream x", f"stream {NONE} x"),
        ("stream s", "stream s"),
        ("stream x s", "stream s x"),
        ("s top --once --by reason x", "top s x --once --by reason"),
        ('read x{path="/s"}', f'read {NONE} x{{path="/s"}}'),
        # stores with the name of a command: `list` and `read` are stores, `plot` is not
        ("list list", "list list"),
        ("list read x", "list read x"),
        ("list plot x", "plot list x"),
        ("list plot list", "plot list list"),
        ("plot plot", f"plot {NONE} plot"),
        ("check list", "check list"),
        ("plot read x", "plot read x"),
        ("read x list", "read list x"),
        # a selector that is also a store's name: give the store too
        ("read rss_bytes", "read rss_bytes"),
        ("read s rss_bytes", "read s rss_bytes"),
        ("s read rss_bytes", "read s rss_bytes"),
        ("rss_bytes read rss_bytes", "read rss_bytes rss_bytes"),
        ('read {__name__="rss_bytes"}', f'read {NONE} {{__name__="rss_bytes"}}'),
        # -- ends flags, and nothing else
        ("read -- s x", "read s -- x"),
        ("read s -- -x", "read s -- -x"),
        ("-- s check", "check s"),
        ("check -- s", "check s"),
        ("read -- -odd x", "read ./-odd -- x"),
        ("read -- -x", f"read {NONE} -- -x"),
        # errors of argparse
        ("--help", "--help"),
        ("--version", "--version"),
        ("s --help", "--help"),
        ("--bogus", "--bogus"),
        ("read s x y", "read s x y"),
    ],
)
def test_the_place_of_the_store(here: Path, given: str, arranged: str) -> None:
    assert arrange(make_parser(), given.split(" ")) == arranged.split(" ")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "a command is missing: top, status, list, read, "),
        (["s"], "a command is missing: top, status, list, read, "),
        (["sub/typo"], "a command is missing: top, status, list, read, "),
        (["lst"], "there is no command 'lst'; did you mean list?"),
        (["s", "lst"], "there is no command 'lst'; did you mean list?"),
        (["lst", "s"], "there is no command 'lst'; did you mean list?"),
        (["typo", "expotr", "{}"], "there is no command 'expotr'; did you mean export?"),
        (["zzz"], "there is no command 'zzz': top, status, list, read, "),
        (["s", "zzz"], "there is no command 'zzz': top, status, list, read, "),
    ],
)
def test_no_command(here: Path, given: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        arrange(make_parser(), given)
    assert exit_info.value.code == 64
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"rondo-query: {says}")
    assert second == "try: rondo-query --help"


def test_the_default_store(here: Path) -> None:
    places = ("./first", "./second")
    with pytest.raises(StoreError, match=r"no store at ./first or ./second: name one, or set RONDO_STORE"):
        default_store({}, places)
    for place in reversed(places):
        (here / place).mkdir()
        (here / place / "store.json").touch()
        assert default_store({"RONDO_STORE": ""}, places) == place
    assert default_store({"RONDO_STORE": "s"}, places) == "s"
    with pytest.raises(StoreError, match=r"empty: no store there .*RONDO_STORE names it") as raised:
        default_store({"RONDO_STORE": "empty"}, places)
    assert raised.value.exit_code == 69


def test_all_three_ways_find_the_same_store(tmp_path: Path, query: Query) -> None:
    add_session(tmp_path / "vmm_metrics", [(T0, (1.0, 2.0, 3.0))], end="poweroff")
    (tmp_path / "elsewhere").mkdir()
    named = query("vmm_metrics", "read", "rss_bytes", cwd=tmp_path)
    assert named.returncode == 0
    assert b"rss_bytes" in named.stdout
    for words, folder, environment in (
        (["read", "vmm_metrics", "rss_bytes"], ".", {}),
        (["read", "rss_bytes"], ".", {}),
        (["read", "rss_bytes"], "elsewhere", {"RONDO_STORE": "../vmm_metrics"}),
    ):
        done = query(*words, cwd=tmp_path / folder, env={"RONDO_STORE": "", **environment})
        assert (done.returncode, done.stdout) == (0, named.stdout), words


def test_an_unreadable_store_is_not_passed_over(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied")

    assert not is_store("empty")
    monkeypatch.setattr(Path, "stat", refuse)
    assert is_store("empty")
