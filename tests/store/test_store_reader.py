"""The reader: what it fills in, what it leaves out, and what it says is wrong."""

from __future__ import annotations

import json
import logging
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from ring_model import COUNTS, LEVEL, NAN, T0, bits, header, roll_up, tick, ticks

from rondo_tools.errors import EX_DATAERR, EX_UNAVAILABLE, StoreError
from rondo_tools.store import reader
from rondo_tools.store.reader import Session, Store, folder_name
from rondo_tools.store.slab import Slab
from rondo_tools.store.tiers import parse_tiers
from rondo_tools.store.writer import SessionWriter, StoreWriter
from rondo_tools.stream import End, Tick

PAIR = (COUNTS, LEVEL)
TIERS = parse_tiers("1s:40s,5s:2m,20s:10m")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


def write(path: Path, *batches: list[Tick], instance: str = "vm-1") -> SessionWriter:
    """A session with these ticks; open no more, and without an end."""
    with StoreWriter(path, TIERS) as store:
        session = store.open(header(PAIR, instance))
        for batch in batches:
            session.ring.append(batch)
        session.close()
        return session


def only(path: Path) -> Session:
    (session,) = Store(path).sessions()
    return session


def listed(session: Session, tier: int = 0) -> list[tuple[int, bytes]]:
    rows = session.rows(tier)
    return list(zip(rows.t_ms.tolist(), (row.tobytes() for row in rows.values), strict=True))


