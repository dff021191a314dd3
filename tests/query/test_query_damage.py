"""Damage is left out and reported once, and the status is 65; everything else is printed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from rondo_tools.store.format.frame_file import FrameFile
from rondo_tools.store.format.frames import DESCRIPTIONS, HEAD_SIZE, ROWS
from rondo_tools.stream import Decoder, Header
from tests.support.fixtures import Query
from tests.support.needs import PATIENCE_S
from tests.support.query.made_store import T0, Row, add_session, flip_a_bit, journal_of, roll_up

ROOT = Path(__file__).resolve().parents[2]

READS = [
    "read {}",
    "read {} --format=json",
    "export {} --format=csv",
    "export {} --format=openmetrics",
    "plot rss_bytes",
    "plot rss_bytes --output=/dev/null/../picture.svg",
    "stream",
]


def rows(begin: int = T0) -> list[Row]:
    return [(begin + 1000 * i, (10.0 * i, 0.0, 1.0)) for i in range(1, 12)]


def two_halves(store: Path, *instances: str, end: str | None = "poweroff") -> None:
    """Each instance's session in two journals: ticks 1 to 5, and 6 to 11."""
    for instance in instances:
        add_session(store, rows()[:5], instance=instance)
        add_session(store, rows(), instance=instance, end=end)


def words(argv: str, tmp_path: Path) -> list[str]:
    return argv.replace("/dev/null/..", str(tmp_path)).split()


def shows(done: subprocess.CompletedProcess[bytes], argv: str, tmp_path: Path, *instances: str) -> bool:
    """Whether an output shows these instances, and no others."""
    if argv.startswith("stream"):
        events = list(Decoder().feed(done.stdout))
        return [event.instance for event in events if isinstance(event, Header)] == list(instances)
    shown = done.stdout.decode()
    if "--output" in argv:
        shown = (tmp_path / "picture.svg").read_text()
    return all((name in shown) is (name in instances) for name in ("vm-bad", "vm-good", "vm-fine"))


@pytest.mark.parametrize("argv", READS)
def test_damaged_frames(store: Path, query: Query, tmp_path: Path, argv: str) -> None:
    two_halves(store, "vm-bad", "vm-fine", "vm-good")
    bad = flip_a_bit(store, T0 + 5000, "vm-bad")
    good = flip_a_bit(store, T0 + 7000, "vm-good")
    done = query(store, *words(argv, tmp_path))
    assert done.returncode == 65
    first, second, last = done.stderr.decode().splitlines()
    assert first.startswith(f"rondo-query: {bad}: byte ")
    assert second.startswith(f"rondo-query: {good}: byte ")
    assert first.endswith(": its payload is damaged; left out")
    assert last == "rondo-query: left out: 2 damaged places (see rondo-query STORE check)"
    assert shows(done, argv, tmp_path, "vm-bad", "vm-fine", "vm-good")


def test_a_damaged_frame_costs_its_ticks_and_no_others(store: Path, query: Query) -> None:
    two_halves(store, "vm-1")
    flip_a_bit(store, T0 + 7000)
    done = query(store, "read", "rss_bytes", "--unix", "--format=json")
    assert [json.loads(line)["time"] for line in done.stdout.splitlines()] == [
        T0 + 1000 * i for i in range(1, 6)
    ]
    # A window is rolled up from the remaining ticks.
    done = query(store, "read", "rss_bytes", "--unix", "--format=json", "--tier=1")
    assert done.returncode == 65
    assert [json.loads(line)["time"] for line in done.stdout.splitlines()] == [T0 + 4000, T0 + 5000]


def test_damage_in_a_coarse_tier(store: Path, query: Query) -> None:
    two_halves(store, "vm-1")
    roll_up(store)
    for name, kind in (("tier_1", ROWS), ("ended", DESCRIPTIONS)):
        path = store / name / f"{1:010d}"
        whole = path.read_bytes()
        with FrameFile(path) as file:
            *_, (at, head) = [(at, head) for at, head, _ in file.frames() if head.kind == kind]
        last = at + HEAD_SIZE + head.length - 1
        path.write_bytes(whole[:last] + bytes([whole[last] ^ 1]) + whole[last + 1 :])
        for tier, status in (("1", 65 if name == "tier_1" else 0), ("2", 0), ("0", 0)):
            done = query(store, "read", "rss_bytes", f"--tier={tier}")
            expected = status if name == "tier_1" else 65
            assert (done.returncode, str(path) in done.stderr.decode()) == (expected, expected == 65), (
                name,
                tier,
            )
        path.write_bytes(whole)


