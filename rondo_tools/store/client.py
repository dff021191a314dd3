"""One producer's connection.

Strategy: look, store, take. What the socket holds is first looked at (MSG_PEEK), stored, and only
then taken from it. A producer that has ended takes our close for the acknowledgement that all is
stored, but for ticks that we refused: those we name before it. A socket that is closed with something
left in it, by us or by the kernel that cleans up after a kill -9, breaks the connection instead. So a
crash can never be mistaken for an acknowledgement.

A full disk needs no buffer beyond one such look: the rest waits in the socket, and the producer.
"""

from __future__ import annotations

import socket

from rondo_tools import stream
from rondo_tools.store.ingest import Ingest

READ = 1 << 16  # bytes at once, so that nobody holds up the others


class Client:
    """A connection and its stream. `waiting_since` is when it began to owe us something, else 0."""

    __slots__ = ("_looked_at", "_socket", "ingest", "waiting_since")

    def __init__(self, connection: socket.socket, ingest: Ingest, now: float) -> None:
        connection.setblocking(False)
        self.ingest = ingest
        self.waiting_since = now
        self._socket = connection
        self._looked_at = 0

    @property
    def name(self) -> str:
        """For people: which descriptor of ours, and which instance as far as we know."""
        session = self.ingest.session
        of = "" if session is None else f" ({session.header.instance})"
        return f"connection {self.fileno()}{of}"

    @property
    def is_replaced(self) -> bool:
        """Whether another connection has taken the session over."""
        session = self.ingest.session
        return session is not None and session.is_replaced

    @property
    def is_behind(self) -> bool:
        """Whether it is us who have something to do."""
        return self.ingest.is_pending

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self, now: float) -> bool:
        """Store what has arrived; False when all has.

        Raises RondoError for a stream that cannot be stored. Raises OSError if the connection is
        broken, ConnectionError then, or if there is no room: then `store` tries again.
        """
        if self.ingest.is_pending:
            self.store(now)
            return True
        try:
            data = self._socket.recv(READ, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError as exc:  # ETIMEDOUT, EHOSTUNREACH: a peer that has vanished is no error of the store
            raise ConnectionError(exc.errno, exc.strerror) from exc
        if not data:
            self.ingest.end_of_input()
            self._tell_refused()
            return False
        self._looked_at = len(data)
        self.ingest.feed(data)
        self._take(now)
        return True

    def store(self, now: float) -> None:
        """Store more of what was looked at; after an OSError, too."""
        self.ingest.store()
        self._take(now)

    def close(self) -> None:
        self.ingest.close()
        self._socket.close()

    def _tell_refused(self) -> None:
        if refused := self.ingest.refused:
            try:
                # Nothing was sent before it, so there is room. A producer that is gone needs no answer.
                self._socket.send(stream.encode_refused(refused))
            except OSError:
                pass

    def _take(self, now: float) -> None:
        if self.ingest.is_pending:
            return
        self._socket.recv(self._looked_at)
        if not self.ingest.is_waiting:
            self.waiting_since = 0.0
        elif not self.waiting_since or self.ingest.is_moving(self._looked_at):
            self.waiting_since = now
        self._looked_at = 0
