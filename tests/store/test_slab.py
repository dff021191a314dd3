"""The slab: bytes, damage of every kind, and a reader beside a writer."""

from __future__ import annotations

import itertools
import os
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ring_model import row_bytes, slab_bytes

from rondo_tools.errors import StoreError
from rondo_tools.store import slab
from rondo_tools.store.slab import HEADER_SIZE, Rows, Slab, pack_row
from rondo_tools.store.tiers import Tier

INTERVAL, SLOTS, COLUMNS = 1000, 20, 3
SIZE = 16 + 8 * COLUMNS
BEGIN = 7_000_000  # slot 0


def values(number: int) -> bytes:
    return struct.pack("<3d", number, -number, number / 7)


def filled(path: Path, numbers: range | list[int]) -> Slab:
    """A slab with rows number 0, 1, ... of BEGIN and after."""
    made = Slab.create(path, INTERVAL, SLOTS, COLUMNS)
    for number in numbers:
        t_ms = BEGIN + number * INTERVAL
        made.write(t_ms // INTERVAL % SLOTS, pack_row(t_ms, values(number)))
    return made


def numbers(rows: Rows) -> list[int]:
    """Which rows these are; fails where a row is not what was written."""
    found = ((rows.t_ms - BEGIN) // INTERVAL).tolist()
    assert rows.values.tobytes() == b"".join(map(values, found))
    return [int(number) for number in found]


def expected(data: bytes) -> tuple[list[int], int]:
    """Row by row: the numbers of the whole rows in time order, and how many slots hold junk."""
    good, junk = [], 0
    for slot in range(SLOTS):
        row = data[HEADER_SIZE + slot * SIZE : HEADER_SIZE + (slot + 1) * SIZE].ljust(SIZE, b"\0")
        t_ms, crc = struct.unpack("<Q", row[:8])[0], struct.unpack("<I", row[-4:])[0]
        if crc == zlib.crc32(row[:-4]) and t_ms // INTERVAL % SLOTS == slot:
            good.append((t_ms - BEGIN) // INTERVAL)
        elif t_ms or crc:
            junk += 1
    return sorted(good), junk


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tier_0.slab"


def test_the_bytes(path: Path) -> None:
    with filled(path, [0, 1, 5]):
        rows = [(BEGIN + number * INTERVAL, values(number)) for number in (0, 1, 5)]
        assert path.read_bytes() == slab_bytes(Tier(INTERVAL, SLOTS), COLUMNS, rows)
    assert pack_row(BEGIN, values(0)) == row_bytes(BEGIN, values(0))
    assert zlib.crc32(pack_row(BEGIN, values(1))) == 0x2144DF1C  # a message with its own CRC


def test_an_empty_slab_is_sparse(path: Path) -> None:
    with Slab.create(path, 1000, 100_000, 16) as made:
        assert path.stat().st_size == made.size == 64 + 100_000 * 144
        assert path.stat().st_blocks * 512 <= 4096
        rows = made.read()
        assert (rows.t_ms.shape, rows.values.shape, rows.skipped) == ((0,), (0, 16), 0)


@given(st.lists(st.integers(0, 3 * SLOTS), max_size=40).map(sorted))
@settings(max_examples=50, deadline=None)
def test_round_trip_with_laps(tmp_path_factory: pytest.TempPathFactory, written: list[int]) -> None:
    with filled(tmp_path_factory.mktemp("slab") / "a.slab", written) as made:
        by_slot = {number % SLOTS: number for number in written}
        rows = made.read()
        assert (numbers(rows), rows.skipped) == (sorted(by_slot.values()), 0)


def test_reading_some_slots(path: Path) -> None:
    with filled(path, range(15, 30)) as made:  # slots 15 to 19, then 0 to 9
        assert numbers(made.read()) == list(range(15, 30))
        assert numbers(made.read_slots(18, 2)) == [18, 19]
        assert numbers(made.read_slots(5, 10)) == [25, 26, 27, 28, 29]
        assert numbers(made.read_slots(8, 12)) == [15, 16, 17, 18, 19, 28, 29]
        assert numbers(made.read_slots(3, 0)) == []


def test_between(path: Path) -> None:
    with filled(path, range(10)) as made:
        rows = made.read()
        t_ms = [BEGIN + number * INTERVAL for number in range(10)]
        assert numbers(rows.between(t_ms[3], t_ms[6])) == [4, 5]
        assert numbers(rows.between(t_ms[3] - 1, t_ms[6] + 1)) == [3, 4, 5, 6]
        assert numbers(rows.between(0, 2**53)) == list(range(10))
        assert numbers(rows.between(t_ms[6], t_ms[3])) == []


def test_every_single_bit_counts(path: Path) -> None:
    """A flip in the row at slot 5 costs that row, and no other; nothing wrong is served."""
    with filled(path, range(SLOTS)) as made, path.open("r+b", buffering=0) as file:
        begin = HEADER_SIZE + 5 * SIZE
        whole = path.read_bytes()[begin : begin + SIZE]
        others = [number for number in range(SLOTS) if number != 5]
        for bit in range(8 * SIZE):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            os.pwrite(file.fileno(), damaged, begin)
            rows = made.read()
            assert (numbers(rows), rows.skipped) == (others, 1), bit
        os.pwrite(file.fileno(), whole, begin)
        assert numbers(made.read()) == list(range(SLOTS))


@pytest.mark.parametrize("tail", ["old", "zero"])
def test_every_torn_row(path: Path, tail: str) -> None:
    """A write that stopped anywhere: what follows is the row of the lap before, or a hole."""
    with filled(path, range(SLOTS + 5)) as made, path.open("r+b", buffering=0) as file:
        begin = HEADER_SIZE + 5 * SIZE
        old = path.read_bytes()[begin : begin + SIZE] if tail == "old" else bytes(SIZE)
        new = pack_row(BEGIN + 25 * INTERVAL, values(25))
        others = list(range(6, SLOTS + 5))
        for length in range(SIZE + 1):
            row = new[:length] + old[length:]
            os.pwrite(file.fileno(), row, begin)
            rows = made.read()
            served = {old: [5], new: [25]}.get(row, []) if any(row) else []
            assert numbers(rows) == sorted(served + others), length
            # Only what is not zero at both ends can be told from a row never written.
            assert rows.skipped == int(not served and any(row[:8] + row[-4:])), length


@pytest.mark.heavy
@given(st.lists(st.tuples(st.integers(0, SLOTS * SIZE - 1), st.binary(min_size=1, max_size=60)), max_size=6))
@settings(max_examples=200, deadline=None)
def test_the_check_of_a_block_is_that_of_its_rows(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, bytes]]
) -> None:
    path = tmp_path_factory.mktemp("slab") / "a.slab"
    with filled(path, [*range(3, 9), 11, *range(13, 27)]) as made, path.open("r+b", buffering=0) as file:
        for at, junk in damage:
            os.pwrite(file.fileno(), junk[: SLOTS * SIZE - at], HEADER_SIZE + at)
        rows = made.read()
        assert (numbers(rows), rows.skipped) == expected(path.read_bytes())


def test_a_row_in_the_slot_of_another(path: Path) -> None:
    with filled(path, range(5)) as made:
        made.write(9, pack_row(BEGIN + 3 * INTERVAL, values(3)))  # whole, but not at home
        rows = made.read()
        assert (numbers(rows), rows.skipped) == ([0, 1, 2, 3, 4], 1)


def test_swapped_rows(path: Path) -> None:
    """The check of the block cannot see it: the check of the slots must."""
    with filled(path, range(5)) as made:
        made.write(1, pack_row(BEGIN + 2 * INTERVAL, values(2)) + pack_row(BEGIN + INTERVAL, values(1)))
        rows = made.read()
        assert (numbers(rows), rows.skipped) == ([0, 3, 4], 2)


def test_every_bit_of_the_header_counts(path: Path) -> None:
    filled(path, range(5)).close()
    whole = path.read_bytes()
    for bit in range(8 * HEADER_SIZE):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match="not a slab" if bit < 32 else "header is damaged") as caught:
            Slab.open(path)
        assert str(path) in str(caught.value)


