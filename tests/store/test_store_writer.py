"""The writer: its lock, its refusals, names that try to escape, and expiry."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ring_model import COUNTS, LEVEL, T0, header, slabs, ticks

from rondo_tools import files
from rondo_tools.errors import EX_DATAERR, EX_TEMPFAIL, EX_UNAVAILABLE, StoreError
from rondo_tools.store.reader import Store
from rondo_tools.store.tiers import DEFAULT_TIERS, parse_tiers
from rondo_tools.store.writer import StoreWriter
from rondo_tools.stream import End

PAIR = (COUNTS, LEVEL)
TIERS = parse_tiers("1s:40s,5s:2m,20s:10m")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


def descriptors() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


# --- opening -------------------------------------------------------------------------------------


def test_a_new_store(path: Path) -> None:
    with StoreWriter(path / "deep" / "er") as store:
        assert store.tiers == DEFAULT_TIERS
        assert json.loads((store.path / "store.json").read_bytes()) == {
            "rondo_store": 1,
            "tiers": "1s:10m,10s:6h,5m:1w",
        }
    assert Store(path / "deep" / "er").sessions() == []


def test_other_tiers_are_refused(path: Path) -> None:
    StoreWriter(path, TIERS).close()
    StoreWriter(path, TIERS).close()
    with StoreWriter(path) as store:
        assert store.tiers == TIERS
    before = descriptors()
    with pytest.raises(
        StoreError, match="made with --tiers 1s:40s,5s:2m,20s:10m, which cannot be changed"
    ) as caught:
        StoreWriter(path, DEFAULT_TIERS)
    assert caught.value.exit_code == EX_DATAERR
    assert descriptors() == before
    StoreWriter(path).close()  # nor is the lock left behind


@pytest.mark.parametrize("document", ['{"rondo_store": 2, "tiers": "1s:10m"}', "{", ""])
def test_another_format_is_refused(path: Path, document: str) -> None:
    StoreWriter(path).close()
    (path / "store.json").write_text(document)
    with pytest.raises(StoreError, match=r"store\.json"):
        StoreWriter(path)
    assert (path / "store.json").read_text() == document  # and not made anew


def test_a_file_in_the_place_of_the_folder(path: Path) -> None:
    path.write_text("mine")
    for place in (path, path / "below"):
        with pytest.raises(StoreError, match=f"{place}: cannot be written to: ") as caught:
            StoreWriter(place)
        assert caught.value.exit_code == EX_UNAVAILABLE
    assert path.read_text() == "mine"


# --- the lock ------------------------------------------------------------------------------------


def test_a_second_writer_is_told_who_holds_the_lock(path: Path) -> None:
    program = f"""
