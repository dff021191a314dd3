"""`forget.json`: a request to forget sessions, in a store's folder, for the holder of its lock.

    {"selector": "{instance=\\"vm-1\\"}", "key": "…", "begun": false}     the client writes the request,
    {"sessions": 2, "rows": 1200, …}                                     and the answer replaces it

Strategy: a request takes write access to the folder: no socket accepts one. The request stays until it is
answered, so if the process that serves it is killed, the next one repeats it. The answer has no names. The
client removes it.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from rondo_tools import files
from rondo_tools.errors import EX_OK, EX_TEMPFAIL, EX_UNAVAILABLE, StoreError, UsageError
from rondo_tools.selector import NAME, Selector, parse_selector
from rondo_tools.store.format.layout import Layout
from rondo_tools.store.reserve import FULL
from rondo_tools.units import format_count

log = logging.getLogger(__name__)

_KEY_SIZE = 16
_MAX = 1 << 16  # bytes


class Request(NamedTuple):
    """`key` makes the pseudonyms of one job; `is_begun`: a process has accepted it."""

    selector: Selector
    key: bytes
    is_begun: bool = False

    def pack(self) -> bytes:
        document = {"selector": str(self.selector), "key": self.key.hex(), "begun": self.is_begun}
        return json.dumps(document).encode()


@dataclass(slots=True)
class Answer:
    """The numbers of removed data; `connected` producers may continue to send. `cursors` have a batch in
    flight with some of the data; `sending` are pushes that run. `error` and `status` are for the client."""

    sessions: int = 0
    rows: int = 0
    files: int = 0
    connected: int = 0
    cursors: list[str] = field(default_factory=list)
    sending: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    error: str = ""
    status: int = EX_OK

    def __str__(self) -> str:
        rows, some = format_count(self.rows, "row"), format_count(self.files, "file")
        return f"forgot {format_count(self.sessions, 'session')}: {rows} in {some}"


def parse_forget(text: str) -> Selector:
    """A selector of whole sessions. Raises UsageError for one of all sessions, or of single series."""
    found = parse_selector(text)
    if any(matcher.label == NAME for matcher in found.matchers):
        raise UsageError(
            f"{text!r} names a metric, and sessions are forgotten as a whole: select them by instance and "
            'labels, such as {instance="vm-1"}'
        )
    if all(matcher.matches("") for matcher in found.matchers):
        raise UsageError(
            f"{text!r} may mean every session: give it a matcher that an absent label does not meet, such as "
            '{instance="vm-1"}. To forget all, remove the store\'s folder'
        )
    return found


def new_request(selector: Selector) -> Request:
    return Request(selector, os.urandom(_KEY_SIZE))


class RequestFile:
    """The request in the folder at `layout`."""

    def __init__(self, layout: Layout) -> None:
        self._path = layout.forget_json

    def leave(self, request: Request) -> bool:
        """Write a request; False if there is one already. Raises StoreError if the folder is not writable."""
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            return False
        except OSError as exc:
            raise self._unavailable(exc) from exc
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(request.pack())
        except OSError as exc:
            self.remove()
            raise self._unavailable(exc) from exc
        return True

    def read(self) -> Request | Answer | None:
        """The request or answer; None if there is none, or not yet. Raises StoreError for anything else."""
        if not self._path.exists():  # the usual case; it takes no descriptor
            return None
        try:
            with self._path.open("rb") as file:
                data = file.read(_MAX)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise self._unavailable(exc) from exc
        if not data:
            return None  # it is being written
        try:
            document: dict[str, Any] = json.loads(data)
            if "selector" not in document:
                return Answer(**document)
            selector = parse_forget(document["selector"])
            return Request(selector, bytes.fromhex(document["key"]), bool(document["begun"]))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, UsageError) as exc:
            raise StoreError(f"{self._path}: not a request to forget ({exc!s:.200}); remove it") from exc

    def begin(self, request: Request) -> None:
        """Mark the request as accepted."""
        self._put(request._replace(is_begun=True).pack())

    def answer(self, answer: Answer) -> None:
        """Replace the request by the answer; no effect if the request was withdrawn."""
        if self._path.exists():
            self._put(json.dumps(asdict(answer)).encode())

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)

    def _put(self, data: bytes) -> None:
        try:
            files.replace(self._path, data, like=self._path)
        except OSError as exc:
            log.debug("%s: %s", self._path, exc.strerror)
            try:
                with self._path.open("r+b") as file:  # a full disk still takes writes in place
                    file.write(data.ljust(self._path.stat().st_size))
            except OSError as exc_again:
                log.warning("%s: %s", self._path, exc_again.strerror)

    def _unavailable(self, exc: OSError) -> StoreError:
        status = EX_TEMPFAIL if exc.errno in FULL else EX_UNAVAILABLE
        return StoreError(f"{self._path}: {files.why(exc, self._path)}", exit_code=status)
