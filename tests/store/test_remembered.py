"""The index of ended sessions: its results, its size, and its checks."""

from __future__ import annotations

import logging
import random
from pathlib import Path

import pytest

from rondo_tools.store import remembered
from rondo_tools.store.format import frames, records
from rondo_tools.store.format.layout import ENDED, Layout
from rondo_tools.store.format.records import Description, pack_descriptions
from rondo_tools.store.format.state import DerivedFile, State
from rondo_tools.store.frame_writer import FrameWriter
from rondo_tools.store.remembered import DescriptionFrames, Remembered
from tests.support.store.store_journals import T0


def description(instance: str, start_ms: int, last_ms: int = 0, labels: int = 0) -> Description:
    more = tuple((f"label_{n:04}", "x" * 100) for n in range(labels))
    return Description(
        instance, start_ms, 1000, more, "poweroff", last_ms, start_ms, last_ms or start_ms + 5000, 5, 3, ()
    )


def write(layout: Layout, number: int, *batches: list[Description]) -> list[DescriptionFrames]:
    """A file of descriptions, with a frame for each batch."""
    layout.folder(ENDED).mkdir(parents=True, exist_ok=True)
    writer = FrameWriter(layout.file(ENDED, number), frames.new_file(number, b"store-id"))
    found = []
    for batch in batches:
        begin = writer.end
        for at in range(0, len(batch), 500):
            some = batch[at : at + 500]
            writer.add(
                frames.frame(writer.seed, frames.DESCRIPTIONS, pack_descriptions(some), entries=len(some))
            )
        found.append((number, begin, writer.end))
    writer.write()
    writer.close()
    return found


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "store")


def test_sessions_are_found_in_any_order_of_arrival(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "_SMALL", 8)
    choose = random.Random(1)
    index, all_of_them = Remembered(layout), []
    for number in range(1, 30):
        batch = [description(f"vm-{choose.randrange(40)}", T0 + choose.randrange(10**9)) for _ in range(20)]
        index.add(write(layout, number, batch))
        all_of_them += batch
        again = Remembered(layout)
        again.load(State(files={ENDED: {n: DerivedFile(1 << 30, 0) for n in range(1, number + 1)}}))
        assert len(index) == len(again) == len(all_of_them)
    for one in all_of_them:
        assert index.find(*one.key) == again.find(*one.key) == one
        newest = max(other.last_ms for other in all_of_them if other.instance == one.instance)
        assert index.newest_ms(one.instance) == newest
    assert index.find("vm-1", 5) is None
    assert index.find("nobody", all_of_them[0].start_ms) is None
    assert index.newest_ms("nobody") == 0


def test_the_later_of_two_descriptions_is_valid(layout: Layout) -> None:
    index = Remembered(layout)
    for number in range(1, 7):
        one = [description("vm", T0, T0 + 1000 * number + n) for n in range(2)]
        other = description("other", T0 + number)
        index.add(write(layout, number, [one[0], other], [one[1]]))
        assert index.find("vm", T0) == one[1]
        assert index.newest_ms("vm") == one[1].last_ms


def test_equal_hashes_are_verified(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "crc32", lambda *_: 7)
    one, other = description("vm-1", T0, T0 + 5), description("vm-2", T0 + 1, T0 + 9)
    index = Remembered(layout)
    index.add(write(layout, 1, [one, other]))
    assert index.find("vm-1", T0) == one
    assert index.find("vm-2", T0 + 1) == other
    assert index.find("vm-1", T0 + 1) is None
    assert (index.newest_ms("vm-1"), index.newest_ms("vm-2")) == (T0 + 5, T0 + 9)
    assert index.newest_ms("vm-3") == 0


def test_a_long_description_is_read_whole(layout: Layout) -> None:
    one = description("vm", T0, labels=300)
    index = Remembered(layout)
    index.add(write(layout, 1, [description("a", T0), one, description("b", T0)]))
    assert index.find("vm", T0) == one


def test_sessions_of_removed_files_are_forgotten(layout: Layout) -> None:
    index = Remembered(layout)
    for number in (1, 2):
        index.add(write(layout, number, [description(f"vm-{number}", T0)]))
    layout.file(ENDED, 1).unlink()
    assert index.find("vm-1", T0) is None, "gone, though the index does not know it yet"
    index.forget(1)
    assert len(index) == 1
    assert index.find("vm-2", T0) is not None


def test_the_index_is_small_and_its_parts_few(layout: Layout) -> None:
    index = Remembered(layout)
    for number in range(1, 41):
        index.add(write(layout, number, [description(f"vm-{number}-{n}", T0 + n) for n in range(500)]))
    assert 16 * len(index) <= index.nbytes <= 28 * len(index)
    assert len(index._parts) <= 5


def test_damage_is_reported_and_the_rest_found(layout: Layout, caplog: pytest.LogCaptureFixture) -> None:
    (first, second, third) = write(layout, 1, *([description(f"vm-{n}", T0)] for n in range(3)))
    path = layout.file(ENDED, 1)
    data = bytearray(path.read_bytes())
    data[second[1] + 60] ^= 1
    path.write_bytes(data)
    index = Remembered(layout)
    with caplog.at_level(logging.WARNING):
        index.load(State(files={ENDED: {1: DerivedFile(len(data), 0), 2: DerivedFile(99, 0)}}))
    assert index.find("vm-0", T0)
    assert index.find("vm-1", T0) is None
    assert index.find("vm-2", T0)
    assert str(path) in caplog.text
    assert str(layout.file(ENDED, 2)) in caplog.text
    assert first[2] == second[1] < third[1]
