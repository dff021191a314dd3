"""rondo-query check: silent about every good store, and one line for each damage."""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rondo_tools.query.check import Checker
from rondo_tools.query.cli import main
from rondo_tools.store.intake import Intake
from rondo_tools.store.opened import OpenStore
from rondo_tools.store.reader import Store
from rondo_tools.stream import Header, Tick, encode
from tests.support.fixtures import Query
from tests.support.query.made_store import SERIES, T0, Row, add_session, keep_house, roll_up


def ticks(first: int, last: int) -> list[Row]:
    return [(T0 + 1000 * i, (10.0 * i, 0.1 * i, float(i))) for i in range(first, last + 1)]


def found(store: Path) -> list[str]:
    return list(Checker(Store(store)).lines())


@pytest.mark.heavy
@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    slots=st.lists(st.integers(0, 150), min_size=1, unique=True).map(sorted),
    cuts=st.lists(st.integers(0, 150), max_size=3),
    end=st.sampled_from((None, "poweroff")),
)
def test_a_good_store_has_no_finding(
    tmp_path_factory: pytest.TempPathFactory, slots: list[int], cuts: list[int], end: str | None
) -> None:
    """Gaps, roll-ups, a restarted writer, an end or none: checked after each step."""
    store = tmp_path_factory.mktemp("check") / "store"
    rows = [(T0 + 1000 * slot + slot % 7, (1.0 * slot, 0.0, slot / 3)) for slot in slots]
    for cut in sorted(cuts):
        add_session(store, rows[:cut])
        assert found(store) == []
        roll_up(store, T0 + 100_000)
        assert found(store) == []
    add_session(store, rows, end=end)
    assert found(store) == []
    roll_up(store, T0 + 200_000)
    keep_house(store, T0 + 300_000)
    assert found(store) == []


def flipped(path: Path, at: int) -> None:
    """Flip a bit of the byte at `at`, from the end if it is negative."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


FIRST = f"{1:010d}"


@pytest.mark.parametrize(
    ("name", "damage", "expected"),
    [
        (f"tier_0/{FIRST}", lambda path: flipped(path, -20), ": damaged; "),
        (f"tier_0/{FIRST}", lambda path: path.write_bytes(b"x" * 100), "not a file of a rondo store"),
        (f"tier_0/{FIRST}", Path.unlink, "is missing, though state.json names it"),
        (f"tier_1/{FIRST}", lambda path: flipped(path, -20), ": damaged; "),
        (f"tier_1/{FIRST}", Path.unlink, "is missing, though state.json names it"),
        (f"tier_2/{FIRST}", cut, "bytes long, not"),
        (f"last_rows/{FIRST}", lambda path: flipped(path, -20), ": damaged; "),
        (f"ended/{FIRST}", lambda path: flipped(path, -20), ": damaged; "),
    ],
)
def test_each_damage_is_found(
    store: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    damage: Callable[[Path], object],
    expected: str,
) -> None:
    add_session(store, ticks(1, 90), end="poweroff")
    roll_up(store)
    assert main([str(store), "check"]) == 0
    assert capsys.readouterr().out == ""
    damage(store / name)
    assert main([str(store), "check"]) == 65
    out, err = capsys.readouterr()
    assert any(line.startswith(f"{name}: ") and expected in line for line in out.splitlines()), out
    findings = len(out.splitlines())
    assert f"rondo-query: {findings} finding{'s' * (findings > 1)} in " in err


def test_a_small_file_that_cannot_be_read(store: Path, query: Query) -> None:
    add_session(store, ticks(1, 90))
    roll_up(store)
    (store / "carry_0000000001").write_bytes(b"nonsense")
    done = query(store, "check")
    assert (done.returncode, done.stdout.startswith(b"carry_0000000001: ")) == (65, True)
    (store / "state.json").write_bytes(b"{}")
    done = query(store, "check")
    assert (done.returncode, done.stdout) == (65, b"")
    assert f"{store}/state.json: not a store's state".encode() in done.stderr


def as_anybody() -> None:
    """From the next exec on, root cannot read files without read permission; for tests run by root."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.prctl(24, capability)  # PR_CAPBSET_DROP; other users have no capabilities to drop


def test_an_unreadable_file_is_a_finding(store: Path, query: Query) -> None:
    for number in range(1, 4):
        add_session(store, ticks(1, 90), instance=f"vm-{number}", end="poweroff")
        roll_up(store)
    for name in (f"tier_0/{FIRST}", f"tier_2/{FIRST}", "carry_0000000003"):
        closed = store / name
        mode = closed.stat().st_mode
        closed.chmod(0)
        try:
            done = query(store, "check", preexec_fn=as_anybody)
        finally:
            closed.chmod(mode)
        assert f"{name}: Permission denied" in done.stdout.decode().splitlines()
        assert done.returncode == 65
    assert query(store, "check").returncode == 0


def test_files_removed_during_the_check_are_no_finding(store: Path) -> None:
    """Journals are removed one after the other, between any two reads of the checker."""
    for number in range(8):
        add_session(store, ticks(1, 9), instance=f"vm-{number}", end="poweroff")
        roll_up(store)
    thread = threading.Thread(target=keep_house, args=(store, T0 + 60_000))
    thread.start()
    try:
        while thread.is_alive():
            assert found(store) == []
    finally:
        thread.join()
    assert not list(store.glob("tier_0/*"))
    assert found(store) == []


def test_a_store_being_written_has_no_finding(store: Path) -> None:
    is_done = threading.Event()

    def write() -> None:
        with OpenStore(store, now_ms=lambda: T0 + 10_000_000) as opened:
            keeper = opened.keeper
            intake = Intake(keeper)
            intake.feed(encode(Header("vm-1", T0, (), 1000, SERIES)))
            for i in range(1, 3_000):
                intake.feed(encode(Tick(T0 + 1000 * i, struct.pack("<3d", i, 0.5 * i, i % 7))))
                keeper.flush()
                if i % 500 == 0:
                    keeper.end_journal()
            intake.close()
        is_done.set()

    add_session(store, [])
    thread = threading.Thread(target=write)
    thread.start()
    looks = 0
    try:
        while not is_done.is_set() or not looks:
            assert found(store) == []
            looks += 1
    finally:
        thread.join()
    assert found(store) == []
