"""Written data is forced to the disk, and a failed sync is tried again."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from rondo_tools import files
from rondo_tools.store.sync import Policy
from rondo_tools.store.syncer import Marks, Syncer
from tests.support.store.keeper_host import ALWAYS, header, keeper, store, ticks


class Files:
    """A fake of `files.sync_file`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced: list[str] = []
        self.broken: dict[str, OSError] = {}
        monkeypatch.setattr(files, "sync_file", self._sync)

    def _sync(self, path: Path) -> None:
        if path.name in self.broken:
            raise self.broken[path.name]
        self.synced.append(path.name)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Files:
    return Files(monkeypatch)


def test_a_synced_file_loses_its_mark(disk: Files) -> None:
    marks = Marks()
    for name in "aba":
        marks.add(Path(name))
    marks.sync()
    assert disk.synced == ["a", "b"]
    assert not marks


def test_a_failed_sync_keeps_the_mark_and_does_not_stop_the_others(disk: Files) -> None:
    marks = Marks()
    disk.broken = {"a": OSError(5, "Input/output error"), "gone": FileNotFoundError()}
    for name in ("a", "gone", "b"):
        marks.add(Path(name))
    with pytest.raises(OSError, match="Input/output"):
        marks.sync()
    assert disk.synced == ["b"]
    disk.broken.clear()
    marks.sync()
    assert disk.synced == ["b", "a"]


def test_the_error_is_logged_at_most_once_a_minute(disk: Files, caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    marks = Marks()
    syncer = Syncer(marks, 1e6, lambda: now[0])
    disk.broken = {"a": OSError(5, "Input/output error")}
    marks.add(Path("a"))
    with caplog.at_level(logging.WARNING):
        for second in range(130):
            now[0] = float(second)
            syncer.sync()
    assert len(caplog.records) == 3
    disk.broken.clear()
    syncer.close()  # syncs the rest
    assert disk.synced == ["a"]


def test_the_thread_syncs(disk: Files) -> None:
    marks = Marks()
    marks.add(Path("a"))
    syncer = Syncer(marks, 0.001)
    syncer.close()
    assert disk.synced == ["a"]


def test_always_syncs_once_a_turn_for_all(tmp_path: Path, disk: Files) -> None:
    with keeper(tmp_path, sync=ALWAYS) as kept:
        for name in "abc":
            store(kept, header(name) + ticks(1, 3))
        assert disk.synced == [f"{1:010d}"] * 3
        kept.flush()
        assert len(disk.synced) == 3


def test_always_acknowledges_nothing_that_is_not_synced(tmp_path: Path, disk: Files) -> None:
    kept = keeper(tmp_path, sync=ALWAYS)
    disk.broken = {f"{1:010d}": OSError(5, "Input/output error")}
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output"):
            store(kept, header() + ticks(1, 3))
        assert kept.has_pending
    disk.broken.clear()
    kept.flush()
    assert not kept.has_pending
    kept.close()


def test_always_syncs_journals_of_an_earlier_process(tmp_path: Path, disk: Files) -> None:
    """It may have been killed between the write and the sync."""
    with keeper(tmp_path) as kept:
        store(kept, header() + ticks(1, 3))
    with keeper(tmp_path, sync=ALWAYS) as kept:
        assert kept.has_pending
        store(kept, header() + ticks(1, 3))  # no new ticks, and now acknowledged
        assert disk.synced == [f"{1:010d}"]
        assert not kept.has_pending


def test_an_interval_syncs_journals_of_an_earlier_process(tmp_path: Path, disk: Files) -> None:
    with keeper(tmp_path) as kept:
        store(kept, header() + ticks(1, 3))
    with keeper(tmp_path, sync=Policy(False, 3_600_000)):
        pass
    assert disk.synced == [f"{1:010d}"]


def test_an_interval_syncs_at_the_end(tmp_path: Path, disk: Files) -> None:
    with keeper(tmp_path, sync=Policy(False, 3_600_000)) as kept:
        store(kept, header() + ticks(1, 3))
        assert not disk.synced
    assert disk.synced == [f"{1:010d}"]
