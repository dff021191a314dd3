"""A remote-write receiver that takes everything and keeps only counts: for the benchmarks."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType


class Sink:
    """Listens on a free loopback port while entered; `write_url` is where to write to.

    `requests` and `bytes` are what has come, the bytes those of the bodies; `keep` says that the bodies
    are kept as well, in `bodies`, with the name of their encoding.
    """

    def __init__(self, *, keep: bool = False) -> None:
        self.requests = self.bytes = 0
        self.bodies: list[tuple[str, bytes]] = []
        self._keep = keep
        self._lock = threading.Lock()

    def _take(self, encoding: str, body: bytes) -> None:
        with self._lock:
            self.requests += 1
            self.bytes += len(body)
            if self._keep:
                self.bodies.append((encoding, body))

    def __enter__(self) -> Sink:
        sink = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                sink._take(self.headers.get("Content-Encoding", ""), body)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True  # a sender that is idle keeps its connection
        self.write_url = f"http://127.0.0.1:{self._server.server_port}/api/v1/write"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
