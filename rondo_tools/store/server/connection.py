"""One producer's connection.

Strategy: look, gather, take. What the socket holds is first looked at (MSG_PEEK) and gathered for the
turn's write, and only taken from it when that is written. A producer that has ended takes our close
for the acknowledgement that all is stored, but for ticks that were refused, which are named before it.
A socket that is closed with something left in it, by us or by the kernel that cleans up after a
kill -9, breaks the connection instead. So a crash can never be mistaken for an acknowledgement.

A full disk needs no buffer beyond one such look: the rest waits in the socket, and the producer.
"""

from __future__ import annotations

import fcntl
import socket
import sys
import termios

from rondo_tools import stream
from rondo_tools.store.intake import Intake
from rondo_tools.store.quota import Quota

READ = 1 << 16  # bytes at once, so that nobody holds up the others


class Connection:
    """A socket and its stream.

    `waiting_since` is when it began to owe us something, else 0. `has_ended` says that its producer
    has sent all, and waits for the acknowledgement.
    """

    __slots__ = ("_looked_at", "_socket", "has_ended", "intake", "quota", "waiting_since")

    def __init__(self, connection: socket.socket, intake: Intake, now: float) -> None:
        connection.setblocking(False)
        self.intake = intake
        self.quota = Quota(now)
        self.waiting_since = now
        self.has_ended = False
        self._socket = connection
        self._looked_at = 0

    @property
    def name(self) -> str:
        """For people: which descriptor of ours, and which instance as far as we know."""
        session = self.intake.session
        return f"connection {self.fileno()}" + ("" if session is None else f" ({session.instance})")

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def unread(self) -> int:
        """How many bytes the socket holds for us."""
        size = fcntl.ioctl(self._socket, termios.FIONREAD, bytes(4))
        return int.from_bytes(size, sys.byteorder)

    def look(self) -> int:
        """Gather what has arrived; how many bytes that is.

        Raises StreamError and StoreError for a stream that cannot be stored, ConnectionError if the
        connection is broken, and OSError if there is no room: then `again` is to be called.
        """
        try:
            data = self._socket.recv(READ, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as exc:  # ETIMEDOUT, EHOSTUNREACH: a peer that has vanished is no error of the store
            raise ConnectionError(exc.errno, exc.strerror) from exc
        if not data:
            self.intake.end_of_input()
            self.has_ended = True
            return 0
        self._looked_at = len(data)
        self.intake.feed(data)
        return len(data)

    def again(self) -> None:
        """Gather what `look` could not. Raises as it does."""
        self.intake.store()

    def take(self, now: float) -> None:
        """What was looked at is written: take it from the socket."""
        if not self._looked_at:
            return
        self._socket.recv(self._looked_at)
        if not self.intake.is_waiting:
            self.waiting_since = 0.0
        elif not self.waiting_since or self.intake.is_moving(self._looked_at):
            self.waiting_since = now
        self._looked_at = 0

    def acknowledge(self) -> None:
        """Say what was refused, before the close that acknowledges the rest."""
        if refused := self.intake.refused:
            try:
                # Nothing was sent before it, so there is room. A producer that is gone needs no answer.
                self._socket.send(stream.encode_refused(refused))
            except OSError:
                pass

    def close(self) -> None:
        self.intake.close()
        self._socket.close()
