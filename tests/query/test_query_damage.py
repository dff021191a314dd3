"""What is damaged is left out, reported once, and the status is 65; all the rest is printed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from made_store import T0, Row, add_session

from rondo_tools.stream import Decoder, Header

ROOT = Path(__file__).resolve().parents[2]
Query = Callable[..., subprocess.CompletedProcess[bytes]]

READS = [
    "read {}",
    "read {} --format=json",
    "export {} --format=csv",
    "export {} --format=openmetrics",
    "plot {}",
    "plot {} --output=/dev/null/../picture.svg",
    "stream",
]


def rows(begin: int = T0) -> list[Row]:
    return [(begin + 1000 * i, (10.0 * i, 0.0, 1.0)) for i in range(1, 12)]


def folder(store: Path, instance: str) -> Path:
    (path,) = store.glob(f"instances/{instance}/*")
    return path


def tear(store: Path, instance: str, t_ms: int, tier: int = 0) -> None:
    """Flip a bit of the row of this time."""
    slab = folder(store, instance) / f"tier_{tier}.slab"
    data = bytearray(slab.read_bytes())
    data[data.index(t_ms.to_bytes(8, "little")) + 8] ^= 1
    slab.write_bytes(data)


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
def test_torn_rows(store: Path, query: Query, tmp_path: Path, argv: str) -> None:
    for instance in ("vm-bad", "vm-fine", "vm-good"):
        add_session(store, rows(), instance=instance, end="poweroff")
    tear(store, "vm-bad", T0 + 3000)
    tear(store, "vm-bad", T0 + 5000)
    tear(store, "vm-good", T0 + 7000)
    done = query(store, *words(argv, tmp_path))
    assert done.returncode == 65
    assert done.stderr.decode().splitlines() == [
        f"rondo-query: vm-bad/{T0}: 2 torn rows left out",
        f"rondo-query: vm-good/{T0}: 1 torn row left out",
        "rondo-query: left out: 3 torn rows (see rondo-query STORE check)",
    ]
    assert shows(done, argv, tmp_path, "vm-bad", "vm-fine", "vm-good")


def test_torn_rows_of_coarse_tiers(store: Path, query: Query) -> None:
    add_session(store, rows(), end="poweroff")
    tear(store, "vm-1", T0 + 9000, tier=1)
    for tier, status in (("1", 65), ("2", 0), ("0", 0)):
        done = query(store, "read", "rss_bytes", f"--tier={tier}")
        assert (done.returncode, b"1 torn row left out" in done.stderr) == (status, status == 65)


def test_a_window_that_lacks_a_torn_tick(store: Path, query: Query) -> None:
    """Of a session that goes on the newest windows are rolled up as they are read."""
    add_session(store, rows())
    tear(store, "vm-1", T0 + 3000)
    done = query(store, "read", "rss_bytes", "--tier=2")
    assert (done.returncode, b"1 torn row left out" in done.stderr) == (65, True)
    assert done.stdout.count(b"\n") == 2


def break_slab(session: Path) -> None:
    (session / "tier_0.slab").write_bytes(b"nonsense" * 100)


def lose_slab(session: Path) -> None:
    (session / "tier_0.slab").unlink()


def break_description(session: Path) -> None:
    (session / "session.json").write_bytes(b"[]")


def loop_description(session: Path) -> None:
    """What cannot be opened, by root either."""
    (session / "session.json").unlink()
    (session / "session.json").symlink_to("session.json")


def loop_instance(session: Path) -> None:
    shutil.rmtree(session.parent)
    session.parent.symlink_to(session.parent.name)


@pytest.mark.parametrize(
    "harm",
    [break_slab, lose_slab, break_description, loop_description, loop_instance],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("argv", [*READS, "list"])
def test_what_cannot_be_read(
    store: Path, query: Query, tmp_path: Path, argv: str, harm: Callable[[Path], None]
) -> None:
    for instance in ("vm-bad", "vm-fine", "vm-good"):
        add_session(store, rows(), instance=instance, end="poweroff")
    harm(folder(store, "vm-bad"))
    done = query(store, *words(argv, tmp_path))
    warning, last = done.stderr.decode().splitlines()
    assert done.returncode == 65
    assert str(store / "instances" / "vm-bad") in warning
    assert last.startswith("rondo-query: left out: 1 ")
    assert shows(done, argv, tmp_path, "vm-fine", "vm-good")


@pytest.mark.parametrize("harm", [break_description, loop_description, loop_instance])
@pytest.mark.parametrize("argv", ["list --match {}", *READS, "tail {}"])
def test_nothing_else_is_there(
    store: Path, query: Query, tmp_path: Path, argv: str, harm: Callable[[Path], None]
) -> None:
    """That nothing matches is not known: what could not be read might."""
    add_session(store, rows(), instance="vm-bad")
    harm(folder(store, "vm-bad"))
    done = query(store, *words(argv, tmp_path))
    assert (done.returncode, done.stdout) == (65, b"")
    assert done.stderr.decode().splitlines()[-1].startswith("rondo-query: left out: 1 path")


@pytest.mark.parametrize("argv", [*READS, "list", "check"])
def test_a_session_that_is_being_removed_is_no_damage(
    store: Path, query: Query, tmp_path: Path, argv: str
) -> None:
    """Its session.json goes first; the rest may stand a moment longer."""
    for instance in ("vm-bad", "vm-fine", "vm-good"):
        add_session(store, rows(), instance=instance, end="poweroff")
    (folder(store, "vm-bad") / "session.json").unlink()
    (folder(store, "vm-bad") / "tier_0.slab").unlink()
    done = query(store, *words(argv, tmp_path))
    assert (done.returncode, b"vm-bad" in done.stderr) == (0, False)
    assert argv == "check" or shows(done, argv, tmp_path, "vm-fine", "vm-good")


def begin_now() -> int:
    return time.time_ns() // 1_000_000_000 * 1000 - 20_000


def follow(store: Path, *argv: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, ROOT / "bin" / "rondo-query", store, "tail", "rss_bytes", "--format=json", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("by_signal", [True, False])
def test_tail_goes_on_and_ends_with_65(store: Path, by_signal: bool) -> None:
    begin = begin_now()
    session = {"start_ms": begin, "interval_ms": 600_000}  # it is running however slow we are
    add_session(store, rows(begin)[:5], **session)
    tear(store, "vm-1", begin + 3000)
    with follow(store) as process:
        assert process.stdout is not None
        try:
            times = [json.loads(process.stdout.readline())["time"] for _ in range(4)]
            if by_signal:
                process.send_signal(signal.SIGTERM)
            else:
                add_session(store, rows(begin)[:7], **session, end="poweroff")
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert len(set(times)) == 4
    assert process.returncode == 65
    assert err.count(b"1 torn row left out") == 1  # however often it was looked at
    assert (err.count(b"\n"), out.count(b"\n")) == ((2, 0) if by_signal else (3, 2))


def test_tail_says_once_what_it_cannot_read(store: Path) -> None:
    begin = begin_now()
    session = {"start_ms": begin, "interval_ms": 600_000}
    for instance in ("vm-bad", "vm-good", "vm-fine"):
        add_session(store, rows(begin)[:5], instance=instance, **session)
    break_slab(folder(store, "vm-bad"))
    break_description(folder(store, "vm-fine"))
    with follow(store) as process:
        assert process.stdout is not None
        try:
            for number in range(5, 9):  # a look each, at least
                add_session(store, rows(begin)[:number], instance="vm-good", **session)
                while json.loads(process.stdout.readline())["time"] != stamp(begin + 1000 * number):
                    pass
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 65
    assert err.count(b"vm-bad") == err.count(b"vm-fine") == 1
    assert err.endswith(
        b"left out: 1 session that cannot be read, 1 path that cannot be read (see rondo-query STORE check)\n"
    )


def stamp(t_ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(t_ms / 1000))
