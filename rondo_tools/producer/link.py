"""An output over a Unix or TCP socket that knows what was delivered.

Strategy: the stream has no acknowledgements, so every connection begins with the header and the whole
backlog, sent before or not (the store drops duplicates). After the end we shut down our side. If the peer
then closes, it has everything, except ticks that it reports as refused, which are not sent again. Any other
event is a failed attempt; the next one follows after a pause, as long as the link is driven. A vanished TCP
peer is noticed while the backlog still has its unacknowledged ticks.

    state        waits for                              next state
    PAUSING      the time of the next attempt           LOOKING_UP
    LOOKING_UP   the addresses of the peer's name       CALLING, or failed
    CALLING      nothing, or space in the peer's queue  CONNECTING or SENDING, or failed
    CONNECTING   the peer's answer                      SENDING, or CALLING its next address, or failed
    SENDING      items, or space in the socket          CLOSING after the end, or failed
    CLOSING      the peer's close                       OVER, or failed
    OVER

After a failure the state is PAUSING.
"""

from __future__ import annotations

import enum
import errno
import math
import os
import random
import socket
from collections.abc import Callable

from rondo_tools import stream
from rondo_tools.producer.address import Candidate, TcpAddress, UnixAddress
from rondo_tools.producer.backlog import KEPT, Follower
from rondo_tools.producer.output import NOTICES, Notices, Output

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0  # between two attempts
_LAST_PAUSE_S = 0.5  # the same, after the VM's end
_CHECK_S = 0.02  # between two checks for the resolved name, or for space in the peer's queue
_LONGEST_ANSWER = 4096  # bytes; a store's answer has about fifty
_STALL_S = 10.0  # without any progress of the peer before we connect again
# Time-out of unacknowledged data over TCP: the kernel's own is 15 min.
_UNANSWERED_MS = 30_000
_PIECE = 1 << 14  # bytes taken from the backlog at once: a thousand links may hold as many each
_MOST_READ = 1 << 16  # unexpected bytes that are read in one call


class State(enum.Enum):
    """What a link waits for."""

    PAUSING = enum.auto()
    LOOKING_UP = enum.auto()
    CALLING = enum.auto()
    CONNECTING = enum.auto()
    SENDING = enum.auto()
    CLOSING = enum.auto()
    OVER = enum.auto()


