"""One session is "1 session": counts in rondo-query's messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.fixtures import Query
from tests.support.query.made_store import T0, Row, add_session, flip_a_bit, journal_of, keep_house, roll_up


def rows(begin: int = T0) -> list[Row]:
    return [(begin + 1000 * i, (10.0 * i, 0.0, 1.0)) for i in range(6)]


def make(store: Path, number: int) -> None:
    """`number` sessions, in two journals each."""
    for each in range(number):
        add_session(store, rows()[:3], instance=f"vm-{each}")
        add_session(store, rows(), instance=f"vm-{each}", end="poweroff")


def damage(store: Path, number: int, *seconds: int) -> None:
    for each in range(number):
        for second in seconds:
            flip_a_bit(store, T0 + 1000 * second, f"vm-{each}")


@pytest.mark.parametrize(("number", "says"), [(1, "1 session, 2 files"), (2, "2 sessions, 4 files")])
def test_checked_sessions_and_files(store: Path, query: Query, number: int, says: str) -> None:
    make(store, number)
    assert query(store, "check").stderr.decode() == f"rondo-query: nothing wrong in {says}\n"


@pytest.mark.parametrize(
    ("seconds", "says"), [((1,), "1 finding in 1 session"), ((1, 4), "2 findings in 1 session")]
)
def test_findings(store: Path, query: Query, seconds: tuple[int, ...], says: str) -> None:
    make(store, 1)
    damage(store, 1, *seconds)
    assert query(store, "check").stderr.decode() == f"rondo-query: {says}, 2 files\n"


@pytest.mark.parametrize(
    ("seconds", "says"), [((1,), ": 1 damaged place ("), ((1, 4), ": 2 damaged places (")]
)
@pytest.mark.parametrize("argv", ["read {}", "read {} --sum", "export {} --format=csv", "stream", "plot {}"])
def test_damage(store: Path, query: Query, argv: str, seconds: tuple[int, ...], says: str) -> None:
    make(store, 1)
    damage(store, 1, *seconds)
    assert says in query(store, *argv.split()).stderr.decode()


@pytest.mark.parametrize(("number", "says"), [(1, "1 file"), (2, "2 files")])
@pytest.mark.parametrize("argv", ["list", "read {}", "export {} --format=csv", "plot {}", "stream"])
def test_files_that_cannot_be_read(store: Path, query: Query, argv: str, number: int, says: str) -> None:
    make(store, 2)
    for each in range(number):
        journal_of(store, T0 + 5000, f"vm-{each}").write_bytes(b"nonsense" * 100)
    last = query(store, *argv.split()).stderr.decode().splitlines()[-1]
    assert last == f"rondo-query: left out: {says} that cannot be read (see rondo-query STORE check)"


@pytest.mark.parametrize(("seconds", "says"), [(601, "1 tick of 1 session"), (603, "3 ticks of 1 session")])
def test_ticks_missing_in_a_stream(store: Path, query: Query, seconds: int, says: str) -> None:
    add_session(store, [(T0 + 1000 * i, (1.0, 1.0, 1.0)) for i in range(1, seconds + 1)], end="reset")
    roll_up(store, T0)
    keep_house(store, T0 + 60_000)
    assert f"left out: {says}, older than" in query(store, "stream").stderr.decode()


@pytest.mark.parametrize(("number", "says"), [(1, "1 sample left out"), (2, "2 samples left out")])
def test_repeated_samples(store: Path, query: Query, number: int, says: str) -> None:
    add_session(store, rows(), end="reset")
    back = rows(T0 + 1000 * (6 - number))
    add_session(store, back, start_ms=T0 + 500)
    err = query(store, "export", "rss_bytes", "--format=openmetrics").stderr.decode()
    assert err.startswith(f"rondo-query: {says}: not past those")
