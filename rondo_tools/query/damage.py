"""Damage: reports each place that a command had to leave out once, and sets its exit status.

Strategy: damage does not prevent reading the rest of a store. The store's reader notes what it skips; the
command calls `finish` after it has printed the rest. A damaged frame may have had ticks of any session, so
the message names the frame, by file and offset.
"""

from __future__ import annotations

import logging

from rondo_tools.errors import StoreError
from rondo_tools.query.names import counted
from rondo_tools.store.format.records import SessionKey
from rondo_tools.store.reader import Session, Store

log = logging.getLogger(__name__)

EX_NOTHING = 1  # like grep: no error, and nothing to show

_MOST_NAMED = 10


class Damage:
    """The damage of `store`: unreadable files and sessions, and damaged frames."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._unread: set[SessionKey] = set()

    def unread(self, session: Session, exc: Exception) -> None:
        """A session could not be read."""
        if session.key not in self._unread:
            self._unread.add(session.key)
            log.warning("%s", exc)

    def finish(self) -> None:
        """Raise StoreError if anything was left out."""
        left_out = []
        damaged = list(self._store.damaged())
        for path, at, what in damaged[:_MOST_NAMED]:
            log.warning("%s: byte %d: %s; left out", path, at, what)
        if damaged:
            left_out.append(counted(len(damaged), "damaged place"))
        if self._unread:
            left_out.append(f"{counted(len(self._unread), 'session')} that cannot be read")
        if unread := self._store.unread:
            left_out.append(f"{counted(len(unread), 'file')} that cannot be read")
        if left_out:
            raise StoreError(f"left out: {', '.join(left_out)} (see rondo-query STORE check)")
