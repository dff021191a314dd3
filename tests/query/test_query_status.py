"""rondo-query status: a page on a store's health, and an exit status for monitoring."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from devtools.filled_store import Life, fill
from rondo_tools import clock
from rondo_tools.push import cli as push_cli
from rondo_tools.query.cli import main
from rondo_tools.store.folder import Folder
from rondo_tools.store.format.layout import Layout
from rondo_tools.store.server.self_metrics import SERIES
from rondo_tools.stream import Header
from rondo_tools.view.health import find_writer
from rondo_tools.view.table import iso
from tests.support.query.fifty_vms import DELIVERED_MS, NOW_MS, make
from tests.support.query.made_store import T0, add_session, flip_a_bit


@pytest.fixture
def fifty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store of fifty VMs, with its clock."""
    make(tmp_path / "store")
    monkeypatch.setattr(clock, "now_ms", lambda: NOW_MS)
    return tmp_path / "store"


def document(store: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main([str(store), "status", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_a_page_shows_the_health(fifty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(fifty), "status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    page = {line[:9].strip(): line[11:] for line in lines[:7]}
    assert page["VMs, 1h"] == "48 running, 1 error, 1 reset, 1 silent; the newest tick 0.0 s ago"
    assert page["evicted"] == "nothing"
    assert page["damage"] == "none found"
    assert "no rondo-store has served it" in page["ticks"]
    assert lines[8].split()[:4] == ["cursor", "state", "behind_s", "instance"]
    assert lines[9].split()[0] == "prometheus"
    assert lines[9].split()[2:5] == ["89.5", "vm-09", iso(DELIVERED_MS)]


@pytest.mark.parametrize(("most", "status"), [("89s", 75), ("90s", 0)])
def test_a_delivery_that_is_too_far_behind_gives_a_status(
    fifty: Path, capsys: pytest.CaptureFixture[str], most: str, status: int
) -> None:
    assert main([str(fifty), "status", "--max-behind", most]) == status
    shown = capsys.readouterr()
    assert "prometheus" in shown.out
    assert ("more than 89s behind: prometheus (89.5 s)" in shown.err) == (status == 75)


def test_an_invalid_cursor_is_too_far_behind(fifty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Layout(fifty).cursor("lab").write_text("{}")
    assert main([str(fifty), "status", "--max-behind", "1h"]) == 0  # the store is a quarter of an hour old
    assert main([str(fifty), "status", "--max-behind", "10m"]) == 75
    assert "lab (899.0 s)" in capsys.readouterr().err


def test_max_behind_without_a_cursor_is_status_69(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_session(store, [])
    assert main([str(store), "status"]) == 0
    assert "no cursor" in capsys.readouterr().out
    assert main([str(store), "status", "--max-behind", "60s"]) == 69


def test_the_page_has_the_store_s_own_metrics(fifty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.arange(100.0, 100.0 + len(SERIES))[np.newaxis]
    own = Life(Header("rondo-store", NOW_MS - 1000, (), 1000, SERIES), np.array([NOW_MS]), values)
    fill(fifty, [own], lambda: NOW_MS)
    found = document(fifty, capsys)
    assert found["ticks"] == {"stored": 100, "late": 101, "ahead": 102, "expired": 103}
    places = {one.name: at for at, one in enumerate(SERIES)}
    assert found["max_bytes"] == 100 + places["store_max_bytes"]
    assert sum(found["vms"].values()) == 51, "the store is no VM"


def test_damage_is_on_the_page(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "now_ms", lambda: T0 + 5000)
    add_session(store, [(T0 + 1000, (1.0, 1.0, 1.0)), (T0 + 2000, (1.0, 1.0, 1.0))])
    journal = flip_a_bit(store, T0 + 2000)
    (place,) = document(store, capsys)["damage"]
    assert place.startswith(f"{journal}: byte ")
    assert main([str(store), "status"]) == 0
    assert "damage     1 place" in capsys.readouterr().out


def test_the_writer_is_found_without_a_lock(tmp_path: Path) -> None:
    with Folder(tmp_path / "store") as folder:
        layout = folder.layout
        inode = layout.lock.stat()
        at = f"{os.major(inode.st_dev):02x}:{os.minor(inode.st_dev):02x}:{inode.st_ino}"
        # None: the kernel hides locks from a container.
        assert find_writer(layout, NOW_MS).pid in (os.getpid(), None)
    (tmp_path / "locks").write_text(
        f"1: FLOCK  ADVISORY  READ 7 {at} 0 EOF\n2: POSIX  ADVISORY  WRITE 8 {at} 0 EOF\n"
        f"3: -> FLOCK  ADVISORY  WRITE 9 {at} 0 EOF\n4: FLOCK  ADVISORY  WRITE 10 {at}1 0 EOF\n"
    )
    assert find_writer(layout, NOW_MS, tmp_path)[:2] == (False, None)
    with (tmp_path / "locks").open("a") as file:
        file.write(f"5: FLOCK  ADVISORY  WRITE 1234 {at} 0 EOF\n")
    assert find_writer(layout, NOW_MS, tmp_path)[:2] == (True, 1234)
    assert find_writer(layout, NOW_MS, tmp_path / "nothing")[:2] == (None, None)


def test_a_writer_that_is_not_visible_may_exist(store: Path, tmp_path: Path) -> None:
    add_session(store, [(T0, (1.0, 1.0, 1.0))])
    layout = Layout(store)
    (tmp_path / "locks").write_text("")
    (journal,) = layout.folder("tier_0").iterdir()
    os.utime(journal, ns=(0, T0 * 1_000_000))
    assert find_writer(layout, T0 + 29_000, tmp_path) == (None, None, T0)
    assert find_writer(layout, T0 + 31_000, tmp_path) == (False, None, T0)


def test_rondo_push_status_shows_the_same_cursors(
    fifty: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cursors = document(fifty, capsys)["cursors"]
    monkeypatch.setattr("rondo_tools.push.cli.time.time_ns", lambda: NOW_MS * 1_000_000)
    assert push_cli.main([str(fifty), "--status", "--format", "json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one for one in rows if "cursor" in one] == cursors
    assert {one["instance"]: one["behind_s"] for one in rows if "newest" in one}["vm-09"] == 90.0