def windows(all_ticks: list[Tick], window_ms: int) -> list[tuple[int, bytes]]:
    found: dict[int, list[Tick]] = {}
    for one in all_ticks:
        found.setdefault(one.t_ms // window_ms, []).append(one)
    return [
        (some[-1].t_ms, bits(roll_up(PAIR, [struct.unpack("<2d", one.values) for one in some])))
        for some in found.values()
    ]


# --- rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", [0, 1, 2])
@pytest.mark.parametrize("count", [30, 140, 900])
def test_a_stretch_as_it_is_stored_and_whether_it_is_whole(path: Path, tier: int, count: int) -> None:
    everything = ticks(count, width=2)
    write(path, everything)
    session = only(path)
    first_ms, last_ms = everything[0].t_ms, everything[-1].t_ms
    interval_ms, slots = session.tiers[tier]
    rows = session.rows(tier)
    closed_ms = last_ms // 20_000 * 20_000  # what is later is perhaps not rolled up
    for after_ms in range(first_ms - 1500, closed_ms, 7300):
        for before_ms in (after_ms + 1, after_ms + 9000, after_ms + 33_000):
            before_ms = min(before_ms, closed_ms)
            got, is_whole = session.stored(tier, after_ms, before_ms)
            want = rows.between(after_ms, before_ms)
            assert got.t_ms.tolist() == want.t_ms.tolist()
            np.testing.assert_array_equal(got.values, want.values)
            oldest_slot = closed_ms // interval_ms - 1 - slots if tier else last_ms // interval_ms - slots
            assert is_whole or (after_ms + 1) // interval_ms <= oldest_slot


@pytest.mark.parametrize("count", [1, 4, 5, 19, 20, 21, 33, 40, 41, 59, 60, 75, 130, 500])
def test_nobody_sees_what_is_not_yet_rolled_up(path: Path, count: int) -> None:
    """Read while it goes on, each tier is what it will be, and the newest window what there is of it."""
    everything = ticks(count, width=2)
    write(path, everything)
    session = only(path)
    assert listed(session) == [(one.t_ms, one.values) for one in everything[-40:]]
    for tier in (1, 2):
        got, want = listed(session, tier), windows(everything, TIERS[tier].interval_ms)
        assert got[-TIERS[tier].slots :] == want[-TIERS[tier].slots :]
        assert got == want[-len(got) :]  # and perhaps a few that are not yet overwritten


def test_what_is_filled_in_is_what_the_writer_writes_later(path: Path) -> None:
    everything = [tick(T0 + 1000 * i, float(i), (-1.0) ** i / 3 if i % 7 else NAN) for i in range(60)]
    write(path, everything[:39])
    early = [dict(listed(only(path), tier)) for tier in (1, 2)]
    for tier in (1, 2):
        with Slab.open(only(path).path / f"tier_{tier}.slab") as slab:
            assert slab.read().t_ms.max() < T0 + 20_000  # tier 0 alone knows the rest
    write(path, everything[39:])
    for tier in (1, 2):
        with Slab.open(only(path).path / f"tier_{tier}.slab") as slab:
            stored = slab.read()
            later = dict(zip(stored.t_ms.tolist(), (row.tobytes() for row in stored.values), strict=True))
        closed = {t: row for t, row in early[tier - 1].items() if (t + 1000) % TIERS[tier].interval_ms == 0}
        assert len(closed) == (7, 1)[tier - 1]
        for t_ms, row in closed.items():
            assert row == later[t_ms]


def test_after(path: Path) -> None:
    write(path, ticks(30, width=2))
    session = only(path)
    assert session.rows(0, T0 + 20_000).t_ms.tolist() == [T0 + i * 1000 for i in range(21, 30)]
    assert session.rows(1, T0 + 19_000).t_ms.tolist() == [T0 + 24_000, T0 + 29_000]
    assert session.rows(0, T0 + 29_000).t_ms.size == 0
    assert session.rows(1, T0 + 29_000).values.shape == (0, 4)


def test_left_over_rows_of_an_overwritten_window_make_no_false_window(path: Path) -> None:
    """Every second at first; after a gap longer than tier 1 remembers, every other second: then
    half of the old rows are still in tier 0. Averages of those would be wrong."""
    old = ticks(40, width=2)
    new = ticks(20, T0 + 240_000, 2000, width=2)
    write(path, old, new)
    session = only(path)
    with Slab.open(session.path / "tier_0.slab") as slab:
        assert (slab.read().t_ms < T0 + 40_000).sum() == 20
    for tier in (1, 2):
        allowed = windows(old, TIERS[tier].interval_ms) + windows(new, TIERS[tier].interval_ms)
        assert set(listed(session, tier)) <= set(allowed)


@pytest.mark.parametrize("payload", ["020000000000f07f", "010000000000f8ff", "ffffffffffffffff"])
def test_every_nan_is_read_as_one(path: Path, payload: str) -> None:
    write(path, [Tick(T0, bytes.fromhex(payload) + struct.pack("<d", 1.0))])
    for tier, width in ((0, 2), (1, 4), (2, 4)):
        assert only(path).rows(tier).values.tobytes() == bits([NAN] + [1.0] * (width - 1))


def test_damage_costs_its_row_and_is_counted(path: Path) -> None:
    everything = ticks(38, width=2)
    session = only(write(path, everything).path.parents[2])
    with Slab.open(session.path / "tier_0.slab", writable=True) as slab:
        slab.write((T0 + 33_000) // 1000 % 40, b"junk")
    kept = [one for one in everything if one.t_ms != T0 + 33_000]
    assert listed(session) == [(one.t_ms, one.values) for one in kept]
    assert session.rows().skipped == 1
    assert listed(session, 1) == windows(kept, 5000)
    with Slab.open(session.path / "tier_1.slab", writable=True) as slab:
        slab.write((T0 + 5000) // 5000 % slab.slots, b"junk")
    assert session.rows(1).skipped == 2  # and the tick that its newest windows lack
    # Tier 0 has all of that window still: what was lost is worked out again.
    assert listed(session, 1) == windows(kept, 5000)


@pytest.mark.parametrize("cut", [0, 63, 64, 1000])
def test_a_damaged_slab(path: Path, cut: int) -> None:
    write(path, ticks(30, width=2))
    session = only(path)
    os.truncate(session.path / "tier_1.slab", cut)
    with pytest.raises(StoreError, match=r"tier_1\.slab") as caught:
        session.rows(1)
    assert caught.value.exit_code == EX_DATAERR
    assert session.rows(0).t_ms.size == 30  # the others are none the worse


def test_a_slab_of_another_shape(path: Path) -> None:
    write(path, ticks(30, width=2))
    session = only(path)
    Slab.create(session.path / "tier_0.slab", 1000, 41, 2).close()
    with pytest.raises(StoreError, match="does not fit"):
        session.rows()


def test_a_session_that_goes_while_one_looks(path: Path) -> None:
    write(path, ticks(30, width=2))
    session = only(path)
    shutil.rmtree(session.path)
    with pytest.raises(StoreError, match="No such file") as caught:
        session.rows()
    assert caught.value.exit_code == EX_UNAVAILABLE


def test_a_folder_that_goes_while_the_sessions_are_listed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for instance in ("vm-1", "vm-2", "vm-3"):
        write(path, [], instance=instance)
    listdir = os.listdir

    def listdir_of_what_goes(folder: str) -> list[str]:
        if str(folder).endswith("vm-2"):
            shutil.rmtree(folder)
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", listdir_of_what_goes)
    assert [one.instance for one in Store(path).sessions()] == ["vm-1", "vm-3"]


def test_bytes_on_disk(path: Path) -> None:
    write(path, ticks(30, width=2))
    session = only(path)
    assert session.bytes_on_disk() == sum(file.stat().st_blocks * 512 for file in session.path.iterdir()) > 0


# --- beside a writer -----------------------------------------------------------------------------


def test_the_writer_goes_on_between_the_reads_of_two_tiers(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happens between them, no window is missing and none is false."""
    everything = ticks(300, width=2)
    read = Slab.read
    for ahead in (1, 3, 25, 60, 150):
        shutil.rmtree(path, ignore_errors=True)
        write(path, everything[:38])
        session = only(path)
        with monkeypatch.context() as patch:

            def read_then_write(
                slab: Slab, ahead: int = ahead, patch: pytest.MonkeyPatch = patch
            ) -> reader.Rows:
                patch.setattr(Slab, "read", read)
                rows = read(slab)
                write(path, everything[38 : 38 + ahead])
                return rows

            patch.setattr(Slab, "read", read_then_write)
            got = listed(session, 1)
        good = windows(everything, 5000)
        oldest = max(0, (37 + ahead) // 5 - TIERS[1].slots + 1)  # that the tier still remembers
        assert {t for t, _ in good[oldest : oldest + 7]} <= {t for t, _ in got}
        # The window that was open when tier 0 was read may be shown as it was then.
        assert set(got) - set(good) <= {windows(everything[35:38], 5000)[0]}


def test_a_lap_of_the_tier_comes_in_between_the_reads_of_two(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was an open window when tier 0 was read has closed, and is gone."""
    everything = ticks(300, width=2)
    write(path, everything[:38])
    session, read = only(path), Slab.read

    def read_then_write(slab: Slab) -> reader.Rows:
        monkeypatch.setattr(Slab, "read", read)
        rows = read(slab)
        write(path, everything[38:])
        return rows

    monkeypatch.setattr(Slab, "read", read_then_write)
    got = listed(session, 1)
    assert got == [row for row in windows(everything, 5000) if row in got]
    assert len(got) > 15


# --- sessions ------------------------------------------------------------------------------------


def test_sessions_are_sorted_and_know_their_end(path: Path) -> None:
    with StoreWriter(path, TIERS) as store:
        for instance, start_ms in [("b", 2), ("a", 30), ("a", 4), ("c/../d", 1)]:
            session = store.open(header(PAIR, instance, start_ms))
            session.ring.append(ticks(3, width=2))
            if instance == "a":
                session.finish(End("poweroff", T0 + 5000))
            session.close()
    found = [
        (one.instance, one.start_ms, one.key, one.end and one.end.reason) for one in Store(path).sessions()
    ]
    assert found == [
        ("a", 4, "a/4", "poweroff"),
        ("a", 30, "a/30", "poweroff"),
        ("b", 2, "b/2", None),
        ("c/../d", 1, "c%2F..%2Fd/1", None),
    ]


def test_what_changes_is_read_again_and_what_does_not_is_not(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path, [])
    write(path, [], instance="vm-2")
    store = Store(path)
    first = store.sessions()
    reads: list[Path] = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda file: reads.append(file) or read_bytes(file))
    assert store.sessions() == first
    assert reads == []
    monkeypatch.undo()
    with StoreWriter(path) as writer:
        session = writer.open(header(PAIR, "vm-2"))
        session.finish(End("reset", T0))
        session.close()
    assert [one.end for one in store.sessions()] == [None, End("reset", T0)]
    shutil.rmtree(first[0].path)
    assert [one.instance for one in store.sessions()] == ["vm-2"]


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"header": null, "end": null}',
        b'{"header": {}, "end": null}',
        b'{"header": [1], "end": 7}',
        b"[" * 100_000,
    ],
)
def test_a_session_that_cannot_be_read_is_left_out(
    path: Path, document: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    write(path, [])
    damaged = write(path, [], instance="vm-2").path / "session.json"
    damaged.write_bytes(document)
    with caplog.at_level(logging.WARNING):
        assert [one.instance for one in Store(path).sessions()] == ["vm-1"]
    assert f"{damaged}: left out" in caplog.text


@pytest.mark.parametrize(
    ("key", "value"), [("end", {"end": "Boredom!", "t_ms": 1}), ("header", {"rondo": 2})]
)
def test_nor_is_one_whose_fields_are_wrong(path: Path, key: str, value: object) -> None:
    file = write(path, []).path / "session.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()) | {key: value}))
    assert Store(path).sessions() == []


def test_folders_that_are_no_sessions(path: Path) -> None:
    folder = write(path, []).path
    (folder.parent / "77").mkdir()
    (path / "instances" / "file").write_text("x")
    assert [one.key for one in Store(path).sessions()] == [f"vm-1/{T0 - 1}"]


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("instance", "name"),
    [
        ("vm-1", "vm-1"),
        ("host.example.org", "host.example.org"),
        (".", "%2E"),
        ("..", "%2E."),
        (".hidden", "%2Ehidden"),
        ("/etc/passwd", "%2Fetc%2Fpasswd"),
        ("../../x", "%2E.%2F..%2Fx"),
        ("a b\n\0%", "a%20b%0A%00%25"),
        ("é", "%C3%A9"),
    ],
)
def test_folder_names(instance: str, name: str) -> None:
    assert folder_name(instance) == name


