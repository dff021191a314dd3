"""The address of a store: a Unix socket's path, or a host and port; a host's name is resolved in a thread.

Strategy: resolving a name may take seconds, so a thread does it, one at a time for all links that share
the address; they ask again until the result is there. A numeric address needs no thread.
"""

from __future__ import annotations

import socket
import threading
from typing import Any

_FRESH_S = 2.0  # a result is used for this long, so that a thousand links resolve a name once

Candidate = tuple[int, Any]
"""An address family and a socket address of it."""


class UnixAddress:
    """The path of a socket."""

    def __init__(self, path: str) -> None:
        self.path = path

    def candidates(self, _now: float, /) -> list[Candidate]:
        """The socket addresses to connect to."""
        return [(socket.AF_UNIX, self.path)]


class TcpAddress:
    """A host, by name or number, and a port."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self._thread: threading.Thread | None = None
        self._answer: list[Candidate] | OSError = []
        self._fresh_until = 0.0

    def candidates(self, now: float, /) -> list[Candidate] | None:
        """The socket addresses to try, in order; None while the name is resolved. Raises OSError."""
        if self._thread is None and now >= self._fresh_until:
            try:
                self._answer = self._look_up(socket.AI_NUMERICHOST)
            except socket.gaierror:
                self._thread = threading.Thread(target=self._run, name=f"look up {self.host}", daemon=True)
                self._thread.start()
        if self._thread is not None:
            if self._thread.is_alive():
                return None
            self._thread, self._fresh_until = None, now + _FRESH_S
        if isinstance(self._answer, OSError):
            raise type(self._answer)(*self._answer.args)
        return self._answer

    def _run(self) -> None:
        try:
            self._answer = self._look_up(0)
        except OSError as exc:
            self._answer = exc

    def _look_up(self, flags: int) -> list[Candidate]:
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM, flags=flags)
        return [(int(family), address) for family, _, _, _, address in found]
