"""One producer's connection.

Strategy: peek, gather, take. Data is peeked at (MSG_PEEK) and gathered for the turn's write; it is taken
out of the socket only when it is written. Closing the connection acknowledges to a producer that everything
is stored, except refused ticks, which are reported before the close. A socket that is closed with unread
data, by us or by the kernel after a kill -9, resets the connection instead. So a crash can never be
mistaken for an acknowledgement.

On a full disk no more than one such read is in memory: the rest waits in the socket, as its producer does.
"""

from __future__ import annotations

import fcntl
import socket
import sys
import termios

from rondo_tools import stream
from rondo_tools.store.intake import Intake
from rondo_tools.store.quota import Quota

READ = 1 << 16  # bytes at once, so that no connection holds up the others


class Connection:
    """A socket and its stream.

    `waiting_since` is when we began to wait for the rest of a message, or a first header; else 0.
    `has_ended`: its producer has sent everything, and waits for the acknowledgement.
    """

    __slots__ = ("_peeked", "_socket", "has_ended", "intake", "quota", "waiting_since")

    def __init__(self, connection: socket.socket, intake: Intake, now: float) -> None:
        connection.setblocking(False)
        self.intake = intake
        self.quota = Quota(now)
        self.waiting_since = now
        self.has_ended = False
        self._socket = connection
        self._peeked = 0

    @property
    def name(self) -> str:
        """For messages: the descriptor, and the instance if it is known."""
        session = self.intake.session
        return f"connection {self.fileno()}" + ("" if session is None else f" ({session.instance})")

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def unread(self) -> int:
        """Bytes in the socket's buffer."""
        size = fcntl.ioctl(self._socket, termios.FIONREAD, bytes(4))
        return int.from_bytes(size, sys.byteorder)

    def peek(self) -> int:
        """Gather what has arrived; gives its size in bytes.

        Raises StreamError and StoreError for a stream that cannot be stored, ConnectionError if the
        connection is broken, and OSError on a full disk: then call `again`.
        """
        try:
            data = self._socket.recv(READ, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as exc:  # ETIMEDOUT, EHOSTUNREACH: the peer vanished; no error of the store
            raise ConnectionError(exc.errno, exc.strerror) from exc
        if not data:
            self.intake.end_of_input()
            self.has_ended = True
            return 0
        self._peeked = len(data)
        self.intake.feed(data)
        return len(data)

    def again(self) -> None:
        """Gather the rest, after an OSError from `peek`. Raises as `peek` does."""
        self.intake.store()

    def take(self, now: float) -> None:
        """Take the data of the last `peek`, which is written now, out of the socket."""
        if not self._peeked:
            return
        self._socket.recv(self._peeked)
        if not self.intake.is_waiting:
            self.waiting_since = 0.0
        elif not self.waiting_since or self.intake.is_moving(self._peeked):
            self.waiting_since = now
        self._peeked = 0

    def acknowledge(self) -> None:
        """Report the refused ticks, before the close acknowledges the rest."""
        if refused := self.intake.refused:
            try:
                # It is the first data on this connection, so the buffer has room. A producer may be gone.
                self._socket.send(stream.encode_refused(refused))
            except OSError:
                pass

    def close(self) -> None:
        self.intake.close()
        self._socket.close()
