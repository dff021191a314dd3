"""The cursor: how far delivery has come, and the batch in flight, in one JSON file in the store.

`store.format.cursor` has the file's format. The batch in flight is

    {"rows": 1250, "protocol": "1.0",
     "pieces": [{"body": "the request's exact bytes, base64", "state": "maybe", "unclear": true}, ...]}

Strategy: save a batch before it is sent, and the progress after it was accepted. If the process is
killed between the two, the next one finds the batch in flight, byte for byte, and settles it. The file
keeps the bodies, because rows may be removed and labels may change before the batch is settled. Then
`rows` of the slice are done.

A batch in flight is a list of pieces, at first one. While the batch is reconciled, the file is replaced
before each request: it has the remaining pieces, of which the first is being sent. `reconcile` explains
the states of a piece.

The file is replaced as a whole. An invalid file is an error: a fresh start would send everything again. A
push that holds a cursor touches its file, even if it delivers nothing: so the store knows the active
cursors.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import os
from pathlib import Path
from typing import Any, NamedTuple

from rondo_tools import files
from rondo_tools.errors import EX_DATAERR, EX_UNAVAILABLE, PushError
from rondo_tools.push.encoding import PROTOCOLS
from rondo_tools.push.encoding.body import Body
from rondo_tools.push.piece import Piece, State
from rondo_tools.store.format.cursor import Progress, pack_progress, parse_progress
from rondo_tools.store.format.layout import Layout

# Optional fields of a piece in the file; false and 0 are left out.
_FLAGS = ("unclear", "is_fresh", "singly")
_NUMBERS = ("witness", "asked", "bound_ms")


class InFlight(NamedTuple):
    """A batch that is not settled, in at least one piece; then `rows` of the slice are done."""

    rows: int
    pieces: tuple[Piece, ...]


class LockedError(PushError):
    """Another process holds the cursor."""


def lock(layout: Layout, name: str, *, wait: bool = False) -> int:
    """Lock a cursor, which need not exist, and return the descriptor to close.

    Raises LockedError if another push holds it; with `wait`, waits for that push to end. Raises PushError.
    """
    path = layout.cursor_lock(name)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as exc:
        raise _unavailable(path, exc) from exc
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BaseException as exc:
        os.close(fd)
        if isinstance(exc, BlockingIOError):
            raise LockedError(
                f"another rondo-push is delivering with this cursor ({path} is locked)"
            ) from None
        if isinstance(exc, OSError):
            raise PushError(
                f"{path} cannot be locked: {exc.strerror}. The store must be on a file system with "
                "flock(2); on NFS, lockd must run on both sides",
                exit_code=EX_UNAVAILABLE,
            ) from exc
        raise
    return fd


class Cursor:
    """An open cursor, locked until it is closed. `save` writes `progress` and `in_flight`.

    Raises LockedError if another push holds it, and PushError (exit status 65) if its file is invalid.
    With `wait`, waits for the other push to end. With `peek`, takes no lock: the cursor is read-only.
    """

    def __init__(self, store: Path, name: str, *, wait: bool = False, peek: bool = False) -> None:
        layout = Layout(store)
        self.name = name
        self.path = layout.cursor(name)
        self.progress = Progress()
        self.in_flight: InFlight | None = None
        self.is_saved = True  # whether the last `save` succeeded
        self._lock_fd = -1
        if peek:
            self._load()
            return
        self._lock_fd = lock(layout, name, wait=wait)
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the lock. Unsaved changes are lost."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def __enter__(self) -> Cursor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def belongs_to(self, store_id: str, tier: int, selector: str) -> None:
        """Bind the cursor to this store, tier and selector. Raises PushError if it was made for others.

        Its position is behind samples that the other tier or selector has not sent.
        """
        progress = self.progress
        if progress.store and (progress.tier, progress.selector) != (tier, selector):
            made = f"--tier {progress.tier}" + (
                f" --match '{progress.selector}'" if progress.selector else ""
            )
            raise PushError(
                f"{self.path}: made with {made}; another tier or selector needs its own: --cursor NAME",
                exit_code=EX_DATAERR,
            )
        progress.store, progress.tier, progress.selector = store_id, tier, selector

    def save(self) -> None:
        """Replace the file durably. Raises PushError if that fails."""
        self.is_saved = False
        in_flight = None if self.in_flight is None else _in_flight_to_json(self.in_flight)
        try:
            files.replace(self.path, pack_progress(self.progress, in_flight))
        except OSError as exc:
            raise _unavailable(self.path, exc) from exc
        self.is_saved = True

    def touch(self) -> None:
        """Mark the cursor as active, even if there is nothing to deliver."""
        try:
            os.utime(self.path)
        except OSError:
            pass  # there is no file yet, or the disk is full; the mark is only a hint

    def _load(self) -> None:
        try:
            self.progress, in_flight = parse_progress(self.path.read_bytes())
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
            f"{self.path}: the cursor cannot be read: {why}. Delivery does not start afresh by itself; "
            f"restore a copy, or remove the cursor with --cursor {self.name} --drop: then delivery begins "
            "again with all of tier 0",
            exit_code=EX_DATAERR,
        )


def _unavailable(path: Path, exc: OSError) -> PushError:
    return PushError(f"{path}: {files.why(exc, path)}", exit_code=EX_UNAVAILABLE)


def _in_flight_to_json(in_flight: InFlight) -> dict[str, Any]:
    return {
        "rows": in_flight.rows,
        "protocol": in_flight.pieces[0].body.protocol,
        "pieces": [_piece_to_json(piece) for piece in in_flight.pieces],
    }


def _in_flight_from_json(value: object) -> InFlight:
    item = _a_map(value, "'in_flight'")
    rows, protocol, pieces = item["rows"], item["protocol"], item["pieces"]
    if (
        type(rows) is not int
        or rows < 0
        or protocol not in PROTOCOLS
        or type(pieces) is not list
        or not pieces
    ):
        raise ValueError("'in_flight' has no valid 'rows', 'protocol' and 'pieces'")
    return InFlight(rows, tuple(_piece_from_json(piece, protocol) for piece in pieces))


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
        raise ValueError("a piece in flight has no valid 'body', 'state' or other fields")
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
