"""Damage: what a command had to leave out, reported once each, and its exit status in the end.

Strategy: damage does not keep the rest of a store from being read. So whoever reads reports what it
leaves out here, as it meets it, and the command ends with `finish`, when the rest has been printed.
"""

from __future__ import annotations

import logging

from rondo_tools.errors import StoreError
from rondo_tools.query.names import counted
from rondo_tools.store.reader import Rows, Session, Store

log = logging.getLogger(__name__)


class Damage:
    """Of the sessions of `store`, as its last look found them: those that cannot be read, and torn rows."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._unread: set[str] = set()
        self._torn: dict[str, int] = {}  # the most rows, by session

    def unread(self, session: Session, exc: Exception) -> None:
        """A session could not be read; one that was removed meanwhile is no damage."""
        if session.key not in self._unread and not session.is_gone():
            self._unread.add(session.key)
            log.warning("%s", exc)

    def torn(self, session: Session, rows: Rows) -> None:
        """`rows` were read of a session, without those that are torn."""
        if rows.skipped > self._torn.get(session.key, 0):
            self._torn[session.key] = rows.skipped
            log.warning("%s: %s left out", session.key, counted(rows.skipped, "torn row"))

    def finish(self) -> None:
        """Raise StoreError if anything was left out."""
        left_out = []
        if torn := sum(self._torn.values()):
            left_out.append(counted(torn, "torn row"))
        if self._unread:
            left_out.append(f"{counted(len(self._unread), 'session')} that cannot be read")
        if self._store.unread:
            left_out.append(f"{counted(len(self._store.unread), 'path')} that cannot be read")
        if left_out:
            raise StoreError(f"left out: {', '.join(left_out)} (see rondo-query STORE check)")