class Link(Output):
    """A Unix or TCP socket that reconnects when it breaks, and sends the whole backlog again.

    `interval_ms` is the time between ticks. A peer's close before our end is a failure; after it, the close
    is its acknowledgement. Links may share an address. `jitter` spreads the attempts of many links.
    """

    __slots__ = (
        "_acknowledged",
        "_address",
        "_answer",
        "_began",
        "_candidates",
        "_follower",
        "_jitter",
        "_pause_s",
        "_peer",
        "_pending",
        "_trouble",
        "_unanswered_ms",
        "refused",
        "state",
    )

    def __init__(
        self,
        address: UnixAddress | TcpAddress,
        name: str,
        *,
        limit: int = KEPT,
        interval_ms: int = 1000,
        notices: Notices = NOTICES,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        super().__init__(name, limit=limit, notices=notices)
        self.state = State.PAUSING
        self.refused: dict[str, int] = {}
        self._address = address
        self._jitter = jitter
        self._unanswered_ms = min(_UNANSWERED_MS, limit * interval_ms // 4)  # connecting takes time too
        self._peer: socket.socket | None = None
        self._candidates: list[Candidate] = []  # of this attempt, not yet tried
        self._follower = Follower(self.backlog)
        self._pending = b""  # taken from the backlog and not yet sent
        self._answer = b""
        self._began = 0.0  # of this attempt
        self._pause_s = _FIRST_PAUSE_S
        self._trouble = False  # a lost connection was reported
        self._acknowledged = False

    @property
    def missing(self) -> int:
        if not self._acknowledged:
            return self.backlog.count
        return self.backlog.dropped + sum(self.refused.values())

    def fileno(self) -> int:
        return -1 if self._peer is None else self._peer.fileno()

    def close(self) -> None:
        super().close()
        self.state = State.OVER

    def _let_go(self) -> None:
        if self._peer is not None:
            self._peer.close()
            self._peer = None
        self.wants_read = self.wants_write = False
        self._pending = self._answer = b""

    def on_time(self, now: float) -> None:
        match self.state:
            case State.SENDING if not self.wants_write or now >= self.deadline:
                self._send(now)  # the peer may have read less than makes the socket writable
                if now >= self.deadline:
                    self._fail(TimeoutError("timed out"), now)
            case State.PAUSING:
                if self.backlog.is_finished:
                    self.deadline = min(self.deadline, now + _LAST_PAUSE_S)
                if now >= self.deadline:
                    self._began = now
                    self._look_up(now)
            case State.LOOKING_UP if now >= self.deadline:
                self._look_up(now)
            case State.CALLING if now >= self.deadline:
                self._call(now)
            case State.CONNECTING if now >= self.deadline:
                self._answered(TimeoutError("timed out"), now)
            case _ if now >= self.deadline:
                self._fail(TimeoutError("timed out"), now)

    def on_writable(self, now: float) -> None:
        if self.state is State.SENDING:
            self._send(now)
        elif self.state is State.CONNECTING:
            self._check_connection(now)

    def on_readable(self, now: float) -> None:
        if self.state is State.CLOSING:
            self._read_answer(now)
        elif self.state is State.SENDING:
            try:
                self._check_open()
            except OSError as exc:
                self._fail(exc, now)
        elif self.state is State.CONNECTING:
            self._check_connection(now)

    # --- an attempt ------------------------------------------------------------------------------

    def _look_up(self, now: float) -> None:
        try:
            found = self._address.candidates(now)
        except OSError as exc:
            self._fail(exc, now)
            return
        if found is None:
            self.state, self.deadline = State.LOOKING_UP, now + _CHECK_S
            return
        self._candidates = list(found)
        self._call(now)

    def _call(self, now: float) -> None:
        """Connect to the first of the candidates."""
        family, where = self._candidates[0]
        try:
            self._peer = socket.socket(family)
            self._peer.setblocking(False)
            error = self._peer.connect_ex(where)
        except OSError as exc:
            self._fail(exc, now)
            return
        if error == errno.EINPROGRESS:
            self.state, self.wants_write, self.deadline = State.CONNECTING, True, now + _STALL_S
        elif error == errno.EAGAIN and now < self._began + _STALL_S:  # a Unix socket whose queue is full
            self._let_go()
            pause_s = max(2 * _CHECK_S, (now - self._began) / 2)  # a thousand links may wait for the store
            self.state, self.deadline = State.CALLING, now + pause_s * self._jitter(0.5, 1)
        else:
            self._answered(OSError(error, os.strerror(error)) if error else None, now)

    def _check_connection(self, now: float) -> None:
        """Handle the result of connecting, if there is one; the call may be spurious."""
        assert self._peer is not None
        if error := self._peer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._answered(OSError(error, os.strerror(error)), now)
            return
        try:
            self._peer.getpeername()
        except OSError:
            return
        self._answered(None, now)

    def _answered(self, error: OSError | None, now: float) -> None:
        """The candidate is the peer; with an `error`, try the next one."""
        assert self._peer is not None
        del self._candidates[0]
        if error is not None and self._candidates:
            self._let_go()
            self.state, self.deadline = State.CALLING, now
            return
        try:
            if error is not None:
                raise error
            if self._peer.family != socket.AF_UNIX and hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
                self._peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._unanswered_ms)
        except OSError as exc:
            self._fail(exc, now)
            return
        self._follower = Follower(self.backlog)
        self.state = State.SENDING
        self._send(now)

    def _send(self, now: float) -> None:
        """Send all pending bytes; after the end, shut down our side."""
        assert self._peer is not None
        try:
            while self._pending or self._take():
                size = self._peer.send(self._pending)
                self._pending = self._pending[size:]
                self.deadline = now + _STALL_S
                if self._trouble and not self._pending:
                    self._trouble = False
                    self.notices.connected(self)
        except BlockingIOError:
            if not self.wants_write:
                self.wants_write, self.deadline = True, now + _STALL_S
            return
        except OSError as exc:
            self._fail(exc, now)
            return
        self.wants_write, self.deadline = False, math.inf
        if self._follower.is_done:
            self._shut_down(now)

    def _take(self) -> bool:
        """Take the next piece from the backlog, if there is one."""
        self._pending = self._follower.next(_PIECE)
        return bool(self._pending)

    def _shut_down(self, now: float) -> None:
        assert self._peer is not None
        try:
            self._check_open()
            self._peer.shutdown(socket.SHUT_WR)
        except OSError as exc:
            self._fail(exc, now)
            return
        self.state, self.wants_read, self.deadline = State.CLOSING, True, now + _STALL_S

    def _check_open(self) -> None:
        """Raise ConnectionError if the peer has closed: a close before our end is no acknowledgement.

        Sending alone does not show it; TCP learns of it only from the answer to sent data.
        """
        assert self._peer is not None
        try:
            for _ in range(0, _MOST_READ, 4096):
                if not self._peer.recv(4096):
                    raise ConnectionResetError("the peer closed the connection")
        except BlockingIOError:
            pass

    def _read_answer(self, now: float) -> None:
        """After our end, read the peer's answer and its close."""
        assert self._peer is not None
        try:
            while piece := self._peer.recv(4096):
                self.deadline = now + _STALL_S
                if len(self._answer) >= _LONGEST_ANSWER:
                    return  # the next calls read and drop the rest
                self._answer += piece
        except BlockingIOError:
            return
        except OSError as exc:
            self._fail(exc, now)
            return
        self.refused = stream.decode_refused(self._answer[:_LONGEST_ANSWER])
        self._acknowledged = True
        self.delivered = not self.missing
        self.close()
        if self.refused:
            self.notices.refused(self, self.refused)

    def _fail(self, exc: OSError, now: float) -> None:
        """This attempt failed; the next one follows after a pause."""
        self._let_go()
        if not self._trouble:
            self._trouble = True
            self.notices.failed(self, exc.strerror or str(exc))
        if now - self._began > _LONGEST_PAUSE_S:
            self._pause_s = _FIRST_PAUSE_S
        pause_s = _LAST_PAUSE_S if self.backlog.is_finished else self._pause_s * self._jitter(0.5, 1)
        self.state, self.deadline = State.PAUSING, now + pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
