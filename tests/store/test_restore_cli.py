"""rondo-query STORE dump, and rondo-store DIR --restore: flags, statuses, messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from rondo_tools import progress
from rondo_tools.errors import EX_DATAERR, EX_TEMPFAIL, EX_USAGE
from tests.support.fixtures import Run
from tests.support.restore_host import dumped
from tests.support.store.journal_fixtures import SMALL_TIERS, Writer, fill
from tests.support.store.store_host import started, wait_for_log


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with Writer(tmp_path / "store", SMALL_TIERS) as writer:
        fill(writer)
    return tmp_path / "store"


def test_the_commands_print_the_same_after_a_restore(run: Run, store: Path, tmp_path: Path) -> None:
    dump = run("rondo-query", store, "dump")
    assert (dump.returncode, dump.stderr) == (0, b"")
    moved = run("rondo-store", tmp_path / "moved", "--restore", input=dump.stdout, stdin=None)
    assert moved.returncode == 0
    assert moved.stderr == b"rondo-store: restored 4 sessions: 105 ticks, 38 coarse rows; 0 known already\n"
    for question in (("read", "{}", "--tier", "1"), ("stream",)):
        before, after = (run("rondo-query", path, *question) for path in (store, tmp_path / "moved"))
        assert before.stdout
        assert (after.returncode, after.stdout) == (before.returncode, before.stdout)
    again = run("rondo-store", tmp_path / "moved", "--restore", input=dump.stdout, stdin=None)
    assert again.returncode == 0
    assert b"restored 0 sessions: 0 ticks" in again.stderr


def test_a_selector_chooses_sessions(run: Run, store: Path, tmp_path: Path) -> None:
    dump = run("rondo-query", store, "dump", '{instance="vm-1"}')
    restored = run("rondo-store", tmp_path / "moved", "--restore", input=dump.stdout, stdin=None)
    assert restored.returncode == 0
    listed = run("rondo-query", tmp_path / "moved", "list", "--format", "csv").stdout.decode()
    assert [line.split(",")[0] for line in listed.splitlines()[1:]] == ["vm-1"]
    nothing = run("rondo-query", store, "dump", '{instance="vm-9"}')
    assert (nothing.returncode, nothing.stdout) == (1, b"")


def test_a_truncated_dump_exits_with_65(run: Run, store: Path, tmp_path: Path) -> None:
    cut = run("rondo-store", tmp_path / "moved", "--restore", input=dumped(store)[:-8], stdin=None)
    assert cut.returncode == EX_DATAERR
    assert b"the dump is incomplete: it ends at byte" in cut.stderr


def test_restoring_into_a_served_store_is_refused(run: Run, store: Path, tmp_path: Path) -> None:
    with started(tmp_path / "served", "--listen", f"unix:{tmp_path / 'socket'}") as server:
        wait_for_log(server, "at most")
        refused = run("rondo-store", tmp_path / "served", "--restore", input=dumped(store), stdin=None)
    assert refused.returncode == EX_TEMPFAIL
    assert b"Stop that rondo-store, restore, then start it again" in refused.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--restore", "--listen", "unix:x"), b"--restore reads standard input"),
        (("--restore", "--socket-group", "root"), b"--restore reads standard input"),
        (("--restore", "--idle-exit", "5s"), b"--restore reads standard input"),
        (("--restore", "--no-health"), b"--restore reads standard input"),
        (("--restore", "--sync", "always"), b"--restore reads standard input"),
        (("--forget", '{instance="a"}', "--sync", "never"), b"--forget takes no other flag"),
        (("--forget", '{instance="a"}', "--partial"), b"--forget takes no other flag"),
        (("--forget", '{instance="a"}', "--no-cursors"), b"--forget takes no other flag"),
        (("--forget", '{instance="a"}', "--no-health"), b"--forget takes no other flag"),
        (("--partial",), b"are for --restore"),
        (("--no-cursors",), b"are for --restore"),
    ],
)
def test_flags_that_exclude_each_other(
    run: Run, tmp_path: Path, flags: tuple[str, ...], words: bytes
) -> None:
    done = run("rondo-store", tmp_path / "store", *flags)
    assert done.returncode == EX_USAGE
    assert words in done.stderr
    assert not (tmp_path / "store").exists()


def test_slow_jobs_report_their_progress(caplog: pytest.LogCaptureFixture) -> None:
    now_s = 0.0
    caplog.set_level("INFO")
    shown = progress.Progress("restored", 10 << 20, clock=lambda: now_s)
    shown.add(1 << 20)
    assert not caplog.messages  # a quick job logs nothing
    now_s = 5.0
    shown.add(1 << 20)
    shown.add(1 << 20)
    now_s = 10.0
    shown.add(1 << 20)
    assert caplog.messages == ["restored: 2.0 MiB of 10.0 MiB", "restored: 4.0 MiB of 10.0 MiB"]
