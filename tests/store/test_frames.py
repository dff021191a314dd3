"""Frames: written frames are found again after any damage, and nothing else is."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rondo_tools.catalog import GAUGE, Series
from rondo_tools.errors import StoreError
from rondo_tools.store.format import frames
from rondo_tools.store.format.frame_file import FrameFile
from rondo_tools.store.format.schema import schema_of, unpack_schema

HEADER = frames.FileHeader(7, b"store-id", b"file--id")
SEED = HEADER.seed


def rows(*t_ms: int) -> frames.Rows:
    made = np.zeros(len(t_ms), frames.row_dtype(2))
    made["session"], made["t_ms"] = np.arange(len(t_ms)), t_ms
    made["values"] = np.arange(2 * len(t_ms)).reshape(-1, 2)
    return made


def a_file(count: int = 5) -> tuple[bytes, list[int]]:
    """A file of ROWS frames, and the offset of each."""
    data, begins = HEADER.pack(), []
    for n in range(count):
        begins.append(len(data))
        data += b"".join(frames.rows_frames(SEED, rows(1000 * n, 1000 * n + 7), 0))
    return data, begins


def found(data: bytes) -> tuple[list[int], frames.Damage]:
    damage = frames.Damage()
    return [at for at, _, _ in frames.scan(data, SEED, damage=damage)], damage


def test_a_file_is_read_as_it_was_written() -> None:
    data, begins = a_file()
    assert frames.parse_file_header(data) == HEADER
    assert all(at % 8 == 0 for at in begins)
    at, damage = found(data)
    assert (at, damage.bytes) == (begins, 0)
    for n, (_, head, payload) in enumerate(frames.scan(data, SEED)):
        assert (head.least_ms, head.greatest_ms) == (1000 * n, 1000 * n + 7)
        assert (head.least_session, head.greatest_session, head.entries) == (0, 1, 2)
        assert frames.rows_of(payload, 2).tobytes() == rows(1000 * n, 1000 * n + 7).tobytes()


def test_a_flipped_bit_loses_only_its_own_frame() -> None:
    data, begins = a_file(3)
    for at in range(begins[1], begins[2]):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            at_found, damage = found(bytes(damaged))
            assert at_found == [begins[0], begins[2]]
            assert damage.bytes == begins[2] - begins[1]
            assert damage.first_at == begins[1]


@pytest.mark.heavy
def test_zeros_after_the_end_are_no_frames() -> None:
    data, begins = a_file(2)
    for size in range(5000):
        at, damage = found(data + bytes(size))
        assert at == begins
        assert damage.bytes <= size


def test_a_flipped_bit_in_the_file_header_is_detected() -> None:
    data = HEADER.pack()
    for at in range(frames.FILE_SIZE - 4):  # no CRC covers the last four bytes
        for bit in range(8):
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            with pytest.raises(StoreError):
                frames.parse_file_header(bytes(damaged))


def test_an_incomplete_last_frame_is_no_damage_and_no_data() -> None:
    data, begins = a_file(3)
    for end in range(begins[2] + frames.HEAD_SIZE, len(data)):
        at, damage = found(data[:end])
        if end < len(data) - 8:
            assert (at, damage.bytes) == (begins[:2], 0)


def test_a_frame_of_another_file_is_invalid() -> None:
    other = frames.new_file(8, b"store-id")
    data, begins = a_file(1)
    foreign = b"".join(frames.rows_frames(other.seed, rows(1, 2), 0))
    at, damage = found(data + foreign)
    assert at == begins
    assert damage.first_at == len(data)


def test_large_rows_are_split_into_frames_of_at_most_a_mebibyte() -> None:
    many = rows(*range(100_000))
    made = list(frames.rows_frames(SEED, many, 3))
    data = HEADER.pack() + b"".join(made)
    again = [frames.rows_of(payload, 2) for _, _, payload in frames.scan(data, SEED)]
    assert len(made) > 1
    assert np.concatenate(again).tobytes() == many.tobytes()
    assert [head.entries for _, head, _ in frames.scan(data, SEED)] == [len(one) for one in again]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "shorter"),
        (b"x" * 40, "not a file"),
        (HEADER.pack()[:20] + b"\1" + HEADER.pack()[21:], "damaged"),
    ],
)
def test_other_files_are_an_error(tmp_path: Path, data: bytes, what: str) -> None:
    (tmp_path / "f").write_bytes(data)
    with pytest.raises(StoreError, match=what) as caught:
        FrameFile(tmp_path / "f")
    assert str(tmp_path / "f") in str(caught.value)


@given(st.lists(st.integers(0, 3000), max_size=8), st.integers(0, 2**32))
def test_the_file_reader_equals_the_scan_of_its_bytes(sizes: list[int], damaged_at: int) -> None:
    """The reader in pieces finds the same frames as the scan of all bytes."""
    import tempfile

    data = HEADER.pack()
    for n, size in enumerate(sizes):
        data += frames.frame(SEED, frames.VOID if n % 2 else frames.END, bytes([n]) * size)
    hurt = bytearray(data)
    if len(data) > frames.FILE_SIZE:
        hurt[frames.FILE_SIZE + damaged_at % (len(data) - frames.FILE_SIZE)] ^= 0x10
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f"
        path.write_bytes(hurt)
        with FrameFile(path) as file:
            by_pieces = [(at, head, bytes(payload)) for at, head, payload in file.frames()]
            damage = frames.Damage()
            at_once = [
                (at, head, bytes(payload))
                for at, head, payload in frames.scan(bytes(hurt), SEED, damage=damage)
            ]
            assert by_pieces == at_once
            assert file.damage == damage


def test_a_schema_is_dropped_with_its_last_user() -> None:
    series = (Series("m", (), GAUGE, "", "x" * 1000),)
    one = schema_of(series)
    assert unpack_schema(one.packed) is schema_of(series) is one
    gone = weakref.ref(one)
    del one
    gc.collect()
    assert gone() is None
