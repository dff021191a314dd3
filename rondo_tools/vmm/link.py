"""An output over a Unix or TCP socket, which delivers for certain or knows that it did not.

Strategy: the stream carries no acknowledgements, so every connection starts from nothing: the
header, then all that the backlog keeps, sent before or not (the store drops what it has). After the
end we shut down our side; a peer that then closes has everything, but for the ticks that it says
it refused: to send those again would be no use. Whatever else happens is an attempt that failed, and
the next one follows after a pause, as long as the process lives. A TCP peer that vanishes is found out
while the backlog still keeps what it has not got.
"""

from __future__ import annotations

import logging
import random
import select
import socket
import time

from rondo_tools import stream
from rondo_tools.units import format_count
from rondo_tools.vmm.output import KEPT, Output

_log = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0  # between two attempts
_LAST_PAUSE_S = 0.5  # the same, once the VM has ended
_LONGEST_ANSWER = 4096  # bytes; what a store has to say takes fifty
_STALL_S = 10.0  # how long a peer may neither take nor say anything before we connect anew
# How long what we sent may go without an answer, over TCP: the kernel would wait for 15 min.
_UNANSWERED_MS = 30_000


class SocketOutput(Output):
    """A Unix or TCP socket: connected again whenever it breaks, all that is kept sent again.

    `address` is a path, or (host, port); `interval_ms` is how often a tick comes. Before our end a peer
    that closes has gone away; after it, the close is its acknowledgement.
    """

    def __init__(
        self, address: str | tuple[str, int], name: str, *, limit: int = KEPT, interval_ms: int = 1000
    ) -> None:
        super().__init__(name, limit=limit)
        self._address = address
        self._unanswered_ms = min(_UNANSWERED_MS, limit * interval_ms // 4)  # to connect takes time too
        self._acknowledged = False
        self.refused: dict[str, int] = {}
        self._trouble = False  # it was said that there is no connection

    @property
    def missing(self) -> int:
        if not self._acknowledged:
            return self.backlog.count
        return self.backlog.dropped + sum(self.refused.values())

    def _deliver(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._acknowledged:
            began = time.monotonic()
            try:
                self._attempt()
            except OSError as exc:
                if not self._trouble:
                    _log.warning("%s: %s; trying again and again", self.name, exc.strerror or exc)
                self._trouble = True
                if time.monotonic() - began > _LONGEST_PAUSE_S:
                    pause_s = _FIRST_PAUSE_S
                if self.backlog.wait_for_end(pause_s * random.uniform(0.5, 1)):  # noqa: S311 - jitter
                    time.sleep(_LAST_PAUSE_S)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        self.delivered = not self.missing
        if self.refused:
            ticks = format_count(sum(self.refused.values()), "tick")
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.refused.items())
            _log.warning("%s: the store refused %s, now given up: %s", self.name, ticks, reasons)

    def _attempt(self) -> None:
        """One connection, from the oldest tick kept to the acknowledgement. Raises OSError."""
        with self._connect() as peer:
            for before, items in self.backlog.follow():
                peer.sendall(before + b"".join(items))
                if self._trouble:
                    self._trouble = False
                    _log.info("%s: connected", self.name)
            _check_open(peer)
            peer.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := peer.recv(4096):
                answer = (answer + piece)[:_LONGEST_ANSWER]
            self.refused = stream.decode_refused(answer)
            self._acknowledged = True

    def _connect(self) -> socket.socket:
        if isinstance(self._address, tuple):
            peer = socket.create_connection(self._address, timeout=_STALL_S)
            if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._unanswered_ms)
            return peer
        peer = socket.socket(socket.AF_UNIX)
        try:
            peer.settimeout(_STALL_S)
            peer.connect(self._address)
        except BaseException:
            peer.close()
            raise
        return peer


def _check_open(peer: socket.socket) -> None:
    """Raise ConnectionError if the peer has closed: what it closed before our end is no acknowledgement.

    Sending alone does not tell; TCP learns of it only by the answer to what was sent.
    """
    while select.select([peer], [], [], 0)[0]:
        if not peer.recv(4096):
            raise ConnectionResetError("the peer closed the connection")
