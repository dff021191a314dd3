"""An HTTP server on loopback for tests, benches and the demo: a function answers each request."""

from __future__ import annotations

import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Mapping[str, str], bytes]
"""Status, headers and body. Content-Length is added."""

Answer = Callable[[BaseHTTPRequestHandler, bytes], Reply | None]
"""Gets a request and its body; returns None if it has answered by itself."""


@contextmanager
def http_server(answer: Answer, tls: ssl.SSLContext | None = None, *, path: str = "/write") -> Iterator[str]:
    """Yields the server's URL with `path`. Every path is served."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # headers and body are two writes

        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            reply = answer(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))
            if reply is None:
                self.close_connection = True
            else:
                send_reply(self, reply)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with serving(Handler, tls) as address:
        yield f"{'http' if tls is None else 'https'}://{address}{path}"


def send_reply(request: BaseHTTPRequestHandler, reply: Reply) -> None:
    status, headers, content = reply
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    if status != 204:
        request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.wfile.write(content)


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serves with `handler`; yields host and port."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True  # an idle client keeps its connection open
        block_on_close = False

        def finish_request(self, request: Any, client_address: Any) -> None:
            # The handshake runs in the connection's thread, not in the listener's.
            request = request if tls is None else tls.wrap_socket(request, server_side=True)
            with request:
                super().finish_request(request, client_address)

        def handle_error(self, request: Any, client_address: Any) -> None:
            if not isinstance(sys.exception(), OSError):  # the client has left: some tests are about that
                super().handle_error(request, client_address)

    with Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
