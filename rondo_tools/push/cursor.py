"""The cursor: how far delivery has come, in one JSON file in the store.

    {"version": 1,
     "begun_ms": 1732299700000,
     "sessions": {"vm-1/1732300000123": {"delivered_ms": 1732300044000, "ended": false}, ...},
     "in_flight": null | {"sessions": {... as they will be after success},
                          "protocol": "1.0",
                          "pieces": [{"body": "the request's exact bytes, base64", "state": "maybe",
                                      "unclear": true}, ...]}}

Strategy: write what is about to be sent before it is sent, and what was delivered after it was
accepted. Whatever kills the process in between, the next one finds either the batch in flight,
byte for byte, and settles it, or a batch that is done. The bodies themselves are kept, so that settling
needs neither the rows (overwritten by then) nor the labels (changed by then) again.

A batch in flight is a list of pieces, at first one. While it is settled, the file is replaced before
each request: it says what is left, and that the first piece is under way. What a piece's state means
is in `piece` and `reconcile`. `begun_ms` is when delivery began: of sessions without a mark, what is later is
owed, from a coarser tier if need be.

The file is replaced whole: temporary file, fsync, rename, fsync of the folder. A file that is not
understood is an error, never a fresh start: that would send everything again.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rondo_tools.errors import EX_DATAERR, EX_UNAVAILABLE, PushError, UsageError
from rondo_tools.push.encoding.body import PROTOCOLS, Body
from rondo_tools.push.model import Mark
from rondo_tools.push.piece import Piece, State

VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
# Fields of a piece that are in the file if they are not false or 0.
_FLAGS = ("unclear", "is_fresh", "singly")
_NUMBERS = ("witness", "asked", "bound_ms")


class InFlight(NamedTuple):
    """A batch that is not settled; `marks` hold once it is. There is at least one piece."""

    marks: Mapping[str, Mark]
    pieces: tuple[Piece, ...]


class LockedError(PushError):
    """Another process holds the cursor."""


def parse_name(text: str) -> str:
    """A cursor's name: part of a file's name. Raises UsageError."""
    if not _NAME.fullmatch(text):
        raise UsageError(f"{text!r} is no name for a cursor: letters, digits, '_', '.' and '-', at most 64")
    return text


class Cursor:
    """An open cursor, locked until it is closed.

    Raises LockedError if another push has it, and PushError (exit status 65) if its file is not
    understood. With `wait`, waits for the other push to end; with `peek`, takes no lock: then
    it is for looking only.
    """

    def __init__(self, store: Path, name: str, *, wait: bool = False, peek: bool = False) -> None:
        self.name = name
        self.path = store / f"cursor_{name}.json"
        self.in_flight: InFlight | None = None
        self.begun_ms: int | None = None  # not begun
        self.is_saved = True  # whether the last `save` succeeded
        self._marks: dict[str, Mark] = {}
        self._lock_fd = -1
        if peek:
            self._load()
            return
        lock = store / f"cursor_{name}.lock"
        try:
            self._lock_fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as exc:
            raise _unavailable(lock, exc) from exc
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            self._load()
        except BlockingIOError:
            self.close()
            raise LockedError(
                f"another rondo-push is delivering with this cursor ({lock} is locked)"
            ) from None
        except OSError as exc:
            self.close()
            raise PushError(
                f"{lock} cannot be locked: {exc.strerror}. The store has to be on a file system with "
                "flock(2); on NFS, lockd has to run on both sides",
                exit_code=EX_UNAVAILABLE,
            ) from exc
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the lock back. What was not saved is forgotten."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def __enter__(self) -> Cursor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def mark(self, session: str) -> Mark:
        """Where a session is; Mark() if it is not known."""
        return self._marks.get(session, Mark())

    def marks(self) -> Mapping[str, Mark]:
        """All sessions known, also ones that have left the store."""
        return self._marks

    def advance(self, marks: Mapping[str, Mark]) -> None:
        """Set the marks of some sessions (in memory, until `save`)."""
        self._marks.update(marks)

    def forget(self, gone: Iterable[str]) -> None:
        """Drop the marks of sessions that have left the store (in memory, until `save`)."""
        for session in gone:
            del self._marks[session]

    def save(self) -> None:
        """Replace the file, durably. Raises PushError if that cannot be done."""
        document = {
            "version": VERSION,
            "begun_ms": self.begun_ms,
            "sessions": _marks_to_json(self._marks),
            "in_flight": self.in_flight and _in_flight_to_json(self.in_flight),
        }
        self.is_saved = False
        temporary = self.path.with_name(f".{self.path.name}.new")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(json.dumps(document))  # `dump` goes to and fro for each piece of it
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as exc:
            raise _unavailable(self.path, exc) from exc
        self.is_saved = True

    def _load(self) -> None:
        try:
            document = _a_map(json.loads(self.path.read_bytes()), "the whole of it")
            if document["version"] != VERSION or type(document["version"]) is not int:
                raise ValueError(f"it is not version {VERSION} of a cursor")
            self.begun_ms = document.get("begun_ms")
            if self.begun_ms is not None and (type(self.begun_ms) is not int or self.begun_ms < 0):
                raise ValueError("'begun_ms' is not a time")
            self._marks = _marks_from_json(document["sessions"])
            in_flight = document["in_flight"]
            if in_flight is not None:
                self.in_flight = _in_flight_from_json(in_flight)
        except FileNotFoundError:
            return
        except OSError as exc:
            raise _unavailable(self.path, exc) from exc
        except KeyError as exc:
            raise self._not_understood(f"{exc} is missing") from exc
        except (ValueError, RecursionError) as exc:
            raise self._not_understood(str(exc)) from exc

    def _not_understood(self, why: str) -> PushError:
        return PushError(
            f"{self.path}: the cursor is not understood: {why}. Delivery does not start afresh by itself; "
            "put a copy back, or remove the file to send again all that tier 0 holds",
            exit_code=EX_DATAERR,
        )


def _unavailable(path: Path, exc: OSError) -> PushError:
    return PushError(f"{path}: {exc.strerror}", exit_code=EX_UNAVAILABLE)


def _marks_to_json(marks: Mapping[str, Mark]) -> dict[str, dict[str, Any]]:
    return {
        session: {"delivered_ms": delivered_ms, "ended": ended}
        for session, (delivered_ms, ended) in marks.items()
    }


def _marks_from_json(value: object) -> dict[str, Mark]:
    marks = {}
    for session, item in _a_map(value, "'sessions'").items():
        mark = _a_map(item, f"the mark of {session!r}")
        delivered_ms, ended = mark["delivered_ms"], mark["ended"]
        if type(delivered_ms) is not int or not 0 <= delivered_ms < 2**63 or type(ended) is not bool:
            raise ValueError(f"the mark of {session!r} has no valid 'delivered_ms' and 'ended'")
        marks[session] = Mark(delivered_ms, ended)
    return marks


def _in_flight_to_json(in_flight: InFlight) -> dict[str, Any]:
    return {
        "sessions": _marks_to_json(in_flight.marks),
        "protocol": in_flight.pieces[0].body.protocol,
        "pieces": [_piece_to_json(piece) for piece in in_flight.pieces],
    }


def _in_flight_from_json(value: object) -> InFlight:
    item = _a_map(value, "'in_flight'")
    protocol, pieces = item["protocol"], item["pieces"]
    if protocol not in PROTOCOLS or type(pieces) is not list or not pieces:
        raise ValueError("'in_flight' has no valid 'protocol' and 'pieces'")
    return InFlight(
        _marks_from_json(item["sessions"]), tuple(_piece_from_json(piece, protocol) for piece in pieces)
    )


def _piece_to_json(piece: Piece) -> dict[str, Any]:
    body = base64.b64encode(piece.body.data).decode()
    shown: dict[str, Any] = {"body": body, "state": piece.state.value}
    rest = {name: getattr(piece, name) for name in (*_FLAGS, *_NUMBERS)}
    return shown | {name: value for name, value in rest.items() if value}


def _piece_from_json(value: object, protocol: str) -> Piece:
    item = _a_map(value, "a piece in flight")
    body, state = item["body"], item["state"]
    flags = {name: item.get(name, False) for name in _FLAGS}
    numbers = {name: item.get(name, 0) for name in _NUMBERS}
    if (
        type(body) is not str
        or state not in [one.value for one in State]
        or any(type(flag) is not bool for flag in flags.values())
        or any(type(number) is not int or not 0 <= number < 2**63 for number in numbers.values())
    ):
        raise ValueError("a piece in flight has no valid 'body', 'state' and what goes with it")
    try:
        data = base64.b64decode(body, validate=True)
    except binascii.Error as exc:
        raise ValueError(f"a body in flight is not base64: {exc}") from exc
    piece = Piece(Body(data, protocol), State(state), **flags, **numbers)
    piece.check()
    return piece


def _a_map(value: object, what: str) -> dict[str, Any]:
    if type(value) is dict:
        return value
    raise ValueError(f"{what} is not a map")
