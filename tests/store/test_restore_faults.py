"""Truncated, damaged and hostile dumps, and killed restores: clear errors, and no loss."""

from __future__ import annotations

import errno
import io
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgpack
import numpy as np
import pytest

from rondo_tools import files, stream
from rondo_tools.errors import EX_DATAERR, EX_TEMPFAIL, EX_UNAVAILABLE, StoreError
from rondo_tools.store.carry import LIVE, Carry
from rondo_tools.store.check import Checker
from rondo_tools.store.format import dump, frames
from rondo_tools.store.format.cursor import Position, Progress, pack_progress
from rondo_tools.store.format.records import (
    Description,
    Place,
    SessionRecord,
    pack_descriptions,
    pack_sessions,
)
from rondo_tools.store.frame_writer import FrameWriter
from rondo_tools.store.intake import Intake
from rondo_tools.store.opened import OpenStore
from rondo_tools.stream import Header
from tests.support.needs import PATIENCE_S
from tests.support.restore_host import answers, dumped, restored
from tests.support.store import restore_killed
from tests.support.store.journal_fixtures import C1, G1, SCHEMAS, SMALL_TIERS, T0, Writer, fill


def now_ms() -> int:
    return T0 + 3_600_000


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "store"
    with Writer(path, SMALL_TIERS, per_frame=3) as writer:
        fill(writer)
    return path


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    monkeypatch.setattr(os, "fdatasync", lambda fd: None)


def frames_of(data: bytes) -> list[int]:
    """The ends of the frames of a dump."""
    reader = dump.DumpReader(io.BytesIO(data).read)
    return [reader.at for _ in reader]


def is_within(path: Path, source: Path) -> None:
    """Whether the answers of one store are a part of those of the other."""
    whole = answers(source)
    for key, one in answers(path).items():
        assert one["start"] == whole[key]["start"]
        assert set(one["tier 0"][0]) <= set(whole[key]["tier 0"][0])


@pytest.mark.heavy
@pytest.mark.parametrize("part", [0, *(pytest.param(n, marks=pytest.mark.long) for n in range(1, 6))])
def test_a_truncated_dump_is_restored_in_part_and_completed_by_a_whole_one(
    tmp_path: Path, source: Path, part: int
) -> None:
    data = dumped(source)
    ends = frames_of(data)
    assert ends[-1] == len(data)
    cuts = [end - cut for end in ends[:-1] for cut in (0, 8)][part::6]
    for number, cut in enumerate(cuts):
        target = tmp_path / str(number)
        with pytest.raises(StoreError) as raised:
            restored(data[:cut], target, now_ms)
        assert raised.value.exit_code == EX_DATAERR
        if (target / "state.json").exists():
            is_within(target, source)
        restored(data, target, now_ms)
        assert answers(target) == answers(source), f"cut at {cut}"
        assert list(Checker(target).findings()) == []
        assert not (target / "incomplete").exists()


def test_a_dump_truncated_near_its_end_restores_nearly_all(tmp_path: Path, source: Path) -> None:
    data = dumped(source)
    with pytest.raises(StoreError, match=r"the dump is incomplete: it ends at byte \d+; its undamaged part"):
        restored(data[: frames_of(data)[-2]], tmp_path / "store", now_ms)
    assert answers(tmp_path / "store") == answers(source)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(n, marks=pytest.mark.long) for n in range(2, 20))])
def test_flipped_bits_lose_only_their_frames(tmp_path: Path, source: Path, seed: int) -> None:
    chance, data = Random(seed), dumped(source)
    for number in range(10):
        target, broken = tmp_path / str(number), bytearray(data)
        at = chance.randrange(40, len(data))
        broken[at] ^= 1 << chance.randrange(8)
        try:
            restored(bytes(broken), target, now_ms)
        except StoreError as exc:
            assert exc.exit_code == EX_DATAERR
            if (target / "state.json").exists():
                is_within(target, source)
        else:
            assert answers(target) == answers(source)  # a byte between two frames
        restored(data, target, now_ms)
        assert {key: one["end"] for key, one in answers(target).items()} == {
            key: one["end"] for key, one in answers(source).items()
        }


