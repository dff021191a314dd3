"""The next stretch: nothing twice, nothing missing, also if files are gone or replaced."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from rondo_tools.errors import StoreError
from rondo_tools.prom.labels import sent_labels
from rondo_tools.push.drain import Drain
from rondo_tools.push.status import lines
from rondo_tools.push.stretch import Stretch
from rondo_tools.store.format import frames
from rondo_tools.store.format.cursor import Progress, pack_progress, parse_progress
from rondo_tools.store.format.layout import JOURNALS, tier_name
from rondo_tools.store.format.records import SessionRecord
from rondo_tools.store.format.state import DerivedFile, State
from rondo_tools.store.format.tiers import DEFAULT_TIERS
from rondo_tools.store.frame_writer import FrameWriter
from tests.support.push.journal_maker import STORE_ID, Maker, series

T0 = 1_732_300_000_000
VM = ("vm", T0)
A = series("c1", "g1")


def drain_of(maker: Maker) -> Drain:
    return Drain(maker.layout, DEFAULT_TIERS, lambda header: sent_labels(header, "job", {}))


def ticks(maker: Maker, *seconds: int) -> None:
    for second in seconds:
        maker.rows(VM, A, [T0 + 1000 * second], [(second, second)])


def seconds_of(stretch: Stretch) -> list[int]:
    return [
        (t_ms - T0) // 1000
        for number in range(stretch.slices)
        for t_ms in stretch.slice(number).t_ms.tolist()
    ]


def deliver(drain: Drain, progress: Progress, now_ms: int = T0, *, backfill: bool = False) -> list[int]:
    """Send everything; each stretch like a new process that reads the cursor's file."""
    sent: list[int] = []
    for _ in range(20):
        stretch = drain.next(progress, now_ms, backfill=backfill)
        if stretch is None:
            return sent
        with stretch:
            again, _ = parse_progress(pack_progress(progress, None))
            assert again == progress
            sent += seconds_of(stretch)
            if stretch.cuts:
                progress.time_ms = max(progress.time_ms, stretch.cuts[-1] - 1)
            drain.finish(progress, stretch, now_ms)
    raise AssertionError("it never ends")


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


@pytest.fixture
def drain(maker: Maker) -> Drain:
    return drain_of(maker)


def test_new_rows_are_sent_once_over_rotations(maker: Maker, drain: Drain) -> None:
    progress = Progress()
    assert deliver(drain, progress) == []
    ticks(maker, 1, 2)
    assert deliver(drain, progress) == [1, 2]
    assert deliver(drain, progress) == []
    ticks(maker, 3)
    maker.rotate()
    ticks(maker, 4)
    maker.rotate()
    ticks(maker, 5)
    assert deliver(drain, progress) == [3, 4, 5]
    ticks(maker, 6)
    assert deliver(drain_of(maker), progress) == [6], "by another process"
    maker.close()


def test_an_unfinished_stretch_is_frozen(maker: Maker, drain: Drain) -> None:
    progress = Progress()
    ticks(maker, 1, 2)
    with drain.next(progress, T0) or pytest.fail() as stretch:
        assert seconds_of(stretch) == [1, 2]
    ticks(maker, 3)
    with drain.next(progress, T0) or pytest.fail() as stretch:
        assert seconds_of(stretch) == [1, 2]
    maker.close()


