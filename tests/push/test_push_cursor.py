"""The cursor: a saved one is loaded again, and an invalid file is an error."""

from __future__ import annotations

import base64
import errno
import fcntl
import json
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rondo_tools.catalog import Series
from rondo_tools.errors import PushError, UsageError
from rondo_tools.prom.proto.remote_write_v1_pb2 import WriteRequest
from rondo_tools.prom.samples import Block, SeriesSet
from rondo_tools.push.cursor import Cursor, InFlight, LockedError
from rondo_tools.push.encoding import PROTOCOLS
from rondo_tools.push.encoding.body import encode
from rondo_tools.push.encoding.v1 import compress, decode
from rondo_tools.push.piece import Piece, State
from rondo_tools.store.format.cursor import Position, Progress
from rondo_tools.store.format.layout import parse_cursor_name

NUMBERS = st.integers(0, 2**53)
POSITIONS = st.builds(Position, NUMBERS, st.binary(min_size=8, max_size=8), NUMBERS)
PROGRESS = st.builds(
    Progress,
    store=st.text("0123456789abcdef", max_size=16),
    tier=st.integers(0, 7),
    selector=st.text(max_size=20),
    begin=st.none() | POSITIONS,
    end=st.none() | POSITIONS,
    slice=NUMBERS,
    done=NUMBERS,
    time_ms=NUMBERS,
    floor_ms=NUMBERS,
    known=st.lists(st.tuples(NUMBERS, st.binary(min_size=8, max_size=8)), max_size=8),
    since_ms=NUMBERS,
    future_ms=NUMBERS,
    coarse=st.none() | st.tuples(st.integers(1, 7), NUMBERS, NUMBERS),
)
ONE = SeriesSet((Series("a", (), "gauge", "", ""),), ((("__name__", "a"), ("instance", "vm")),))
ROWS = [Block(ONE, np.array([1000, 2000, 3000]), np.array([[1.0], [2.0], [3.0]]))]
STATES = [
    {"state": State.CLEAR},
    {"state": State.MAYBE, "unclear": True, "is_fresh": True},
    {"state": State.SINGLES},
    {"state": State.TRIAL, "unclear": True, "asked": 2},
    {"state": State.AGE, "asked": 1, "bound_ms": 2000},
    {"state": State.TOO_OLD, "bound_ms": 2**62},
]


def in_flight(rows: int, protocol: str, states: list[dict[str, Any]]) -> InFlight:
    return InFlight(rows, tuple(Piece(encode(protocol, ROWS, ()), **state) for state in states))


IN_FLIGHT = st.none() | st.builds(
    in_flight, NUMBERS, st.sampled_from(PROTOCOLS), st.lists(st.sampled_from(STATES), min_size=1, max_size=3)
)
SAME_FOLDER = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None
)


@SAME_FOLDER
@given(progress=PROGRESS, in_flight=IN_FLIGHT)
def test_a_saved_cursor_is_loaded_again(
    tmp_path: Path, progress: Progress, in_flight: InFlight | None
) -> None:
    (tmp_path / "cursor_a.json").unlink(missing_ok=True)
    with Cursor(tmp_path, "a") as cursor:
        cursor.progress = progress
        cursor.in_flight = in_flight
        cursor.save()
    with Cursor(tmp_path, "a") as again:
        assert again.progress == progress
        assert again.in_flight == in_flight


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_a_failed_lock_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """As on NFS without lockd."""

    def fails(fd: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fails)
    with pytest.raises(PushError, match=r"cursor_a\.lock.*flock") as caught:
        Cursor(tmp_path, "a")
    assert (caught.value.exit_code, os.strerror(number) in str(caught.value)) == (69, True)


def test_without_a_file_nothing_is_delivered(tmp_path: Path) -> None:
    with Cursor(tmp_path, "a") as cursor:
        assert cursor.progress == Progress()
        assert cursor.in_flight is None
    assert not (tmp_path / "cursor_a.json").exists()


def test_only_one_process_holds_a_cursor(tmp_path: Path) -> None:
    with Cursor(tmp_path, "a"):
        with pytest.raises(LockedError):
            Cursor(tmp_path, "a")
        Cursor(tmp_path, "b").close()
    Cursor(tmp_path, "a").close()


