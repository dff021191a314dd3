"""`--forget`: all data of a session is removed, and nothing else changes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from rondo_tools.errors import EX_DATAERR, EX_TEMPFAIL, RondoError
from rondo_tools.store.forget.client import EX_NOTHING, forget_sessions
from rondo_tools.store.forget.request import RequestFile, new_request, parse_forget
from rondo_tools.store.format.layout import Layout
from rondo_tools.store.reader import Store
from tests.support.faulty_disk import FaultyDisk, KillError
from tests.support.store import mini_reader
from tests.support.store.forget_host import SECRET, TIERS, Host, answers, findings, secrets, traces

FORGET = parse_forget(f"{{{SECRET}}}")


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A store that was written for a while, for tests to copy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: None)
        patch.setattr(os, "fdatasync", lambda fd: None)
        host = Host(tmp_path_factory.mktemp("lived") / "store", 7)
        host.play(30)
    yield host


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.long) for n in range(1, 40))])
def test_other_sessions_do_not_change(tmp_path: Path, seed: int) -> None:
    path, other_path = tmp_path / "store", tmp_path / "other"
    host = Host(path, seed)
    host.play(60)
    shutil.copytree(path, other_path)
    other = host.copy_to(other_path)
    assert secrets(path)
    assert list(traces(path))
    before = answers(path)
    assert len(before) > 5

    forget_sessions(str(path), FORGET)
    assert answers(path) == before
    assert not secrets(path)
    assert not list(traces(path))
    assert not findings(path)

    host.play(40)  # forgotten sessions continue, as new data
    other.play(40)
    assert answers(path, in_order=False) == answers(other_path, in_order=False)
    assert secrets(path)
    assert not findings(path)
    forget_sessions(str(path), FORGET)
    assert answers(path, in_order=False) == answers(other_path, in_order=False)
    assert not list(traces(path))


def faulty(path: Path, seed: int) -> FaultyDisk:
    """A disk on which all present data is synced."""
    disk = FaultyDisk(path, seed)
    disk._synced = {str(file): file.stat().st_size for file in path.rglob("*")}
    return disk


@pytest.mark.heavy
@pytest.mark.parametrize(
    "every", [pytest.param(29, id="some"), pytest.param(1, id="all", marks=pytest.mark.long)]
)
@pytest.mark.parametrize("power", [True, False], ids=["power cut", "kill"])
def test_forgetting_can_be_repeated_after_a_kill_at_any_step(
    tmp_path: Path, lived: Host, every: int, power: bool
) -> None:
    before = answers(lived.path)
    for step in range(0, 10_000, every):
        path = tmp_path / str(step)
        shutil.copytree(lived.path, path)
        disk = faulty(path, step)
        disk.kill_in = step
        with pytest.MonkeyPatch.context() as patch, disk.installed(patch), suppress(KillError):
            forget_sessions(str(path), FORGET)
        was_killed = disk.kill_in < 0
        if power:
            disk.cut_power()
        assert answers(path) == before
        assert not findings(path)
        if step % 2 and was_killed:  # the next writer completes it
            with lived.copy_to(path).open() as store:
                store.keep_house()
            assert answers(path) == before
        with suppress(RondoError):  # there may be nothing left
            forget_sessions(str(path), FORGET)
        assert not list(traces(path)), step
        assert answers(path) == before
        assert not findings(path)
        if not was_killed:
            break
        shutil.rmtree(path)
    assert step > 2 * every


@pytest.mark.parametrize("step", [0, 9, 30, 50])
def test_forgetting_can_be_repeated_after_a_full_disk(tmp_path: Path, lived: Host, step: int) -> None:
    path = tmp_path / "store"
    shutil.copytree(lived.path, path)
    before, disk = answers(path), faulty(path, 0)
    original = disk._step

    def count() -> None:
        disk.is_full = disk.steps >= step
        original()

    with pytest.MonkeyPatch.context() as patch, disk.installed(patch), pytest.raises(RondoError) as error:
        patch.setattr(disk, "_step", count)
        forget_sessions(str(path), FORGET)
    assert "No space left on device" in str(error.value)
    assert error.value.exit_code == EX_TEMPFAIL
    assert answers(path) == before
    assert not findings(path)
    forget_sessions(str(path), FORGET)
    assert answers(path) == before
    assert not list(traces(path))


def test_a_selector_that_matches_nothing_changes_no_file(lived: Host, tmp_path: Path) -> None:
    path = tmp_path / "store"
    shutil.copytree(lived.path, path)
    files = {file: file.read_bytes() for file in path.rglob("*") if file.is_file() and file.name != "lock"}
    with pytest.raises(RondoError) as error:
        forget_sessions(str(path), parse_forget('{instance="nobody"}'))
    assert error.value.exit_code == EX_NOTHING
    assert files == {
        file: file.read_bytes() for file in path.rglob("*") if file.is_file() and file.name != "lock"
    }


@pytest.mark.usefixtures("no_waits")
def test_the_reference_reader_finds_only_the_other_sessions(lived: Host, tmp_path: Path) -> None:
    path = tmp_path / "store"
    shutil.copytree(lived.path, path)
    intervals_ms = [tier.interval_ms for tier in TIERS]

    def of_others(found: Mapping[Any, Any]) -> dict[Any, Any]:
        return {key: one for key, one in found.items() if "z" not in str(key).replace("zeb'", "")}

    ticks, coarse, described = mini_reader.read(path, intervals_ms)
    forget_sessions(str(path), FORGET)
    assert repr(mini_reader.read(path, intervals_ms)) == repr(
        (of_others(ticks), [of_others(tier) for tier in coarse], of_others(described))
    )


@pytest.mark.usefixtures("no_waits")
def test_a_reader_keeps_the_old_files_that_it_has_open(lived: Host, tmp_path: Path) -> None:
    """Files are replaced, never changed: an answer is from before or from after."""
    path = tmp_path / "store"
    shutil.copytree(lived.path, path)
    store = Store(path)
    store.recent()
    old = [one for one in store.sessions() if one.key in secrets(path)]
    before = [[one.rows(tier).values.tobytes() for tier in range(len(TIERS))] for one in old]
    assert before
    forget_sessions(str(path), FORGET)
    assert [[one.rows(tier).values.tobytes() for tier in range(len(TIERS))] for one in old] == before
    assert not {one.key for one in store.sessions()} & {one.key for one in old}
    assert store.arrivals() == ([], []), "nothing of the others is news"


def test_files_keep_their_owner_and_mode(lived: Host, tmp_path: Path) -> None:
    """So root may use --forget on the store of a service."""
    path = tmp_path / "store"
    shutil.copytree(lived.path, path)
    owner = (1234, 4321) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    files = [file for file in path.rglob("*") if file.is_file() and file.name != "lock"]
    for file in files:
        file.chmod(0o604)
        os.chown(file, *owner)
    forget_sessions(str(path), FORGET)
    for file in (one for one in path.rglob("*") if one.is_file() and one.name != "lock"):
        found = file.stat()
        assert (found.st_mode & 0o777, found.st_uid, found.st_gid) == (0o604, *owner), file


@pytest.mark.usefixtures("no_waits")
def test_damaged_frames_of_a_session_are_removed(lived: Host, tmp_path: Path) -> None:
    """Damaged bytes that no reader takes for data may still have names and values."""
    path = tmp_path / "store"
    shutil.copytree(lived.path, path)
    journals = sorted((path / "tier_0").iterdir())
    for file in journals:
        data = bytearray(file.read_bytes())
        at = data.find(b"zebra-vm")
        if at > 0:
            data[at - 3] ^= 1  # in the SESSION frame: its CRC is wrong
            file.write_bytes(bytes(data))
    with journals[-1].open("ab") as torn:  # a frame that is not whole, at the end
        torn.write(journals[-1].read_bytes()[40:140] + b"zebra" * 20)
    assert {what for _, what in findings(path)}
    count = len(findings(path))
    others = answers(path)
    forget_sessions(str(path), FORGET)
    assert not list(traces(path, (b"zebra", b"z3bra")))
    assert answers(path) == others
    assert len(findings(path)) <= count


def test_an_unreadable_file_is_reported(
    lived: Host, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "store"
    shutil.copytree(lived.path, path)
    file = sorted((path / "tier_1").iterdir())[0]
    file.write_bytes(b"\0" * 40 + file.read_bytes()[40:])
    with pytest.raises(RondoError, match="not all files could be read") as error:
        forget_sessions(str(path), FORGET)
    assert error.value.exit_code == EX_DATAERR
    assert f"{file}: not a file of a rondo store; it may still have some of the data" in caplog.text
    assert {where for where, _ in traces(path)} == {f"tier_1/{file.name}"}


@pytest.mark.usefixtures("no_waits")
def test_dead_letters_of_a_session_are_removed(lived: Host, tmp_path: Path) -> None:
    path = tmp_path / "store"
    shutil.copytree(lived.path, path)
    line = '{"at_ms": 1, "series": "%s", "samples": 2, "answer": "out of order"}\n'
    kept = [line % 'a{instance=\\"vm-1\\",tenant=\\"acme\\"}', "not a line of ours: zoo\n"]
    gone = line % 'a{instance=\\"zebra-vm\\",tenant=\\"zebra\\"}'
    for name in ("rejected_a.jsonl", "rejected_a.jsonl.1", "rejected_b.c.jsonl"):
        (path / name).write_text(kept[0] + gone + kept[1])
    forget_sessions(str(path), FORGET)
    for name in ("rejected_a.jsonl", "rejected_a.jsonl.1", "rejected_b.c.jsonl"):
        lines = (path / name).read_text().splitlines(keepends=True)
        assert lines == [kept[0], " " * (len(gone) - 1) + "\n", kept[1]]
    assert not list(traces(path))


def test_the_reserve_is_freed_on_a_full_disk(lived: Host, tmp_path: Path) -> None:
    path = tmp_path / "store"
    shutil.copytree(lived.path, path)
    before, disk = answers(path), faulty(path, 0)
    with (
        pytest.MonkeyPatch.context() as patch,
        disk.installed(patch),
        lived.copy_to(path).open() as store,
    ):
        store.upkeep.keep_reserve()
        store.upkeep.look()
        reserve = Layout(path).reserve
        assert reserve.stat().st_size > 1 << 20
        disk.capacity = disk.used() + 2000
        assert RequestFile(Layout(path)).leave(new_request(FORGET))
        answer = store.forgetter.serve()
        assert answer is not None
        assert answer.error == ""
        assert answer.sessions >= 3
        assert reserve.exists(), "it is allocated again"
    assert answers(path) == before
    assert not list(traces(path))
