"""One session is "1 session": what rondo-query counts in its messages."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from made_store import T0, Row, add_session

Query = Callable[..., subprocess.CompletedProcess[bytes]]


def rows(begin: int = T0) -> list[Row]:
    return [(begin + 1000 * i, (10.0 * i, 0.0, 1.0)) for i in range(6)]


def make(store: Path, number: int) -> None:
    for each in range(number):
        add_session(store, rows(), instance=f"vm-{each}", end="poweroff")


def damage(store: Path, instance: str, *seconds: int) -> None:
    """Flip a bit of the rows of these seconds; of all the slab if there are none."""
    (slab,) = store.glob(f"instances/{instance}/*/tier_0.slab")
    data = bytearray(slab.read_bytes())
    for second in seconds:
        data[data.index((T0 + 1000 * second).to_bytes(8, "little")) + 8] ^= 1
    slab.write_bytes(data if seconds else b"nonsense" * 100)


@pytest.mark.parametrize(("number", "says"), [(1, "1 session"), (2, "2 sessions")])
def test_sessions_checked(store: Path, query: Query, number: int, says: str) -> None:
    make(store, number)
    assert query(store, "check").stderr.decode() == f"rondo-query: nothing wrong in {says}\n"


@pytest.mark.parametrize(
    ("seconds", "says"), [((1,), "1 finding in 1 session"), ((1, 3), "2 findings in 1 session")]
)
def test_findings(store: Path, query: Query, seconds: tuple[int, ...], says: str) -> None:
    make(store, 1)
    damage(store, "vm-0", *seconds)
    assert query(store, "check").stderr.decode() == f"rondo-query: {says}\n"


@pytest.mark.parametrize(("seconds", "says"), [((1,), ": 1 torn row left"), ((1, 3), ": 2 torn rows left")])
@pytest.mark.parametrize("argv", ["read {}", "export {} --format=csv", "stream"])
def test_torn_rows(store: Path, query: Query, argv: str, seconds: tuple[int, ...], says: str) -> None:
    make(store, 1)
    damage(store, "vm-0", *seconds)
    assert says in query(store, *argv.split()).stderr.decode()


@pytest.mark.parametrize(("number", "says"), [(1, "1 session"), (2, "2 sessions")])
@pytest.mark.parametrize("argv", ["list", "read {}", "export {} --format=csv", "plot {}", "stream"])
def test_sessions_that_cannot_be_read(store: Path, query: Query, argv: str, number: int, says: str) -> None:
    make(store, number)
    for each in range(number):
        damage(store, f"vm-{each}")
    last = query(store, *argv.split()).stderr.decode().splitlines()[-1]
    assert says in last.replace(",", " ").replace(":", " ")
    assert says + "s" not in last


@pytest.mark.parametrize(("number", "says"), [(1, "1 sample left out"), (2, "2 samples left out")])
def test_samples_that_come_again(store: Path, query: Query, number: int, says: str) -> None:
    add_session(store, rows(), end="reset")
    back = rows(T0 + 1000 * (6 - number))
    add_session(store, back, start_ms=T0 + 500)
    err = query(store, "export", "rss_bytes", "--format=openmetrics").stderr.decode()
    assert err.startswith(f"rondo-query: {says}: not past those")
