"""--dry-run changes nothing, and --wait waits for the other push."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from devtools.receivers.receiver import Receiver, Samples, bits
from rondo_tools.push import cli
from rondo_tools.push.dry_run import STALE
from rondo_tools.selector import parse_selector
from tests.support.fixtures import Run
from tests.support.push.receivers import (
    T0,
    Crash,
    Scripted,
    expected,
    fill,
    header,
    push_once,
    seconds,
    ticks,
)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    fill(tmp_path, header("a"), ticks((T0, [1, 0.1]), (T0 + 1000, [2, float("nan")])), "poweroff")
    fill(tmp_path, header("b"), seconds(5))
    return tmp_path


def printed(text: str) -> Samples:
    samples: Samples = {}
    for line in text.splitlines():
        t_ms, series, value = line.split("\t")
        labels = tuple(sorted((matcher.label, matcher.value) for matcher in parse_selector(series).matchers))
        number = float("nan") if value == STALE else float(value)
        samples.setdefault(labels, {})[int(t_ms)] = bits(number)
    return samples


def tree(path: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_dry_run_prints_the_samples_of_a_push_and_changes_nothing(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(store)
    assert cli.main([str(store), "--dry-run", "--backfill"]) == 0
    assert printed(capsys.readouterr().out) == expected(store)
    assert tree(store) == before


def test_a_dry_run_begins_with_the_batch_in_flight(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Crash):
        push_once(store, Scripted(Receiver(), ["ok", "crash"]), max_samples=4)
    assert cli.main([str(store), "--dry-run", "--backfill"]) == 0
    left = printed(capsys.readouterr().out)
    receiver = Receiver()
    push_once(store, Scripted(receiver))
    assert left == receiver.samples


def test_wait_waits_for_the_other_push(store: Path) -> None:
    fd = os.open(store / "cursor_prometheus.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    root = Path(__file__).resolve().parents[2]
    flags: list[str | Path] = [store, "--remote-write", "http://127.0.0.1:1/write"]
    process = subprocess.Popen(
        [sys.executable, root / "bin/rondo-push", *flags, "--wait"],
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 300
        while "flock" not in waits_in(process.pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert process.poll() is None
        os.close(fd)
        _, log = process.communicate(timeout=300)
        assert (process.returncode, b"Connection refused" in log) == (75, True)  # it ran after the other one
    finally:
        process.kill()
        process.wait()


def waits_in(pid: int) -> str:
    """Whether the process waits for a lock: a line with -> and its pid in the kernel's list."""
    lines = Path("/proc/locks").read_text().splitlines()
    return "flock" if any("->" in line and f" {pid} " in line for line in lines) else ""


def test_a_missing_remote_write_is_named(run: Run, store: Path) -> None:
    assert b"--remote-write" in run("rondo-push", store).stderr
