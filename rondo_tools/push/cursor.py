"""The cursor: how far delivery has come, in one JSON file in the store.

    {"version": 1,
     "begun_ms": 1732299700000,
     "sessions": {"vm-1/1732300000123": {"delivered_ms": 1732300044000, "ended": false}, ...},
     "in_flight": null | {"sessions": {... as they will be after success},
                          "body": "the request's exact bytes, base64", "split": false,
                          "protocol": "1.0"}}

Strategy: write what is about to be sent before it is sent, and what was delivered after it was
accepted. Whatever kills the process in between, the next one finds either the batch in flight,
byte for byte, and settles it, or a batch that is done. The body itself is kept, so that settling
needs neither the rows (overwritten by then) nor the labels (changed by then) again. `split` says
that the batch has been sent in pieces, so that it may have landed in part; `protocol`, which
remote-write the body is of (1.0, where it is missing). `begun_ms` is when
delivery began: of sessions without a mark, what is later is owed, from a coarser tier if need be.

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

VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Mark(NamedTuple):
    """A session's place: rows up to `delivered_ms` are dealt with; `ended`, so is its end."""

    delivered_ms: int = 0
    ended: bool = False


class InFlight(NamedTuple):
    """A batch whose outcome is not known; `marks` hold once it is."""

    marks: Mapping[str, Mark]
    body: bytes
    split: bool = False
    protocol: str = "1.0"


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
            "in_flight": self.in_flight
            and {
                "sessions": _marks_to_json(self.in_flight.marks),
                "body": base64.b64encode(self.in_flight.body).decode(),
                "split": self.in_flight.split,
                "protocol": self.in_flight.protocol,
            },
        }
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


def _in_flight_from_json(value: object) -> InFlight:
    item = _a_map(value, "'in_flight'")
    body, split, protocol = item["body"], item["split"], item.get("protocol", "1.0")
    if type(body) is not str or type(split) is not bool or protocol not in ("1.0", "2.0"):
        raise ValueError("'in_flight' has no valid 'body', 'split' and 'protocol'")
    marks = _marks_from_json(item["sessions"])
    try:
        return InFlight(marks, base64.b64decode(body, validate=True), split, protocol)
    except binascii.Error as exc:
        raise ValueError(f"the body in flight is not base64: {exc}") from exc


def _a_map(value: object, what: str) -> dict[str, Any]:
    if type(value) is dict:
        return value
    raise ValueError(f"{what} is not a map")
