"""A lock for the one rondo-feed of an instance and store: a newer one takes over from one that holds values.

Strategy: an abstract Unix socket, named after instance and store, is a name that only one process can have,
and that is free again when the process is gone. A process that wants the name connects to it and waits. The
owner accepts such connections only while it holds values; then it releases the name and ends.

So a line from cron each minute shows without a gap, and two processes never send by turns.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import time

from rondo_tools.errors import EX_UNAVAILABLE, RondoError

_WAIT_S = 10.0  # for the end of one that holds values
_LOOK_S = 0.02
_CREDENTIALS = struct.Struct("3i")  # process, user, group


class Claim:
    """The lock of an instance, from `take` until `close`."""

    def __init__(self, output: str, instance: str) -> None:
        self._instance = instance
        digest = hashlib.sha256(f"{output}\0{instance}".encode(errors="surrogateescape")).hexdigest()
        self._name = f"\0rondo-feed-{digest[:32]}"
        self._is_settled = False
        self._listener: socket.socket | None = None

    def take(self) -> None:
        """Take the name, unless another user has it. Raises RondoError if it is in use for this instance."""
        if self._is_settled:
            return
        self._is_settled = True
        deadline = time.monotonic() + _WAIT_S
        wish = None
        try:
            while not self._bind():
                if wish is None or _is_closed(wish):  # no owner was asked yet, or the name has a new owner
                    wish = _ask(self._name, wish)
                owner = (0, os.getuid()) if wish is None else _peer(wish)
                if owner[1] not in (0, os.getuid()):
                    return
                if time.monotonic() >= deadline:
                    raise self._conflict(owner[0])
                time.sleep(_LOOK_S)
        finally:
            if wish is not None:
                wish.close()

    def _conflict(self, pid: int) -> RondoError:
        who = f"another rondo-feed{f' (process {pid})' if pid else ''}"
        return RondoError(
            f"instance {self._instance!r} is fed by {who}: give this one another name with --instance",
            exit_code=EX_UNAVAILABLE,
        )

    def fileno(self) -> int:
        """Becomes readable when another process wants the name; -1 without a name."""
        return -1 if self._listener is None else self._listener.fileno()

    def is_wanted(self) -> bool:
        """Whether a process of root or of our user waits for the name."""
        assert self._listener is not None
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return False
        with peer:
            peer.setblocking(False)
            return _peer(peer)[1] in (0, os.getuid()) and not _is_closed(peer)

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _bind(self) -> bool:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            listener.bind(self._name)
            listener.listen(16)
        except OSError:
            listener.close()
            return False
        self._listener = listener
        return True


def _ask(name: str, before: socket.socket | None) -> socket.socket | None:
    """Connect to the owner of the name, instead of a connection `before`; None if that fails."""
    if before is not None:
        before.close()
    wish = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        wish.connect(name)
    except OSError:
        wish.close()
        return None
    return wish


def _is_closed(connection: socket.socket) -> bool:
    """Whether the peer has closed; no data is ever sent."""
    try:
        return not connection.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _peer(connection: socket.socket) -> tuple[int, int]:
    """The process and the user of the peer."""
    option = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, user, _ = _CREDENTIALS.unpack(option)
    return pid, user