@pytest.mark.parametrize(
    "content", [b"", b"rondo", bytes(4096), b"x" * 100], ids=["empty", "torn", "zeros", "foreign"]
)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_journal_without_a_header_does_not_block_delivery(
    maker: Maker, drain: Drain, number: int, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A kill between creating a file and its first write leaves one; the next process creates another."""
    for second in (1, 2, 3):
        ticks(maker, second)
        maker.rotate()
    maker.layout.file(JOURNALS, number).write_bytes(content)
    progress, rest = Progress(), [second for second in (1, 2, 3) if second != number]
    assert deliver(drain, progress) == rest
    assert deliver(drain_of(maker), progress) == []
    ticks(maker, 4)
    assert deliver(drain, progress) == [4]
    maker.close()
    if number == 2:  # the other files are never read
        assert ("its rows are not sent" in caplog.text) == (len(content) > frames.FILE_SIZE)


@pytest.mark.parametrize("number", [1, 2])
def test_a_journal_that_cannot_be_opened_is_not_a_fork(
    maker: Maker, drain: Drain, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example without free descriptors: the next push sends its rows."""
    progress = Progress()
    ticks(maker, 1)
    assert deliver(drain, progress) == [1]
    ticks(maker, 2)
    maker.rotate()
    ticks(maker, 3)
    before, path, open_file = pack_progress(progress, None), maker.layout.file(JOURNALS, number), os.open

    def failing(one: Path, *args: int) -> int:
        if one == path:
            raise OSError(errno.EMFILE, "Too many open files")
        return open_file(one, *args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing)
        with pytest.raises(StoreError, match="Too many open files"):
            deliver(drain, progress)
        assert pack_progress(progress, None) == before
    assert deliver(drain, progress) == [2, 3]
    maker.close()


def test_half_a_frame_at_the_end_is_left_for_the_next_stretch(maker: Maker, drain: Drain) -> None:
    progress = Progress()
    ticks(maker, 1, 2)
    path, whole = maker.layout.file(JOURNALS, 1), maker.position().offset
    maker.close()
    data = path.read_bytes()
    path.write_bytes(data[: whole - 5])
    assert deliver(drain, progress) == [1]
    path.write_bytes(data)
    assert deliver(drain, progress) == [2]


def test_a_first_delivery_begins_with_the_span_of_tier_0_and_backfill_with_all(
    maker: Maker, drain: Drain
) -> None:
    ticks(maker, *range(0, 3600, 60))
    maker.close()
    now_ms = T0 + 3_600_000
    assert deliver(drain, Progress(), now_ms) == list(range(3060, 3600, 60))
    assert deliver(drain, Progress(), now_ms, backfill=True) == list(range(0, 3600, 60))


def test_a_restored_backup_is_logged_once_and_nothing_is_sent_twice(
    maker: Maker, drain: Drain, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    progress = Progress()
    ticks(maker, 1, 2)
    maker.rotate()
    shutil.copytree(maker.layout.folder(JOURNALS), tmp_path / "backup")
    ticks(maker, 3, 4)
    assert deliver(drain, progress) == [1, 2, 3, 4]
    maker.close()
    shutil.rmtree(maker.layout.folder(JOURNALS))
    shutil.move(tmp_path / "backup", maker.layout.folder(JOURNALS))
    # The store's next journal has the number of the cursor's journal, and the producer resends.
    header = frames.new_file(2, STORE_ID)
    writer = FrameWriter(maker.layout.file(JOURNALS, 2), header)
    rows = np.zeros(3, frames.row_dtype(2))
    rows["t_ms"] = [T0 + 1000 * second for second in (3, 4, 9)]
    rows["session"] = writer.session(VM, lambda n: SessionRecord(n, *VM, 1000, (), T0 + 2000, 0))
    for one in frames.rows_frames(writer.seed, rows, writer.schema(A)):
        writer.add(one)
    writer.write()
    writer.close()
    with caplog.at_level(logging.WARNING):
        assert deliver(drain, progress) == [9]
        assert deliver(drain, progress) == []
    assert len(caplog.records) == 1
    assert "backup" in caplog.text


def a_coarse_file(maker: Maker, tier: int, number: int, origins: dict[int, list[int]]) -> DerivedFile:
    """A file of a coarse tier, with rows at these seconds by origin."""
    header = frames.new_file(number, STORE_ID)
    maker.layout.folder(tier_name(tier)).mkdir(exist_ok=True)
    writer = FrameWriter(maker.layout.file(tier_name(tier), number), header)
    session = writer.session(VM, lambda n: SessionRecord(n, *VM, 1000, (), 0, 0))
    schema = writer.schema(A)
    for origin, some in origins.items():
        rows = np.zeros(len(some), frames.row_dtype(A.coarse_width))
        rows["session"], rows["t_ms"] = session, [T0 + 1000 * second for second in some]
        rows["values"] = [[second, 10 * tier, 0, 0] for second in some]
        for one in frames.rows_frames(writer.seed, rows, schema, origin=origin):
            writer.add(one)
    writer.write()
    size = writer.size
    writer.close()
    return DerivedFile(size, T0)


def test_removed_journals_are_sent_from_the_finest_tier_that_has_them(maker: Maker, drain: Drain) -> None:
    progress = Progress()
    ticks(maker, 1, 2, 3, 4, 5)
    assert deliver(drain, progress) == [1, 2, 3, 4, 5]
    for second in (20, 30, 40, 50):
        maker.rotate()
        ticks(maker, second)
    state = State(rolled_up=4)
    # The window at second 4 of the cursor's journal was delivered already.
    state.files["tier_2"] = {1: a_coarse_file(maker, 2, 1, {1: [4, 9], 2: [21], 3: [31], 4: [41]})}
    state.files["tier_1"] = {2: a_coarse_file(maker, 1, 2, {3: [30, 31], 4: [40, 41], 5: [50]})}
    maker.layout.state_json.write_bytes(state.pack())
    for number in (1, 2, 3, 4):
        maker.layout.file(JOURNALS, number).unlink()
    assert deliver(drain, progress) == [9, 21, 30, 31, 40, 41, 50]
    assert deliver(drain, progress) == []
    ticks(maker, 51)
    assert deliver(drain, progress) == [51]
    maker.close()


def test_all_journals_gone_and_a_new_one_later(maker: Maker, drain: Drain) -> None:
    progress = Progress()
    ticks(maker, 1)
    assert deliver(drain, progress) == [1]
    maker.rotate()
    state = State(rolled_up=1)
    state.files["tier_1"] = {1: a_coarse_file(maker, 1, 1, {1: [1, 9]})}
    maker.layout.state_json.write_bytes(state.pack())
    maker.layout.file(JOURNALS, 1).unlink()
    progress.time_ms = T0 + 1000
    assert deliver(drain, progress) == [9]
    assert deliver(drain, progress) == []
    ticks(maker, 20)
    assert deliver(drain, progress) == [20]
    maker.close()


def test_an_unmounted_store_is_not_a_fork(
    maker: Maker, drain: Drain, caplog: pytest.LogCaptureFixture
) -> None:
    progress = Progress()
    ticks(maker, 1)
    assert deliver(drain, progress) == [1]
    folder = maker.layout.folder(JOURNALS)
    folder.rename(folder.with_name("away"))
    assert deliver(drain, progress) == []
    folder.with_name("away").rename(folder)
    ticks(maker, 2)
    assert deliver(drain, progress) == [2]
    assert not caplog.records
    maker.close()


def test_progress_of_instances_after_journals_were_removed(maker: Maker, drain: Drain) -> None:
    ticks(maker, 1, 2)
    progress = Progress()
    assert deliver(drain, progress) == [1, 2]
    progress.time_ms = T0 + 2000
    for second in (20, 30):
        maker.rotate()
        ticks(maker, second)
    state = State(rolled_up=2)
    state.files["tier_1"] = {1: a_coarse_file(maker, 1, 1, {1: [2], 2: [20]})}
    maker.layout.state_json.write_bytes(state.pack())
    assert list(lines(drain, progress, T0)) == [("vm", T0 + 2000, T0 + 30_000)]
    for number in (1, 2):
        maker.layout.file(JOURNALS, number).unlink()
    before = pack_progress(progress, None)
    assert list(lines(drain, progress, T0)) == [("vm", T0 + 2000, T0 + 30_000)]
    assert list(lines(drain, Progress(), T0)) == [("vm", 0, T0 + 30_000)]
    coarse = Progress(tier=1)
    assert list(lines(drain, coarse, T0)) == [("vm", 0, T0 + 20_000)]
    assert pack_progress(progress, None) == before, "looking changes nothing"
    assert deliver(drain, coarse) == [2, 20]
    coarse.time_ms = T0 + 20_000
    assert list(lines(drain, coarse, T0)) == [("vm", T0 + 20_000, T0 + 20_000)]
    maker.close()


def test_drain_in_a_coarse_tier(maker: Maker, drain: Drain) -> None:
    state = State(rolled_up=1)
    state.files["tier_1"] = {1: a_coarse_file(maker, 1, 1, {1: [10, 20]})}
    maker.layout.state_json.write_bytes(state.pack())
    progress = Progress(tier=1)
    assert deliver(drain, progress) == [10, 20]
    assert deliver(drain, progress) == []
    state.files["tier_1"][2] = a_coarse_file(maker, 1, 2, {2: [30]})
    assert deliver(drain, progress) == [], "rows that state.json does not name are ignored"
    maker.layout.state_json.write_bytes(state.pack())
    assert deliver(drain, progress) == [30]


def test_a_sync_that_fails_is_an_error(maker: Maker, drain: Drain, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    ticks(maker, 1)
    progress = Progress(begin=maker.start(), end=maker.position())
    drain.sync(progress)
    monkeypatch.setattr(os, "fdatasync", refuse)
    with pytest.raises(StoreError, match="cannot be synced"):
        drain.sync(progress)
    maker.close()
