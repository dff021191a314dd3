"""rondo-query check: quiet about every good store, and one line for each thing that is wrong."""

from __future__ import annotations

import ctypes
import shutil
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_store import SERIES, T0, Row, add_session

from rondo_tools.query.check import Checker
from rondo_tools.query.cli import main
from rondo_tools.store.reader import Store
from rondo_tools.store.writer import StoreWriter
from rondo_tools.stream import Header, Tick

Query = Callable[..., subprocess.CompletedProcess[bytes]]


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
    """Gaps, laps, a writer that was taken up again, an end or none: looked at after each step."""
    store = tmp_path_factory.mktemp("check") / "store"
    rows = [(T0 + 1000 * slot + slot % 7, (1.0 * slot, 0.0, slot / 3)) for slot in slots]
    for cut in sorted(cuts):
        add_session(store, rows[:cut])
        assert found(store) == []
    add_session(store, rows, end=end)
    assert found(store) == []


def slab(store: Path, tier: int) -> Path:
    (path,) = store.glob(f"instances/*/*/tier_{tier}.slab")
    return path


def change(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def row_at(path: Path, t_ms: int) -> int:
    return path.read_bytes().index(struct.pack("<Q", t_ms))


def flip_a_bit(store: Path) -> None:
    path = slab(store, 0)
    change(path, row_at(path, T0 + 85_000) + 9, b"\xff")


def zero_a_row(store: Path) -> None:
    path = slab(store, 0)
    change(path, row_at(path, T0 + 75_000), bytes(16 + 8 * 3))


def flip_a_bit_of_a_coarse_row(store: Path) -> None:
    path = slab(store, 1)
    change(path, row_at(path, T0 + 79_000) + 9, b"\xff")


def swap_rows(store: Path) -> None:
    path, size = slab(store, 0), 16 + 8 * 3
    first = row_at(path, T0 + 81_000)
    data = path.read_bytes()
    change(path, first, data[first + size : first + 2 * size])


def falsify_a_coarse_row(store: Path) -> None:
    """A good CRC, but a value that no roll-up gives."""
    path = slab(store, 1)
    at, size = row_at(path, T0 + 79_000), 16 + 8 * 5
    row = bytearray(path.read_bytes()[at : at + size - 4])
    row[8:16] = struct.pack("<d", 1e9)
    change(path, at, bytes(row) + struct.pack("<I", crc32(row)))


def lose_a_coarse_row(store: Path) -> None:
    path = slab(store, 2)
    change(path, row_at(path, T0 + 79_000), bytes(16 + 8 * 5))


def lose_the_newest_ticks(store: Path) -> None:
    path = slab(store, 0)
    for second in range(80, 91):
        change(path, row_at(path, T0 + 1000 * second), bytes(16 + 8 * 3))


def rename(store: Path) -> None:
    (store / "instances" / "vm-1").rename(store / "instances" / "vm-2")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (flip_a_bit, ["tier_0.slab: slot 5: its CRC is wrong: torn or damaged"]),
        (
            zero_a_row,
            [f"tier_{n}.slab: the row at {T0 + 79_000} is not the roll-up of tier 0" for n in (1, 2)],
        ),
        (flip_a_bit_of_a_coarse_row, ["tier_1.slab: slot 15: its CRC is wrong: torn or damaged"]),
        (swap_rows, ["tier_0.slab: slot 1: the row of another slot, 2"]),
        (falsify_a_coarse_row, [f"tier_1.slab: the row at {T0 + 79_000} is not the roll-up of tier 0"]),
        (lose_a_coarse_row, [f"tier_2.slab: no row for the window at {T0 + 60_000}, which has closed"]),
        (
            lose_the_newest_ticks,
            [
                f"tier_1.slab: the row at {T0 + t} is after the last tick, {T0 + 79_000}"
                for t in (84_000, 89_000, 90_000)
            ]
            + [f"tier_2.slab: the row at {T0 + 90_000} is after the last tick, {T0 + 79_000}"],
        ),
        (lambda store: change(slab(store, 1), 20, b"\xff"), ["tier_1.slab: the slab's header is damaged"]),
        (lambda store: slab(store, 1).write_bytes(b"x"), ["tier_1.slab: not a slab (no RNDO header)"]),
        (lambda store: slab(store, 2).unlink(), ["tier_2.slab: No such file or directory"]),
        (
            lambda store: shutil.copy(slab(store, 1), slab(store, 0)),
            ["tier_0.slab: the slab does not fit the store's tiers and the session's series"],
        ),
        (lambda store: (slab(store, 0).parent / "session.json").write_text("[]"), ["session.json: not a"]),
        (rename, [f"session.json: describes vm-1/{T0}"]),
    ],
)
def test_each_damage_is_found(
    store: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], object],
    expected: list[str],
) -> None:
    add_session(store, ticks(1, 90), end="poweroff")
    assert main([str(store), "check"]) == 0
    assert capsys.readouterr().out == ""
    damage(store)
    assert main([str(store), "check"]) == 65
    out, err = capsys.readouterr()
    lines = [line.split("/", 3)[3] for line in out.splitlines()]
    assert [line[: len(want)] for line, want in zip(lines, expected, strict=True)] == expected
    findings = "1 finding" if len(expected) == 1 else f"{len(expected)} findings"
    assert f"rondo-query: {findings} in 1 session\n" in err