def test_another_version(path: Path) -> None:
    head = b"RNDO" + struct.pack("<HHQII", 2, 0, INTERVAL, SLOTS, COLUMNS) + bytes(36)
    path.write_bytes(head + struct.pack("<I", zlib.crc32(head)) + bytes(SLOTS * SIZE))
    with pytest.raises(StoreError, match="slab version 2; this rondo reads version 1"):
        Slab.open(path)


@pytest.mark.parametrize(
    ("size", "why"),
    [(0, "not a slab"), (63, "not a slab"), (64, "size"), (64 + SLOTS * SIZE - 1, "size"), (10_000, "size")],
)
def test_a_file_of_another_size(path: Path, size: int, why: str) -> None:
    filled(path, range(SLOTS)).close()
    os.truncate(path, size)
    with pytest.raises(StoreError, match=why):
        Slab.open(path)


def test_a_file_cut_short_behind_our_back(path: Path) -> None:
    with filled(path, range(SLOTS)) as made:
        os.truncate(path, HEADER_SIZE + 7 * SIZE + 20)
        rows = made.read()
        assert (numbers(rows), rows.skipped) == ([0, 1, 2, 3, 4, 5, 6], 1)


def test_no_descriptor_is_left_open(path: Path) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    filled(path, range(3)).close()
    with Slab.open(path, writable=True) as opened:
        opened.close()
    path.write_bytes(b"junk")
    with pytest.raises(StoreError):
        Slab.open(path)
    with pytest.raises(FileNotFoundError):
        Slab.open(path.with_name("none"))
    with pytest.raises(FileNotFoundError):
        Slab.create(path.parent / "none" / "a.slab", INTERVAL, SLOTS, COLUMNS)
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_a_slab_that_could_not_be_made_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    before = set(Path("/proc/self/fd").iterdir())
    with pytest.raises(OSError, match="No space"):
        Slab.create(path, INTERVAL, SLOTS, COLUMNS)
    assert list(path.parent.iterdir()) == []
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_the_header_reaches_the_disk_before_the_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power cut could leave a slab of nothing, and the session could not go on."""
    steps, fsync, replace = [], os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: steps.append("fsync") or fsync(fd))
    monkeypatch.setattr(Path, "replace", lambda *names: steps.append("rename") or replace(*names))
    Slab.create(path, INTERVAL, SLOTS, COLUMNS).close()
    assert steps == ["fsync", "rename"]


def test_a_write_in_pieces_is_written_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    with filled(path, range(3)) as made:
        monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, bytes(data)[:7], at))
        made.write(3, pack_row(BEGIN + 3 * INTERVAL, values(3)))
        assert numbers(made.read()) == [0, 1, 2, 3]


def test_rows_behind_a_read_that_is_under_way(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a read goes up the file, 0 to 4 are written behind it and 5 to 9 before it."""
    pread = os.pread
    with filled(path, range(-5, 0)) as made:  # in slots 15 to 19

        def torn_read(fd: int, size: int, at: int) -> bytes:
            monkeypatch.setattr(os, "pread", pread)
            low = pread(fd, 5 * SIZE, HEADER_SIZE)
            for number in range(10):
                made.write(number, pack_row(BEGIN + number * INTERVAL, values(number)))
            return low + pread(fd, (SLOTS - 5) * SIZE, HEADER_SIZE + 5 * SIZE)

        monkeypatch.setattr(os, "pread", torn_read)
        assert numbers(made.read()) == list(range(-5, 10))


