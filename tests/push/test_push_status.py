"""--status and --drop: what each cursor keeps in the store, and its removal."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from devtools.receivers.receiver import Receiver
from rondo_tools.push import cli
from rondo_tools.push.cursor import Cursor
from rondo_tools.push.status import cursors
from rondo_tools.store.format.cursor import Position, Progress, pack_progress
from rondo_tools.store.format.layout import JOURNALS, Layout
from rondo_tools.store.format.opened import open_store
from rondo_tools.store.format.state import State
from rondo_tools.view.table import iso
from tests.support.fixtures import Run
from tests.support.push.journal_maker import Maker, series
from tests.support.push.receivers import T0, Crash, Scripted, fill, header, push_once, seconds, ticks

HOUR_MS = 3_600_000
TIERS = "1s:10m,10s:6h"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    fill(tmp_path, header("a"), ticks((T0, [1, 0.1]), (T0 + 1000, [2, float("nan")])), "poweroff")
    fill(tmp_path, header("b"), seconds(5))
    return tmp_path


def instances(text: str) -> list[list[str]]:
    heading, *rows = text.partition("\n\n")[2].splitlines()
    assert heading.split() == ["instance", "delivered", "newest", "behind_s", "ahead_s"]
    return [row.split() for row in rows]


def test_status_shows_how_far_behind_each_instance_is(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([str(store), "--status"]) == 0
    assert instances(capsys.readouterr().out) == [
        ["a", "-", iso(T0 + 1000), "-", "0.0"],
        ["b", "-", iso(T0 + 4000), "-", "0.0"],
    ]
    push_once(store, Scripted(Receiver()))
    fill(store, header("b"), seconds(3, T0 + 5000))
    assert cli.main([str(store), "--status"]) == 0
    assert instances(capsys.readouterr().out) == [
        ["a", iso(T0 + 1000), iso(T0 + 1000), "0.0", "0.0"],
        ["b", iso(T0 + 4000), iso(T0 + 7000), "3.0", "0.0"],
    ]
    assert cli.main([str(store), "--status", "--format", "json"]) == 0
    cursor, *_, last = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (cursor["cursor"], cursor["instance"], cursor["delivered"]) == ("prometheus", "b", iso(T0 + 4000))
    assert last == {
        "instance": "b",
        "delivered": iso(T0 + 4000),
        "newest": iso(T0 + 7000),
        "behind_s": 3.0,
        "ahead_s": 0.0,
    }


def test_status_shows_instances_with_delivered_times_ahead_of_the_clock(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    day_ms = 86_400_000
    ahead_ms = time.time_ns() // 1_000_000 + day_ms
    layout = Layout(store)
    # The store refuses such times, unless the clock of its own host was wrong as well.
    for path in layout.folder(JOURNALS).iterdir():
        path.unlink()
    layout.folder(JOURNALS).rmdir()
    maker = Maker(store)
    maker.rows(("a", ahead_ms), series("c1"), [ahead_ms], [(1,)])
    push_once(store, Scripted(Receiver()), now_ms=ahead_ms)
    maker.close()
    assert cli.main([str(store), "--status"]) == 0
    [(*_, ahead)] = instances(capsys.readouterr().out)
    assert day_ms / 1000 - 3600 < float(ahead) <= day_ms / 1000


def journals(store: Path, closed_ms: list[int]) -> list[int]:
    """Add a journal of one tick for each of these times; returns the sizes of the files."""
    for number, at_ms in enumerate(closed_ms):
        fill(store, header(f"vm-{number}", at_ms), seconds(1, at_ms), tiers=TIERS)
    layout = Layout(store)
    state = State(rolled_up=len(closed_ms), journals=dict(enumerate(closed_ms, 1)))
    layout.state_json.write_bytes(state.pack())
    return [layout.file(JOURNALS, number).stat().st_size for number in layout.numbers(JOURNALS)]


def write_cursor(path: Path, name: str, held_ms: int, progress: Progress | None = None) -> None:
    """A cursor of this store, unless `progress` is in another."""
    known = progress or Progress()
    known = replace(known, store=known.store or open_store(path).store_id)
    path = Layout(path).cursor(name)
    path.write_bytes(pack_progress(known, None))
    os.utime(path, ns=(0, held_ms * 1_000_000))


def test_status_shows_the_journals_that_each_cursor_keeps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By the store's own rules: rolled up, over tier 0's ten minutes, not over tier 1's six hours."""
    minutes = [7 * 60, 2 * 60, 60, 5, 0]
    now_ms = T0 + 7 * HOUR_MS
    sizes = journals(tmp_path, [now_ms - 60_000 * one for one in minutes])
    ids = [Layout(tmp_path).file(JOURNALS, number).read_bytes()[24:32] for number in range(1, 6)]
    at = Progress(begin=Position(3, ids[2], 40), time_ms=now_ms - HOUR_MS)
    write_cursor(tmp_path, "active", now_ms - HOUR_MS, at)
    write_cursor(tmp_path, "idle", now_ms - HOUR_MS - 1, at)
    write_cursor(tmp_path, "new", now_ms)
    write_cursor(tmp_path, "other", now_ms, replace(at, store="00" * 8))
    write_cursor(tmp_path, "coarse", now_ms, Progress(tier=1))
    end = Position(5, ids[4], sizes[4])
    write_cursor(tmp_path, "fork", now_ms, replace(at, begin=Position(3, bytes(8), 40)))
    write_cursor(tmp_path, "done", now_ms, Progress(begin=end, time_ms=now_ms - 60_000))
    damaged = Layout(tmp_path).cursor("damaged")
    damaged.write_bytes(b"{}")
    os.utime(damaged, ns=(0, now_ms * 1_000_000))
    columns = cursors(open_store(tmp_path), now_ms)
    found = {row[0]: row[1:] for row in zip(*columns.values(), strict=True)}
    all_kept, everything = sum(sizes[1:3]), sum(sizes) - 5 * 40
    hour, seven = 3600.0, 7 * 3600.0
    delivered = iso(now_ms - HOUR_MS)
    rest = sum(sizes[2:]) - 3 * 40
    assert found == {
        "active": ("active", hour, "vm-2", delivered, rest, 0, 1, sizes[2]),
        "idle": ("idle", hour, "vm-2", delivered, rest, 0, 0, 0),
        "new": ("active", seven, "vm-0", None, everything, 0, 2, all_kept),
        "other": ("active", seven, "vm-0", delivered, everything, 0, 2, all_kept),
        "fork": ("active", 300.0, "vm-3", delivered, rest, 0, 1, sizes[2]),
        "coarse": ("active", 0.0, None, None, 0, 0, 0, 0),
        "done": ("active", 0.0, None, iso(now_ms - 60_000), 0, 0, 0, 0),
        "damaged": ("damaged", seven, "vm-0", None, everything, 0, 2, all_kept),
    }
    assert "cursor_damaged.json: cannot be read" in caplog.text