import sys
from rondo_tools.store.writer import StoreWriter
with StoreWriter({str(path)!r}):
    print(flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"\n"
        before = descriptors()
        with pytest.raises(StoreError, match=f"process {other.pid} writes to this store; only one") as caught:
            StoreWriter(path)
        assert caught.value.exit_code == EX_TEMPFAIL
        assert descriptors() == before
        other.kill()
        other.wait()
        with StoreWriter(path):  # a lock dies with its holder
            assert (path / "lock").read_text() == f"{os.getpid()}\n"


def test_nor_may_one_process_write_twice(path: Path) -> None:
    with StoreWriter(path), pytest.raises(StoreError, match=f"process {os.getpid()} writes to this store"):
        StoreWriter(path)


# --- sessions ------------------------------------------------------------------------------------


def test_the_header_is_kept_as_received(path: Path) -> None:
    full = header(PAIR, "vm ü/1")._replace(labels=(("zone", "é\u2028"), ("zoo", "\x00")))
    with StoreWriter(path) as store:
        store.open(full).close()
        store.open(full).close()
    assert [one.header for one in Store(path).sessions()] == [full]


def test_the_same_session_with_another_header(path: Path) -> None:
    with StoreWriter(path) as store:
        store.open(header(PAIR)).close()
        before = descriptors()
        for other in (header((LEVEL,)), header(PAIR)._replace(interval_ms=500), header(PAIR[::-1])):
            with pytest.raises(StoreError, match=r"'vm-1' has begun a session at .* \(--instance\)"):
                store.open(other)
        assert descriptors() == before
        store.open(header(PAIR, start_ms=T0 + 5)).close()  # a restart is another session


@pytest.mark.parametrize(
    "instance",
    [
        ".",
        "..",
        "...",
        ".hidden",
        "/",
        "/etc",
        "../../escape",
        "a/b",
        "a\\b",
        "a\0b",
        "\n",
        "~",
        "%2E%2E",
        "x" * 1000,
        "é" * 500,
        "." * 1000,
        "/" * 1000,
        "\u202e",
        "a" * 200,
        "session.json",
    ],
)
def test_names_that_try_to_escape(path: Path, instance: str) -> None:
    with StoreWriter(path) as store:
        session = store.open(header(PAIR, instance))
        session.ring.append(ticks(3, width=2))
        session.close()
        assert session.path.resolve().parents[1] == (path / "instances").resolve()
    assert sorted(one.name for one in path.iterdir()) == ["instances", "lock", "store.json"]
    assert [one.name for one in path.parent.iterdir()] == ["store"]
    assert [one.instance for one in Store(path).sessions()] == [instance]


@pytest.mark.parametrize("document", ["", "{", "[]", '{"header": null, "end": null}', '{"end": 1}'])
def test_a_damaged_session_is_refused_and_left_alone(path: Path, document: str) -> None:
    with StoreWriter(path) as store:
        session = store.open(header(PAIR))
        session.close()
        (session.path / "session.json").write_text(document)
        with pytest.raises(StoreError, match=r"session\.json: damaged"):
            store.open(header(PAIR))
        assert (session.path / "session.json").read_text() == document


def test_a_folder_without_a_session_json_is_taken_up(path: Path) -> None:
    """Killed between the making of the slabs and that of session.json."""
    with StoreWriter(path, TIERS) as store:
        session = store.open(header(PAIR))
        session.close()
        (session.path / "session.json").unlink()
        (session.path / "tier_2.slab").unlink()
        assert Store(path).sessions() == []
        session = store.open(header(PAIR))
        session.ring.append(ticks(50, width=2))
        session.close()
        found = [(session.path / f"tier_{number}.slab").read_bytes() for number in range(3)]
        assert found == slabs(PAIR, TIERS, ticks(50, width=2))
        assert len(Store(path).sessions()) == 1


def test_a_session_that_cannot_be_made_leaves_no_descriptor(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a store that waits for room on a full disk would run out of them."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with StoreWriter(path) as store:
        before = descriptors()
        for module, name in ((Path, "mkdir"), (os, "pwrite"), (files, "replace")):
            with monkeypatch.context() as patch:
                patch.setattr(module, name, full)
                with pytest.raises(OSError, match="No space"):
                    store.open(header(PAIR))
            assert descriptors() == before
        store.open(header(PAIR)).close()
    assert len(Store(path).sessions()) == 1


# --- the end -------------------------------------------------------------------------------------


def test_the_end_is_kept_and_the_first_one_counts(path: Path) -> None:
    with StoreWriter(path, TIERS) as store:
        session = store.open(header(PAIR))
        session.ring.append(ticks(50, width=2))
        session.finish(End("poweroff", T0 + 50_000))
        session.finish(End("reset", T0 + 60_000))
        session.close()
        again = store.open(header(PAIR))
        assert again.end == End("poweroff", T0 + 50_000)
        again.close()
    (read,) = Store(path).sessions()
    assert read.end == End("poweroff", T0 + 50_000)
    found = [(session.path / f"tier_{number}.slab").read_bytes() for number in range(3)]
    assert found == slabs(PAIR, TIERS, ticks(50, width=2), finished=True)


def test_an_end_that_could_not_be_written_is_written_later(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with StoreWriter(path) as store:
        session = store.open(header(PAIR))
        with monkeypatch.context() as patch:
            patch.setattr(files, "replace", full)
            with pytest.raises(OSError, match="No space"):
                session.finish(End("poweroff", T0))
        session.finish(End("poweroff", T0))
        session.close()
    assert [one.end for one in Store(path).sessions()] == [End("poweroff", T0)]


# --- expiry --------------------------------------------------------------------------------------


def test_a_session_goes_when_its_data_is_older_than_the_last_tier(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now_ms = T0
    span_ms = TIERS[-1].span_ms
    with StoreWriter(path, TIERS, now_ms=lambda: now_ms) as store:
        for instance, start_ms, count in [("a", T0 - 1, 30), ("a", T0 + 40_000, 0), ("b", T0 - 1, 60)]:
            session = store.open(header(PAIR, instance, start_ms))
            session.ring.append(ticks(count, width=2))
            session.close()

        def left() -> list[str]:
            store.room.expire()
            return [one.key.replace(str(T0 + 40_000), "late") for one in Store(path).sessions()]

        everything = [f"a/{T0 - 1}", "a/late", f"b/{T0 - 1}"]
        assert left() == everything
        now_ms = T0 + 29_000 + span_ms
        assert left() == everything  # the last tick is just not older
        assert caplog.text == ""
        now_ms += 1
        with caplog.at_level(logging.INFO):
            assert left() == everything[1:]
        assert "removed, its data is older than 10m" in caplog.text
        now_ms = T0 + 40_000 + span_ms + 1  # without a tick, the start is what counts
        assert left() == everything[2:]
        assert [folder.name for folder in (path / "instances").iterdir()] == ["b"]
        now_ms = T0 + 59_000 + span_ms + 1
        assert left() == []
        assert list((path / "instances").iterdir()) == []


def test_a_damaged_session_goes_by_when_it_was_written_to(path: Path) -> None:
    with StoreWriter(path, TIERS, now_ms=lambda: T0 + TIERS[-1].span_ms) as store:
        session = store.open(header(PAIR))
        session.ring.append(ticks(30, width=2))
        session.close()
        os.truncate(session.path / "tier_0.slab", 100)
        os.utime(session.path / "tier_0.slab", ns=(0, (T0 + 1000) * 1_000_000))
        store.room.expire()
        assert len(Store(path).sessions()) == 1
        os.utime(session.path / "tier_0.slab", ns=(0, (T0 - 1000) * 1_000_000))
        store.room.expire()
    assert Store(path).sessions() == []


def test_expiry_leaves_alone_what_is_not_its_own(path: Path) -> None:
    with StoreWriter(path, now_ms=lambda: 2**53) as store:
        for name in ("instances/vm-1/scripts", "instances/vm-1/77", "elsewhere"):
            (path / name).mkdir(parents=True)
            (path / name / "file").write_text("mine")
        store.open(header(PAIR)).close()
        store.room.expire()
    assert len(list(path.rglob("file"))) == 3