def test_long_names_are_cut_and_kept_apart() -> None:
    long = [folder_name("x" * 999 + last) for last in "ab"] + [
        folder_name("é" * 500),
        folder_name("." * 1000),
    ]
    assert len(set(long)) == 4
    assert all(len(name) <= 200 and "/" not in name and not name.startswith(".") for name in long)


# --- store.json ----------------------------------------------------------------------------------


def test_no_store(path: Path) -> None:
    with pytest.raises(StoreError, match=r"no store there \(no store.json\)") as caught:
        Store(path)
    assert caught.value.exit_code == EX_UNAVAILABLE


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ('{"rondo_store": 2, "tiers": "1s:10m"}', "store format 2; this rondo reads format 1"),
        ('{"rondo_store": 1}', "not a store's description"),
        ('{"rondo_store": 1, "tiers": "1s:1s"}', "not a store's description"),
        ('{"rondo_store": 1, "tiers": 5}', "not a store's description"),
        ("{}", "not a store's description"),
        ("[]", "not a store's description"),
        ("", "not a store's description"),
        ("\ud800", "not a store's description"),
    ],
)
def test_a_store_json_that_is_none(path: Path, document: str, why: str) -> None:
    path.mkdir()
    (path / "store.json").write_bytes(document.encode("utf-8", "surrogatepass"))
    with pytest.raises(StoreError, match=why) as caught:
        Store(path)
    assert caught.value.exit_code == EX_DATAERR
    assert "store.json" in str(caught.value)


def test_a_store_json_that_cannot_be_read(path: Path) -> None:
    (path / "store.json").mkdir(parents=True)
    with pytest.raises(StoreError, match="Is a directory") as caught:
        Store(path)
    assert caught.value.exit_code == EX_UNAVAILABLE


def test_numbers_are_float64_and_int64(path: Path) -> None:
    write(path, ticks(3, width=2))
    for tier in (0, 1):
        rows = only(path).rows(tier)
        assert (rows.t_ms.dtype, rows.values.dtype) == (np.int64, np.float64)
        assert rows.values.flags.c_contiguous
        assert rows.values.shape == (len(rows.t_ms), len(only(path).columns(tier)))
