"""The file `ends`: ended sessions that are not acknowledged yet, for the next watcher.

Strategy: the file is a stream with the header, the last tick and the end of each session. A session is
appended before it is sent. When all have been acknowledged the file is emptied, so it is usually short; while
some wait, it is rewritten when most of it is obsolete. The next watcher sends what it finds; the store passes
over what it has already.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import NamedTuple

from rondo_tools.errors import StreamError
from rondo_tools.stream import Decoder, End, Header, Tick

_log = logging.getLogger(__name__)

_NAME = "ends"
_SPARE = 100  # obsolete sessions that the file may have


class Ended(NamedTuple):
    """A session that is over; `tick` is its last one, if it had any."""

    header: Header
    tick: Tick | None
    end: End


class EndsFile:
    """The file. The caller identifies a session by any hashable name."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _NAME
        self._waiting: dict[Hashable, bytes] = {}
        self._entries = 0  # in the file
        self._fd = -1
        self._failed = False

    def take(self) -> list[Ended]:
        """The sessions that the previous watcher left, to be sent and added again."""
        try:
            found = list(_sessions(self._path.read_bytes()))
        except FileNotFoundError:
            return []
        except OSError as exc:
            self._fail(exc)
            return []
        self._entries = len(found)
        return found

    def add(self, name: Hashable, session: bytes) -> None:
        """Append a session, as a stream, before it is sent."""
        self._waiting[name] = session
        try:
            self._append(session)
        except OSError as exc:
            self._fail(exc)

    def drop(self, name: Hashable) -> None:
        """Remove a session that was acknowledged or given up."""
        if self._waiting.pop(name, None) is None:
            return
        if not self._waiting or self._entries > 2 * len(self._waiting) + _SPARE:
            self.write()

    def write(self) -> None:
        """Rewrite the file with the waiting sessions."""
        temporary = self._path.with_name(f".{_NAME}")
        try:
            if not self._waiting and self._fd >= 0:
                os.ftruncate(self._fd, 0)
            else:
                self.close()
                temporary.write_bytes(b"".join(self._waiting.values()))
                temporary.replace(self._path)
        except OSError as exc:
            self._fail(exc)
        else:
            self._entries = len(self._waiting)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, session: bytes) -> None:
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        size = os.fstat(self._fd).st_size
        if os.write(self._fd, session) < len(session):  # half a session would hide the next ones
            os.ftruncate(self._fd, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._entries += 1

    def _fail(self, exc: OSError) -> None:
        if not self._failed:
            _log.warning("%s: %s: a crash may lose undelivered ends", self._path, exc.strerror)
        self._failed = True


def _sessions(data: bytes) -> Iterator[Ended]:
    """The complete sessions, up to the first damaged one."""
    header: Header | None = None
    tick: Tick | None = None
    try:
        for event in Decoder().feed(data):
            if isinstance(event, Header):
                header, tick = event, None
            elif isinstance(event, Tick):
                tick = event
            elif header is not None:
                yield Ended(header, tick, event)
                header = None
    except StreamError as exc:
        _log.warning("ended sessions are lost: %s", exc)
