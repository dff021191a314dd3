"""Sessions that are over and not acknowledged, for a watcher after us: their last tick, and how they ended.

Strategy: beside the file of the sessions that go on (see `kept`) stands `ends`, a stream: of each session
its header, its last tick and its end. They are appended before they are sent. When all have been acknowledged
the file is emptied, so it is short as a rule; while some wait, it is made anew when most of it is of no use.
A watcher that finds some sends them: what the store has already, it passes over.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import NamedTuple

from rondo_tools.errors import StreamError
from rondo_tools.stream import Decoder, End, Header, Tick

_log = logging.getLogger(__name__)

_NAME = "ends"
_SPARE = 100  # sessions in the file that need not be there


class Ended(NamedTuple):
    """A session that is over. It has no tick if it never had one."""

    header: Header
    tick: Tick | None
    end: End


class EndsFile:
    """The file. A session is known by what its sender calls it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _NAME
        self._waiting: dict[Hashable, bytes] = {}
        self._entries = 0  # in the file
        self._fd = -1
        self._failed = False

    def take(self) -> list[Ended]:
        """What a watcher before us left: to be sent, and added again."""
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
        """Put down a session, as a stream, before it is sent."""
        self._waiting[name] = session
        try:
            self._append(session)
        except OSError as exc:
            self._fail(exc)

    def drop(self, name: Hashable) -> None:
        """It was acknowledged, or given up."""
        if self._waiting.pop(name, None) is None:
            return
        if not self._waiting or self._entries > 2 * len(self._waiting) + _SPARE:
            self.write()

    def write(self) -> None:
        """Make the file anew, of those that wait."""
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
        if os.write(self._fd, session) < len(session):  # half of it would hide what follows
            os.ftruncate(self._fd, size)
            raise OSError(28, "No space left on device")
        self._entries += 1

    def _fail(self, exc: OSError) -> None:
        if not self._failed:
            _log.warning("%s: %s: a crash may lose ends that were not delivered", self._path, exc.strerror)
        self._failed = True


def _sessions(data: bytes) -> Iterator[Ended]:
    """Those that are whole, up to what is damaged."""
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
        _log.warning("sessions that were over are lost: %s", exc)
