"""A store and its cursor of different moments: a restored backup, older or newer than the other.

Nothing that the store still has is lost, and nothing arrives twice.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from devtools.receivers.prometheus import Prometheus
from devtools.receivers.receiver import Receiver, bits
from rondo_tools.catalog import SERIES
from rondo_tools.prom.samples import STALE_NAN
from rondo_tools.push.pusher import NotTakenError
from tests.support.fixtures import Run
from tests.support.push.receivers import T0, Crash, Scripted, expected, fill, header, push_once, seconds

CURSOR = "cursor_prometheus.json"
NOW = T0 + 1_000_000


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are killed here, but not the machine: syncs of thousands of saves are not needed."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def put_back(backup: Path, path: Path) -> None:
    """Restore the store, and keep the cursor."""
    cursor = (path / CURSOR).read_bytes()
    shutil.rmtree(path)
    shutil.copytree(backup, path)
    (path / CURSOR).write_bytes(cursor)


# --- the cursor is the older one -----------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.parametrize("between", [1, 7, pytest.param(300, marks=pytest.mark.long)])
@pytest.mark.parametrize("new", [0, 1, 200])
@pytest.mark.parametrize("max_samples", [64, 10_000])
def test_a_cursor_older_than_its_store(tmp_path: Path, between: int, new: int, max_samples: int) -> None:
    """Samples delivered in between are sent again, and refused; all new ones arrive."""
    receiver, width = Receiver(), len(SERIES)
    ticks = seconds(50 + between + new, width=width)
    whole = header(series=SERIES)
    fill(tmp_path, header("other"), seconds(40))
    fill(tmp_path, whole, ticks[:50])
    push_once(tmp_path, Scripted(receiver), now_ms=NOW)
    backup = (tmp_path / CURSOR).read_bytes()
    fill(tmp_path, whole, ticks[50 : 50 + between])
    push_once(tmp_path, Scripted(receiver), now_ms=NOW)
    (tmp_path / CURSOR).write_bytes(backup)
    fill(tmp_path, whole, ticks[50 + between :], "poweroff")
    fill(tmp_path, header("other"), seconds(40, T0 + 40_000))
    sender = Scripted(receiver)
    push_once(tmp_path, sender, now_ms=NOW, max_samples=max_samples)
    assert receiver.samples == expected(tmp_path)
    # A request for each delivered sample, and a search in each request for their end.
    assert sender.attempts < 1.6 * (between + 1) * width + 40 * width
    assert push_once(tmp_path, Scripted(receiver), now_ms=NOW).requests == 0


@pytest.mark.heavy
@pytest.mark.parametrize("rows", [2, 6])
def test_a_cursor_older_than_a_store_of_many(tmp_path: Path, rows: int) -> None:
    """One request has old and new samples of thirty sessions."""
    receiver = Receiver()
    names = [f"vm-{number}" for number in range(30)]
    ticks = seconds(2 * rows, width=len(SERIES))

    def grow(some: slice) -> None:
        for name in names:
            fill(tmp_path, header(name, series=SERIES), ticks[some])

    grow(slice(1))
    push_once(tmp_path, Scripted(receiver), now_ms=NOW)
    backup = (tmp_path / CURSOR).read_bytes()
    grow(slice(1, rows))
    push_once(tmp_path, Scripted(receiver), now_ms=NOW)
    (tmp_path / CURSOR).write_bytes(backup)
    grow(slice(rows, None))
    push_once(tmp_path, Scripted(receiver), now_ms=NOW, max_samples=100_000)
    assert receiver.samples == expected(tmp_path)


@pytest.mark.heavy
@pytest.mark.parametrize("fault", ["four times 503", "kill -9"])
def test_a_fault_while_a_restored_cursor_is_settled(tmp_path: Path, fault: str) -> None:
    """The next push continues from there, and the new samples arrive."""
    receiver, width = Receiver(), len(SERIES)
    names = [f"vm-{number}" for number in range(12)]
    ticks = seconds(15, width=width)

    def grow(some: slice) -> None:
        for name in names:
            fill(tmp_path, header(name, series=SERIES), ticks[some])

    grow(slice(3))
    push_once(tmp_path, Scripted(receiver), now_ms=NOW)
    backup = (tmp_path / CURSOR).read_bytes()
    grow(slice(3, 12))
    push_once(tmp_path, Scripted(receiver), now_ms=NOW)
    (tmp_path / CURSOR).write_bytes(backup)
    grow(slice(12, None))
    words = ["lost"] * 4 if fault == "four times 503" else ["crash-after"]
    interrupted = Scripted(receiver, ["ok"] * 700 + words)
    with pytest.raises((NotTakenError, Crash)):
        push_once(tmp_path, interrupted, now_ms=NOW)
    after = Scripted(receiver)
    push_once(tmp_path, after, now_ms=NOW)
    assert receiver.samples == expected(tmp_path)
    if fault != "kill -9":  # up to 100 ms of single samples are sent again after that
        whole = 12 * width * 9
        assert interrupted.attempts + after.attempts < 2 * whole


@pytest.mark.heavy
def test_a_series_refused_for_good_beside_delivered_samples(tmp_path: Path) -> None:
    """After a thousand refusals, reconciling still distinguishes the two."""
    bad = "blk_requests_total"
    receiver = Receiver(lambda labels, t_ms: "no" if dict(labels)["__name__"] == bad else None)
    whole = header(series=SERIES)
    ticks = seconds(450, width=len(SERIES))
    fill(tmp_path, whole, ticks[:300])
    push_once(tmp_path, Scripted(receiver), now_ms=NOW)
    (tmp_path / CURSOR).unlink()
    fill(tmp_path, whole, ticks[300:])
    push_once(tmp_path, Scripted(receiver), now_ms=NOW)
    wanted = {key: mine for key, mine in expected(tmp_path).items() if dict(key)["__name__"] != bad}
    assert receiver.samples == wanted


def test_a_real_prometheus_keeps_one_of_each(run: Run, prometheus: Prometheus, tmp_path: Path) -> None:
    start_ms = int(time.time()) * 1000 - 300_000
    ticks = seconds(200, start_ms, width=len(SERIES))
    whole = header(start_ms=start_ms - 5, series=SERIES)
    push = ("rondo-push", tmp_path, "--remote-write", prometheus.write_url, "--no-health")
    fill(tmp_path, whole, ticks[:60])
    assert run(*push).returncode == 0
    backup = (tmp_path / CURSOR).read_bytes()
    fill(tmp_path, whole, ticks[60:140])
    assert run(*push).returncode == 0
    (tmp_path / CURSOR).write_bytes(backup)
    fill(tmp_path, whole, ticks[140:], "poweroff")
    assert run(*push).returncode == 0
    shown = {
        labels: {t_ms: bits(float(value)) for t_ms, value in pairs}
        for labels, pairs in prometheus.samples('{job="rondo-vmm"}').items()
    }
    assert shown == {
        labels: {t_ms: value for t_ms, value in mine.items() if value != STALE_NAN}
        for labels, mine in expected(tmp_path).items()
    }


# --- the store is the older one ------------------------------------------------------------------


@pytest.mark.parametrize("resent", [0, 30, 600])
def test_a_store_older_than_its_cursor(tmp_path: Path, resent: int) -> None:
    """Delivered ticks are not sent again, although their producer still runs and stores them again."""
    path, backup, receiver = tmp_path / "store", tmp_path / "backup", Receiver()
    ticks = seconds(200)
    fill(path, header(), ticks[:50])
    push_once(path, Scripted(receiver), now_ms=NOW)
    shutil.copytree(path, backup)
    fill(path, header(), ticks[50:120])
    push_once(path, Scripted(receiver), now_ms=NOW)
    everything = expected(path)
    put_back(backup, path)
    assert push_once(path, Scripted(receiver), now_ms=NOW).requests == 0
    fill(path, header(), ticks[max(0, 120 - resent) : 120])
    assert push_once(path, Scripted(receiver), now_ms=NOW).requests == 0
    fill(path, header(), ticks[120:], "poweroff")
    push_once(path, Scripted(receiver), now_ms=NOW)
    for labels, samples in expected(path).items():
        assert receiver.samples[labels] == everything[labels] | samples
    assert receiver.twice == 0


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_session_that_the_older_store_lacks(tmp_path: Path, is_alone: bool) -> None:
    """Its producer resends the last ten minutes, which were delivered, as the cursor remembers."""
    path, backup, receiver = tmp_path / "store", tmp_path / "backup", Receiver()
    fill(path, header("other"), seconds(5))
    if not is_alone:
        fill(path, header(start_ms=T0 - 60_000), seconds(5, T0 - 60_000), "reset")
    push_once(path, Scripted(receiver), now_ms=T0 + 10_000)
    shutil.copytree(path, backup)
    ticks = seconds(60, T0 + 20_000)
    fill(path, header(start_ms=T0 + 19_000), ticks[:40])
    push_once(path, Scripted(receiver), now_ms=T0 + 60_000)
    put_back(backup, path)
    # A push runs before the producer resends.
    push_once(path, Scripted(receiver), now_ms=T0 + 61_000)
    fill(path, header(start_ms=T0 + 19_000), ticks)
    sender = Scripted(receiver)
    push_once(path, sender, now_ms=T0 + 90_000)
    assert receiver.samples == expected(path)
    assert receiver.twice == 0
    assert sender.attempts == 1  # nothing was refused