@pytest.mark.parametrize(
    ("before", "stride"),
    [(False, 11), (True, 7), *(pytest.param(before, 1, marks=pytest.mark.long) for before in (False, True))],
)
def test_a_restore_can_be_repeated_after_a_kill_at_any_step(
    tmp_path: Path, source: Path, before: bool, stride: int
) -> None:
    (tmp_path / "dump").write_bytes(dumped(source))
    stores = tmp_path / "stores"
    stores.mkdir()
    if before:
        with Writer(stores / "before", SMALL_TIERS, seed=5) as writer:
            for second in range(20):
                writer.tick(("vm-0", T0), T0 + 1000 * second + 1)
            writer.end(("vm-0", T0))
    ours = answers(stores / "before") if before else {}
    killed = subprocess.run(
        [sys.executable, restore_killed.__file__, tmp_path / "dump", stores, str(now_ms()), str(stride)],
        timeout=PATIENCE_S,
        check=False,
    )
    assert killed.returncode == 0
    expected = answers(source) | ours
    steps = [path for path in stores.iterdir() if path.name != "before"]
    assert len(steps) > 60 // stride
    for path in steps:
        if (path / "store.json").exists():
            found = answers(path) if not list(path.glob("restore_*")) else {}
            assert found in (ours, expected, {})
        restored((tmp_path / "dump").read_bytes(), path, now_ms)
        assert answers(path) == expected
        assert list(Checker(path).findings()) == []
        assert not list(path.glob("restore_*"))


