"""One rondo-feed for each instance of a store: a newer one takes over from one that only holds its values.

Strategy: an abstract Unix socket, named after instance and store, is a name that one process can have, and
that is free again when the process is gone. Whoever wants the name connects to it and waits. The owner looks
for such connections only while it holds values; then it gives the name up and ends.

So a line from cron each minute is shown without a break, and two values never take turns.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import time

from rondo_tools.errors import EX_UNAVAILABLE, RondoError

_WAIT_S = 10.0  # for one that holds to end
_LOOK_S = 0.02
_CREDENTIALS = struct.Struct("3i")  # process, user, group


class Claim:
    """The name of an instance, once it is `taken`, until `close`."""

    def __init__(self, output: str, instance: str) -> None:
        self._instance = instance
        digest = hashlib.sha256(f"{output}\0{instance}".encode(errors="surrogateescape")).hexdigest()
        self._name = f"\0rondo-feed-{digest[:32]}"
        self._is_settled = False
        self._listener: socket.socket | None = None

    def take(self) -> None:
        """Have the name. Raises RondoError if another feeds this instance and goes on with it."""
        if self._is_settled:
            return
        self._is_settled = True
        deadline = time.monotonic() + _WAIT_S
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as wish:
            pid = 0
            while not self._bind():
                if not pid:
                    pid = _connect(wish, self._name)
                if pid < 0 or time.monotonic() >= deadline:
                    break
                time.sleep(_LOOK_S)
        if self._listener is None and pid >= 0:
            who = f"another rondo-feed{f' (process {pid})' if pid else ''}"
            raise RondoError(
                f"instance {self._instance!r} is fed by {who}: give this one its own name, with --instance",
                exit_code=EX_UNAVAILABLE,
            )

    def fileno(self) -> int:
        """Becomes readable when somebody wants the name; -1 without one."""
        return -1 if self._listener is None else self._listener.fileno()

    def is_wanted(self) -> bool:
        """Whether somebody of ours waits for the name now."""
        assert self._listener is not None
        try:
            peer, _ = self._listener.accept()
        except OSError:
            return False
        with peer:
            _, user = _peer(peer)
            peer.setblocking(False)
            try:
                return user in (0, os.getuid()) and bool(peer.recv(1))
            except BlockingIOError:
                return user in (0, os.getuid())
            except OSError:
                return False

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


def _connect(wish: socket.socket, name: str) -> int:
    """Ask for the name; the process that has it, 0 if that is not known yet, -1 for a stranger's."""
    try:
        wish.connect(name)
    except OSError:
        return 0
    pid, user = _peer(wish)
    return pid if user in (0, os.getuid()) else -1


def _peer(connection: socket.socket) -> tuple[int, int]:
    """The process and the user at the other end."""
    option = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, user, _ = _CREDENTIALS.unpack(option)
    return pid, user