PIECE = {
    "body": base64.b64encode(encode("1.0", ROWS, ()).data).decode(),
    "state": "trial",
    "unclear": True,
    "asked": 1,
}
GOOD: dict[str, Any] = {
    "version": 2,
    "store": "00ff",
    "tier": 0,
    "selector": "",
    "from": [1, "00ff", 40],
    "to": [2, "00ff", 40],
    "slice": 0,
    "done": 3,
    "time_ms": 5,
    "floor_ms": 0,
    "known": [[1, "00ff"]],
    "since_ms": 0,
    "future_ms": 0,
    "coarse": [1, 2, 3],
    "in_flight": {"rows": 3, "protocol": "1.0", "pieces": [PIECE]},
}


def twice() -> str:
    """A body with two samples of the same time."""
    request = decode(encode("1.0", ROWS, ()).data)
    request.timeseries[0].samples[1].timestamp = 1000
    return base64.b64encode(compress(request)).decode()


def broken() -> list[object]:
    """The good document, with one error in each."""
    variants: list[object] = [[], None, 1, "x", {}]
    paths = [(), ("in_flight",)]
    wrong_pieces: tuple[object, ...] = (
        {"state": "trial"}, {"body": PIECE["body"]}, {**PIECE, "body": "AAAA"}, {**PIECE, "body": "=="},
        {**PIECE, "body": base64.b64encode(compress(WriteRequest())).decode()},
        {**PIECE, "body": base64.b64encode(encode("2.0", ROWS, ()).data).decode()},
        {**PIECE, "body": twice()}, {**PIECE, "state": "clean"}, {**PIECE, "unclear": 1},
        {**PIECE, "asked": 3}, {**PIECE, "asked": -1}, {**PIECE, "asked": 1.0}, {**PIECE, "witness": 1},
        {**PIECE, "state": "age", "witness": 1}, {**PIECE, "state": "singles", "asked": 3}, [], "x",
    )  # fmt: skip
    for wrong_piece in wrong_pieces:
        document = json.loads(json.dumps(GOOD))
        document["in_flight"]["pieces"].append(wrong_piece)
        variants.append(document)
    for path in paths:
        keys = GOOD
        for step in path:
            keys = keys[step]
        for key in keys:
            for wrong in ("missing", "x", -1, 1.5, [1]):
                if wrong == "x" and key in ("store", "selector"):
                    continue
                document = json.loads(json.dumps(GOOD))
                at = document
                for step in path:
                    at = at[step]
                if wrong == "missing":
                    del at[key]
                else:
                    at[key] = wrong
                variants.append(document)
    return variants


@pytest.mark.parametrize("document", broken(), ids=lambda value: json.dumps(value)[:60])
def test_an_invalid_document_is_an_error_and_is_kept(tmp_path: Path, document: object) -> None:
    file = tmp_path / "cursor_a.json"
    file.write_text(json.dumps(document))
    with pytest.raises(PushError, match="cursor_a") as caught:
        Cursor(tmp_path, "a")
    assert caught.value.exit_code == 65
    assert json.loads(file.read_text()) == document
    file.write_text(json.dumps(GOOD))
    Cursor(tmp_path, "a").close()  # the lock was released


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"version": 1, "sess'])
def test_invalid_json_is_an_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "cursor_a.json").write_bytes(data)
    with pytest.raises(PushError) as caught:
        Cursor(tmp_path, "a")
    assert caught.value.exit_code == 65


def test_an_interrupted_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Cursor(tmp_path, "a") as cursor:
        cursor.progress.done = 1
        cursor.save()
        before = cursor.path.read_bytes()
        cursor.progress.done = 2
        monkeypatch.setattr(
            Path, "replace", lambda self, target: (_ for _ in ()).throw(OSError(28, "No space"))
        )
        with pytest.raises(PushError, match="No space"):
            cursor.save()
        assert cursor.path.read_bytes() == before


def test_a_save_is_on_disk_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File, then rename, then folder: in this order a power cut does no harm."""
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(fd: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        fsync(fd)

    def note_replace(self: Path, target: Path) -> Path:
        calls.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    with Cursor(tmp_path, "a") as cursor:
        cursor.save()
    assert calls == ["file", "rename", "folder"]


@pytest.mark.parametrize("name", ["", "../x", ".x", "a/b", "a" * 65, "ä"])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        parse_cursor_name(name)
