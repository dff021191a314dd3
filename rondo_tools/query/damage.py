"""Damage: what a command had to leave out, reported once each, and its exit status in the end.

Strategy: damage does not keep the rest of a store from being read. The store's reader notes what it
steps over; the command ends with `finish`, when the rest has been printed. A damaged frame may have
held ticks of any session, so the frame is named, by its file and place.
"""

from __future__ import annotations

import logging

from rondo_tools.errors import StoreError
from rondo_tools.query.names import counted
from rondo_tools.store.reader import Session, Store

log = logging.getLogger(__name__)

EX_NOTHING = 1  # like grep: all is well, and there is nothing to show

_MOST_NAMED = 10


class Damage:
    """Of `store`: the files and sessions that cannot be read, and damaged frames."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._unread: set[str] = set()

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