def test_a_ring_that_comes_round_while_it_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pread = os.pread
    with filled(path, range(SLOTS)) as made:

        def overtaken(fd: int, size: int, at: int) -> bytes:
            monkeypatch.setattr(os, "pread", pread)
            data = pread(fd, size, at)
            for number in range(SLOTS, 2 * SLOTS):
                made.write(number % SLOTS, pack_row(BEGIN + number * INTERVAL, values(number)))
            return data

        monkeypatch.setattr(os, "pread", overtaken)
        assert numbers(made.read()) == list(range(SLOTS, 2 * SLOTS))


def test_a_stretch_and_whether_it_is_whole(path: Path) -> None:
    def times(first: int, stop: int) -> tuple[int, int]:
        """What holds the rows of these numbers, and no others."""
        return BEGIN + first * INTERVAL - 1, BEGIN + stop * INTERVAL

    with filled(path, range(15, 30)) as made:  # slots 15 to 19, then 0 to 9
        for first, stop, found, is_whole in (
            (16, 29, range(16, 29), True),  # around the end
            (16, 35, range(16, 30), True),  # its last slots hold nothing new
            (5, 12, [], False),  # in its slots are later rows
            (9, 12, [], False),
            (10, 12, [], True),
            (15, 35, range(15, 30), True),  # all of the ring
            (14, 35, range(15, 30), False),  # more than it holds
            (20, 20, [], True),
        ):
            rows, whole = made.read_between(*times(first, stop))
            assert (numbers(rows), whole) == (list(found), is_whole), (first, stop)


WRITER = """
import sys, struct, pathlib
from rondo_tools.store.slab import Slab, pack_row
path, interval, slots, begin = pathlib.Path(sys.argv[1]), 1000, int(sys.argv[2]), int(sys.argv[3])
slab = Slab.open(path, writable=True)
for number in range(10**9):
    t_ms = begin + number * interval
    slab.write(number % slots, pack_row(t_ms, struct.pack("<16d", *[number + i / 16 for i in range(16)])))
    if number == 0:
        print(flush=True)
"""


def test_a_reader_beside_a_writer_in_another_process(path: Path) -> None:
    """As fast as it can, many laps: no row is served torn; none is missing before one that is there."""
    slots = 5000
    begin = slots * INTERVAL * 1000
    Slab.create(path, INTERVAL, slots, 16).close()
    arguments = [sys.executable, "-c", WRITER, str(path), str(slots), str(begin)]
    newest = served = 0
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"\n"
            with Slab.open(path) as opened:
                while newest < 300_000 or served <= 5 * slots:
                    rows = opened.read()
                    found = (rows.t_ms - begin) // INTERVAL
                    # Each value is that of its time.
                    assert np.array_equal(rows.values, found[:, np.newaxis] + np.arange(16) / 16)
                    before, newest = newest, int((opened.read().t_ms[-1:].max(initial=0) - begin) // INTERVAL)
                    newest = max(before, newest)
                    kept = found[found > newest - slots]  # what no later lap can have overtaken
                    assert np.all(np.diff(kept) == 1)
                    assert not found.size or found[-1] >= before
                    served += kept.size
        finally:
            writer.kill()


def test_one_check_for_many_rows_is_worth_it() -> None:
    """The state of a CRC after whole rows depends on their number alone."""
    rng = random.Random(1)
    for columns, count in itertools.product((1, 16, 31), (1, 2, 7)):
        size = 16 + 8 * columns
        rows = b"".join(pack_row(rng.randrange(1, 2**53), rng.randbytes(8 * columns)) for _ in range(count))
        assert zlib.crc32(rows) == slab.crc_of_rows(size, count)