@pytest.mark.parametrize("before", [False, True])
def test_a_full_disk_leaves_the_store_unchanged(
    tmp_path: Path, source: Path, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, path = dumped(source), tmp_path / "store"
    if before:
        with Writer(path, SMALL_TIERS, seed=5) as writer:
            writer.tick(("vm-0", T0), T0 + 1)
            writer.end(("vm-0", T0))
            writer.rotate()
            writer.roll_up()
    ours = answers(path) if before else {}
    room, write, replace = 0, FrameWriter.write, files.replace

    def full(*_: object) -> None:
        nonlocal room
        room -= 1
        if room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    def until_full(call: Callable[..., None]) -> Callable[..., None]:
        def called(*args: object) -> None:
            full()
            call(*args)

        return called

    for first in range(100):
        room = first
        with monkeypatch.context() as patched:
            patched.setattr(FrameWriter, "write", until_full(write))
            patched.setattr(files, "replace", until_full(replace))
            try:
                restored(data, path, now_ms)
                break
            except StoreError as exc:
                assert exc.exit_code in (EX_TEMPFAIL, EX_UNAVAILABLE)
                assert "No space left on device" in str(exc)
        assert (answers(path) if (path / "store.json").exists() else {}) == ours
        assert not list(path.glob("restore_*"))
    else:
        pytest.fail("it never came to its end")
    assert first > 8
    assert answers(path) == answers(source) | ours
    assert list(Checker(path).findings()) == []


HEADER = {"tiers": "1s:10s,3s:60s,9s:9m", "rolled_up": 4, "evictions": [], "bytes": 0}


def made(fill: Callable[[dump.DumpWriter], None], **facts: object) -> bytes:
    """A dump with valid frames and any content."""
    out = io.BytesIO()
    writer = dump.DumpWriter(out.write, bytes(8))
    writer.part(dump.STORE, **(HEADER | facts))
    fill(writer)
    writer.part(dump.END)
    return out.getvalue()


def journal(writer: dump.DumpWriter, number: int = 1) -> None:
    writer.part("tier_0", number=number, id=bytes(8))


def add(writer: dump.DumpWriter, kind: int, payload: bytes, **fields: int) -> None:
    writer.frame(frames.frame(writer.seed, kind, payload, **fields))


def in_turn(*steps: Callable[[dump.DumpWriter], object]) -> Callable[[dump.DumpWriter], None]:
    def fill(writer: dump.DumpWriter) -> None:
        for step in steps:
            step(writer)

    return fill


def session(number: int = 0, instance: Any = "vm-1", **other: Any) -> bytes:
    """Also one that is wrong, which no type allows."""
    one = SessionRecord(number, instance, T0, 1000, (), 0, 0)._replace(**other)
    return pack_sessions([one])


def row(session: int = 0, t_ms: int = T0 + 1000) -> bytes:
    return struct.pack("<Iqdd", session, t_ms, 1.0, 2.0)


def in_journal(*some: tuple[int, bytes]) -> Callable[[dump.DumpWriter], None]:
    def fill(writer: dump.DumpWriter) -> None:
        journal(writer)
        for kind, payload in some:
            add(writer, kind, payload)

    return fill


def carry(writer: dump.DumpWriter, *names: str, **columns: int) -> None:
    live = np.zeros(len(names), LIVE)
    facts = {"start_ms": T0, "interval_ms": 1000, "last_ms": T0 + 1000, "ticks": 1, "journal": 1}
    for column, value in (facts | columns).items():
        live[column] = value
    writer.part(dump.CARRY)
    writer.bytes(Carry([(name, ()) for name in names], live, [SCHEMAS[0]], [{}, {}]).pack())


def cursor_at(writer: dump.DumpWriter, begin: Position, coarse: tuple[int, int, int] | None = None) -> None:
    writer.part(dump.CURSOR, cursor="x")
    writer.bytes(pack_progress(Progress(begin=begin, coarse=coarse), None))


def last_rows_at(place: Place) -> Callable[[dump.DumpWriter], None]:
    def fill(writer: dump.DumpWriter) -> None:
        description = Description(
            "vm-1", T0, 1000, (), "poweroff", T0 + 2000, T0 + 1000, T0 + 1000, 1, 2, (place,)
        )
        writer.part("ended", number=1, id=bytes(8))
        add(writer, frames.DESCRIPTIONS, pack_descriptions([description]))
        writer.part("last_rows", number=1, id=bytes(8))
        add(writer, SCHEMA, PACKED)
        add(writer, SESSION, session())
        add(writer, ROWS, row(), origin=40)

    return fill


def coarse(writer: dump.DumpWriter, tier: str, **fields: int) -> None:
    writer.part(tier, number=1, id=bytes(8))
    add(writer, SCHEMA, PACKED)
    add(writer, SESSION, session())
    add(writer, ROWS, struct.pack("<Iqdddd", 0, T0, 1, 2, 3, 4), **fields)


SCHEMA, SESSION, ROWS, END = frames.SCHEMA, frames.SESSION, frames.ROWS, frames.END
PACKED = SCHEMAS[0].packed
HOSTILE = {
    "no part": lambda writer: add(writer, ROWS, row()),
    "a part of another kind": lambda writer: writer.part("/etc/passwd", number=1, id=bytes(8)),
    "a part that is no map": lambda writer: writer.frame(
        frames.frame(writer._header.seed, dump.PART, msgpack.packb(7), origin=2)
    ),
    "a file without a number": lambda writer: writer.part("tier_0", number=-1, id=bytes(8)),
    "a file without an id": lambda writer: writer.part("tier_0", number=1, id="x"),
    "two stores": lambda writer: writer.part(dump.STORE, **HEADER),
    "journals out of order": in_turn(lambda writer: journal(writer, 3), lambda writer: journal(writer, 2)),
    "a carry that is none": lambda writer: (writer.part(dump.CARRY), writer.bytes(b"nothing")),
    "a carry of strangers": lambda writer: (
        writer.part(dump.CARRY),
        writer.bytes(Carry([("", ())], Carry().live).pack()),
    ),
    "a cursor that is none": lambda writer: (writer.part(dump.CURSOR, cursor="x"), writer.bytes(b"{}")),
    "a cursor elsewhere": lambda writer: (
        writer.part(dump.CURSOR, cursor="../../x"),
        writer.bytes(b"{}"),
    ),
    "a schema that is none": in_journal((SCHEMA, b"\x01")),
    "a schema of nonsense": in_journal((SCHEMA, msgpack.packb([{"name": "1 2", "labels": {}, "kind": "x"}]))),
    "a session that is none": in_journal((SESSION, b"\x93\x01\x02\x03")),
    "a session of a number": in_journal((SESSION, session(instance=None))),
    "a session before 1970": in_journal((SESSION, session(start_ms=-5))),
    "rows without a session": in_journal((SCHEMA, PACKED), (ROWS, row())),
    "rows without a schema": in_journal((SESSION, session()), (ROWS, row())),
    "rows of another width": in_journal((SCHEMA, PACKED), (SESSION, session()), (ROWS, row()[:-8])),
    "rows of no time": in_journal((SCHEMA, PACKED), (SESSION, session()), (ROWS, row(t_ms=-1))),
    "rows beyond all times": in_journal((SCHEMA, PACKED), (SESSION, session()), (ROWS, row(t_ms=1 << 62))),
    "an end of nobody": in_journal((END, msgpack.packb([4, T0, "poweroff", T0]))),
    "an end of nonsense": in_journal((SESSION, session()), (END, msgpack.packb([0, T0, 7, T0]))),
    "descriptions that are none": in_turn(
        lambda writer: writer.part("ended", number=1, id=bytes(8)),
        lambda writer: add(writer, frames.DESCRIPTIONS, bytes(20) + b"\x93\x01\x02\x03"),
    ),
    "descriptions in a journal": in_journal((frames.DESCRIPTIONS, pack_descriptions([]))),
    "a tier that is not there": lambda writer: coarse(writer, "tier_5"),
    "a coarse row of a journal beyond all": lambda writer: coarse(writer, "tier_1", origin=(1 << 32) - 1),
    "two carries": in_turn(lambda writer: carry(writer, "vm-1", "vm-2"), carry),
    "a carry of journals to come": lambda writer: carry(writer, "vm-1", from_journal=5),
    "a cursor before all journals": lambda writer: cursor_at(writer, begin=Position(0, bytes(8), 40)),
    "a cursor beyond all journals": lambda writer: cursor_at(writer, begin=Position(1 << 62, bytes(8), 40)),
    "a cursor that is owed all": lambda writer: cursor_at(
        writer, begin=Position(1, bytes(8), 40), coarse=(1, 0, 1 << 62)
    ),
    "last rows without an end": last_rows_at(Place(1, 40, 0, 1 << 40)),
    "last rows beyond their frame": last_rows_at(Place(1, 40, 1 << 40, 1)),
    "last rows before their frame": last_rows_at(Place(1, 40, -1, 1)),
    "a mark of nothing": in_journal((dump.MARK, b"\x01")),
    "bytes in a journal": in_journal((SESSION, session()), (END + 20, b"")),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_dump_is_an_error_with_an_offset(tmp_path: Path, what: str) -> None:
    with pytest.raises(StoreError, match="bytes of the dump are damaged, from byte") as raised:
        restored(made(HOSTILE[what]), tmp_path / "store", now_ms)
    assert raised.value.exit_code == EX_DATAERR
    if (tmp_path / "store" / "state.json").exists():
        answers(tmp_path / "store")
        assert list(Checker(tmp_path / "store").findings()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"store"}


def test_data_after_a_damaged_carry_is_restored(tmp_path: Path) -> None:
    def fill(writer: dump.DumpWriter) -> None:
        writer.part(dump.CARRY)
        writer.bytes(b"nothing")
        journal(writer)
        add(writer, SCHEMA, PACKED)
        add(writer, SESSION, session())
        add(writer, ROWS, row(), least_ms=T0 + 1000, greatest_ms=T0 + 1000)

    with pytest.raises(StoreError, match="are damaged"):
        restored(made(fill, rolled_up=0), tmp_path / "store", now_ms)
    assert list(answers(tmp_path / "store")) == [("vm-1", T0)]


def test_numbers_of_journals_do_not_run_out(tmp_path: Path) -> None:
    def fill(writer: dump.DumpWriter) -> None:
        journal(writer)
        add(writer, SCHEMA, PACKED)
        add(writer, SESSION, session(instance=f"vm-{time}"))
        add(writer, ROWS, row(), least_ms=T0 + 1000, greatest_ms=T0 + 1000)

    time = 1
    restored(made(fill, rolled_up=(1 << 31) - 1), tmp_path / "store", now_ms)
    before = sorted((tmp_path / "store").rglob("*"))
    time = 2
    with pytest.raises(StoreError, match="too high; nothing was restored") as raised:
        restored(made(fill, rolled_up=(1 << 31) - 1), tmp_path / "store", now_ms)
    assert raised.value.exit_code == EX_DATAERR
    assert sorted((tmp_path / "store").rglob("*")) == before


def test_last_rows_are_searched_only_in_existing_journals(tmp_path: Path) -> None:
    """It does not try each of two billion numbers."""

    def fill(writer: dump.DumpWriter) -> None:
        carry(writer, "vm-1", journal=newest, from_journal=1, mark_journal=1)

    newest = (1 << 31) - 1
    restored(made(fill, rolled_up=newest), tmp_path / "store", now_ms)
    with OpenStore(tmp_path / "store", now_ms=now_ms) as store:
        intake = Intake(store.keeper)
        intake.feed(
            stream.encode(Header("vm-1", T0, (), 1000, (C1, G1)))
            + stream.encode(stream.Tick(T0 + 2000, bytes(16)))
            + stream.encode(stream.End("poweroff", T0 + 2000))
        )
        intake.close(give_up=True)
        store.keeper.flush()
        store.keeper.end_journal()
        store.keep_house()
    assert answers(tmp_path / "store")["vm-1", T0]["end"]


def test_frames_of_a_lost_part_are_dropped(tmp_path: Path) -> None:
    """Session 0 of one journal is another session in the next."""

    def two_journals(writer: dump.DumpWriter) -> None:
        for number, instance in ((1, "vm-1"), (2, "vm-2")):
            journal(writer, number)
            add(writer, SCHEMA, PACKED)
            add(writer, SESSION, session(instance=instance))
            t_ms = T0 + 1000 * number
            add(writer, ROWS, row(t_ms=t_ms), least_ms=t_ms, greatest_ms=t_ms)

    whole = made(two_journals, rolled_up=0)
    assert {key[0] for key in answers(restored(whole, tmp_path / "whole", now_ms))} == {"vm-1", "vm-2"}
    reader = dump.DumpReader(io.BytesIO(whole).read)
    parts = [
        (reader.frame_at, reader.frame_at + frames.HEAD_SIZE + head.length)
        for head, _ in reader
        if head.kind == dump.PART
    ]
    begin, end = parts[2]  # the second journal's
    for at in range(begin, end, 7):
        broken = bytearray(whole)
        broken[at] ^= 4
        target = tmp_path / str(at)
        with pytest.raises(StoreError, match="damaged"):
            restored(bytes(broken), target, now_ms)
        (found,) = answers(target).items()
        assert found[0][0] == "vm-1"
        assert found[1]["tier 0"][0] == [T0 + 1000]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "standard input is empty"),
        (b"x" * 39, "ended before the header"),
        (b"x" * 400, "not a dump of a rondo store"),
        (b"\x28\xb5\x2f\xfd" + bytes(400), "compressed; give it through zstd -dc"),
        (b"\x1f\x8b" + bytes(400), "compressed; give it through gzip -dc"),
    ],
)
def test_other_input_makes_no_store(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(StoreError, match=words) as raised:
        restored(data, tmp_path / "store", now_ms)
    assert raised.value.exit_code == EX_DATAERR
    assert not (tmp_path / "store").exists()


def test_a_dump_of_a_later_version_is_refused(tmp_path: Path) -> None:
    data = frames.FileHeader(2, bytes(8), bytes(8)).pack(dump.MAGIC)
    with pytest.raises(StoreError, match="version 2 of a dump; this rondo reads version 1"):
        restored(data, tmp_path / "store", now_ms)
    assert not (tmp_path / "store").exists()
