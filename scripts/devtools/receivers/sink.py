"""A remote-write receiver that accepts everything and keeps only counts: for the benchmarks."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler
from types import TracebackType

from devtools.http_server import Reply, http_server


class Sink:
    """Listens on a free loopback port; `write_url` is its URL for writing.

    `requests` and `bytes` count requests and the bytes of their bodies. With `keep`, `bodies` has the bodies,
    with the names of their encodings.
    """

    def __init__(self, *, keep: bool = False) -> None:
        self.requests = self.bytes = 0
        self.bodies: list[tuple[str, bytes]] = []
        self._keep = keep
        self._lock = threading.Lock()

    def _answer(self, request: BaseHTTPRequestHandler, body: bytes) -> Reply:
        with self._lock:
            self.requests += 1
            self.bytes += len(body)
            if self._keep:
                self.bodies.append((request.headers.get("Content-Encoding", ""), body))
        return 204, {}, b""

    def __enter__(self) -> Sink:
        self._server = http_server(self._answer, path="/api/v1/write")
        self.write_url = self._server.__enter__()
        return self

    def __exit__(
        self, type_: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.__exit__(type_, value, trace)