def break_journal(journal: Path) -> None:
    journal.write_bytes(b"nonsense" * 100)


def lose_journal(journal: Path) -> None:
    """Not because of retention: it was not rolled up."""
    journal.unlink()


def loop_journal(journal: Path) -> None:
    """A file that even root cannot open."""
    journal.unlink()
    journal.symlink_to(journal.name)


def replace_journal(journal: Path) -> None:
    journal.unlink()
    journal.mkdir()
    (journal / ("x" * 60)).touch()  # as large as the start of a file, on any file system


HARMS = [break_journal, lose_journal, loop_journal, replace_journal]


@pytest.mark.parametrize("harm", HARMS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("argv", [*READS, "list"])
def test_unreadable_files(
    store: Path, query: Query, tmp_path: Path, argv: str, harm: Callable[[Path], None]
) -> None:
    for instance in ("vm-bad", "vm-fine", "vm-good"):
        add_session(store, rows(), instance=instance, end="poweroff")
    journal = journal_of(store, T0 + 1000, "vm-bad")
    harm(journal)
    done = query(store, *words(argv, tmp_path))
    warning, last = done.stderr.decode().splitlines()
    assert done.returncode == 65
    assert warning.count(str(journal)) == 1
    assert last.startswith("rondo-query: left out: 1 file that cannot be read")
    assert shows(done, argv, tmp_path, "vm-fine", "vm-good")


@pytest.mark.parametrize("harm", [break_journal, loop_journal])
@pytest.mark.parametrize("argv", ["list --match {}", *READS, "tail {}"])
def test_no_match_beside_an_unreadable_file(
    store: Path, query: Query, tmp_path: Path, argv: str, harm: Callable[[Path], None]
) -> None:
    """It is not known that nothing matches: the unreadable part might."""
    add_session(store, rows(), instance="vm-bad")
    harm(journal_of(store, T0 + 1000, "vm-bad"))
    done = query(store, *words(argv, tmp_path))
    assert (done.returncode, done.stdout) == (65, b"")
    assert done.stderr.decode().splitlines()[-1].startswith("rondo-query: left out: 1 file")


def begin_now() -> int:
    return time.time_ns() // 1_000_000_000 * 1000 - 20_000


def follow(store: Path, *argv: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, ROOT / "bin" / "rondo-query", store, "tail", "rss_bytes", "--format=json", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("by_signal", [True, False])
def test_tail_continues_and_ends_with_65(store: Path, by_signal: bool) -> None:
    begin = begin_now()
    add = partial(add_session, store, start_ms=begin, interval_ms=600_000)  # running, however slow we are
    for count in (2, 3, 5):
        add(rows(begin)[:count])
    journal = flip_a_bit(store, begin + 3000)
    with follow(store) as process:
        assert process.stdout is not None
        try:
            times = [json.loads(process.stdout.readline())["time"] for _ in range(4)]
            if by_signal:
                process.send_signal(signal.SIGTERM)
            else:
                add(rows(begin)[:7], end="poweroff")
            out, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert len(set(times)) == 4
    assert process.returncode == 65
    assert err.count(str(journal).encode()) == 1  # however often it was looked at
    assert (err.count(b"\n"), out.count(b"\n")) == ((2, 0) if by_signal else (3, 2))


def test_tail_logs_an_unreadable_file_once(store: Path) -> None:
    begin = begin_now()
    add = partial(add_session, store, start_ms=begin, interval_ms=600_000)
    for instance in ("vm-bad", "vm-good"):
        add(rows(begin)[:5], instance=instance)
    break_journal(journal_of(store, begin + 1000, "vm-bad"))
    with follow(store) as process:
        assert process.stdout is not None
        try:
            for number in range(5, 9):  # a look each, at least
                add(rows(begin)[:number], instance="vm-good")
                while json.loads(process.stdout.readline())["time"] != stamp(begin + 1000 * number):
                    pass
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == 65
    assert err.count(b"tier_0/0000000001") == 1
    assert err.endswith(b"left out: 1 file that cannot be read (see rondo-query STORE check)\n")


def stamp(t_ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(t_ms / 1000))