def as_anybody() -> None:
    """From the next exec on, no more right than others to read what nobody may: for a root that tests."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.prctl(24, capability)  # PR_CAPBSET_DROP; of others than root there is nothing to take


@pytest.mark.parametrize(
    ("path", "looked_at"),
    [
        ("vm-2/{start}/tier_0.slab", 3),
        ("vm-2/{start}/tier_2.slab", 3),
        ("vm-2/{start}/session.json", 3),
        ("vm-2/{start}", 3),
        ("vm-2", 2),
        (".", 0),
    ],
)
def test_what_it_may_not_read_is_not_good(store: Path, query: Query, path: str, looked_at: int) -> None:
    for number in range(1, 4):
        add_session(store, ticks(1, 90), instance=f"vm-{number}", end="poweroff")
    closed = store / "instances" / path.format(start=T0)
    mode = closed.stat().st_mode
    closed.chmod(0)
    try:
        done = query(store, "check", preexec_fn=as_anybody)
    finally:
        closed.chmod(mode)
    (line,) = done.stdout.decode().splitlines()
    found = Path("instances") / path.format(start=T0)
    if path == "vm-2/{start}":
        found = found / "session.json"
    assert line == f"{found}: cannot be read: Permission denied"
    sessions = f"{looked_at} session{'' if looked_at == 1 else 's'}"
    assert done.stderr.decode() == f"rondo-query: 0 findings in {sessions}, 1 path that cannot be read\n"
    assert done.returncode == 65
    assert query(store, "check").returncode == 0


def test_a_bad_row_beside_what_cannot_be_read(store: Path, query: Query) -> None:
    add_session(store, ticks(1, 90), end="poweroff")
    flip_a_bit(store)
    coarse = slab(store, 2)
    coarse.unlink()
    coarse.symlink_to(coarse.name)  # what root cannot open either
    (store / "instances" / "loop").symlink_to("loop")
    done = query(store, "check")
    where = f"instances/vm-1/{T0}"
    assert done.stdout.decode().splitlines() == [
        "instances/loop: cannot be read: Too many levels of symbolic links",
        f"{where}/tier_0.slab: slot 5: its CRC is wrong: torn or damaged",
        f"{where}/tier_2.slab: cannot be read: Too many levels of symbolic links",
    ]
    assert done.stderr == b"rondo-query: 1 finding in 1 session, 2 paths that cannot be read\n"
    assert done.returncode == 65


def test_what_is_removed_while_it_looks_is_no_finding(store: Path) -> None:
    """Sessions go one after the other, between any two looks of a checker at them."""
    for number in range(8):
        add_session(store, ticks(1, 9), instance=f"vm-{number}", end="poweroff")
    is_going = threading.Event()

    def remove() -> None:
        is_going.wait()
        for session in sorted(store.glob("instances/*/*")):
            for name in ("session.json", "tier_0.slab", "tier_2.slab", "tier_1.slab"):
                (session / name).unlink()
            session.rmdir()
            session.parent.rmdir()

    thread = threading.Thread(target=remove)
    thread.start()
    try:
        while thread.is_alive():
            is_going.set()
            assert found(store) == []
    finally:
        is_going.set()
        thread.join()
    assert found(store) == []


def test_a_store_that_is_written_has_no_finding(store: Path) -> None:
    header = Header("vm-1", T0, (), 1000, SERIES)
    is_done = threading.Event()

    def write() -> None:
        with StoreWriter(store) as writer:  # its rings are not lapped while they are read
            session = writer.open(header)
            for i in range(1, 20_000):
                session.ring.append([Tick(T0 + 1000 * i, struct.pack("<3d", i, 0.5 * i, i % 7))])
            session.close()
        is_done.set()

    StoreWriter(store).close()
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