def test_a_cursor_of_another_tier_has_a_status_without_its_flags(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cursor(store, "lab", 0, Progress(selector='{a="b"}', begin=Position(2, bytes(8), 40)))
    assert cli.main([str(store), "--status", "--cursor", "lab"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["lab", "idle"]


def test_drop_removes_one_cursor_and_logs_the_batch_in_flight(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Crash):
        push_once(store, Scripted(Receiver(), ["ok", "crash"]), max_samples=4)
    in_flight = Cursor(store, "prometheus", peek=True).in_flight
    assert in_flight is not None
    [request] = [piece.request for piece in in_flight.pieces]
    times = [sample.timestamp for series in request.timeseries for sample in series.samples]
    write_cursor(store, "lab", 0)
    assert cli.main([str(store), "--drop", "--cursor", "prometheus"]) == 0
    log = capsys.readouterr().err
    assert "cursor_prometheus.json: removed; it kept 0 journals" in log
    assert f"in flight: {len(times)} samples, from {min(times)} to {max(times)} ms" in log
    assert Layout(store).cursors() == ["lab"]
    receiver = Receiver()
    push_once(store, Scripted(receiver))
    assert len(receiver.samples) == 4, "delivery begins again"


def test_drop_removes_an_invalid_cursor(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Layout(store).cursor("prometheus").write_bytes(b"{}")
    assert cli.main([str(store), "--drop", "--cursor", "prometheus"]) == 0
    assert "it is not known whether a batch was in flight" in capsys.readouterr().err
    assert not Layout(store).cursors()


def test_drop_leaves_a_cursor_that_a_push_holds(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Cursor(store, "prometheus") as cursor:
        cursor.save()
        assert cli.main([str(store), "--drop", "--cursor", "prometheus"]) == 75
    assert "stop it first" in capsys.readouterr().err
    assert Layout(store).cursors() == ["prometheus"]


def test_drop_of_a_missing_cursor_names_the_existing_ones(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(store.iterdir())
    assert cli.main([str(store), "--drop", "--cursor", "mimir"]) == 69
    assert "no cursor 'mimir'; there are no others" in capsys.readouterr().err
    assert sorted(store.iterdir()) == before
    for name in ("lab", "prometheus"):
        write_cursor(store, name, 0)
    assert cli.main([str(store), "--drop", "--cursor", "mimir"]) == 69
    assert "there are: lab, prometheus" in capsys.readouterr().err


def test_missing_flags_are_named(run: Run, store: Path) -> None:
    for flags, words in (
        (["--drop", "--cursor", "lab"], b"STORE"),
        ([store, "--format", "json"], b"--status"),
        ([store, "--drop"], b"--cursor NAME"),
        ([store, "--drop", "--status", "--cursor", "lab"], b"choose one"),
    ):
        done = run("rondo-push", *flags)
        assert (done.returncode, words in done.stderr) == (64, True), flags


@pytest.mark.parametrize("flag", ["--status", "--dry-run"])
def test_commands_that_only_read_find_the_default_store(
    flag: str, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([str(store), flag]) == 0
    named = capsys.readouterr().out
    monkeypatch.setenv("RONDO_STORE", str(store))
    assert cli.main([flag]) == 0
    assert capsys.readouterr().out == named
    monkeypatch.setenv("RONDO_STORE", "/nowhere")
    assert cli.main([flag]) == 69
    assert "/nowhere: no store there (no store.json); RONDO_STORE names it" in capsys.readouterr().err
