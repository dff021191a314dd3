"""A proxy before a remote-write endpoint that fails by a script, one word for each request.

ok; slow (the answer arrives in pieces); interim (after two others, 102 and 103); cut body (the answer's
body is shorter than its head declares); cut answer (it ends within its status); lost answer (the request
arrives, the answer does not); cut request (the connection is reset while it is sent); silence (it never
arrives, and the sender times out); silence after (the same after it arrives); 429, 429 seconds, 429 date
(with Retry-After), 500, 502, 503 (it does not arrive); 500 after (it arrives); redirect (to itself, another
path); restart (of the endpoint, killed before the request arrives). After the script everything is ok.
"""

from __future__ import annotations

import email.utils
import http.client
import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from urllib.parse import urlsplit

from devtools.http_server import send_reply, serving

ABORT = b"\1\0\0\0\0\0\0\0"  # SO_LINGER of no time: close resets
FAULTS = (
    "slow", "interim", "cut body", "cut answer", "lost answer", "cut request", "silence", "silence after",
    "429", "429 seconds", "429 date",
    "500", "502", "503", "500 after", "redirect",
)  # fmt: skip
INTERIM = b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


class FaultProxy:
    """Listens on loopback while entered; write to `url`; `script` has the next faults."""

    def __init__(self, target: str, restart: Callable[[], None] = lambda: None) -> None:
        self._target = urlsplit(target)
        self._restart = restart
        self._lock = threading.Lock()
        self._script: list[str] = []
        self._over = threading.Event()
        self.done: list[str] = []  # words of the script that were executed

    def follow(self, script: Iterable[str]) -> None:
        with self._lock:
            self._script = list(script)
            self.done = []

    def will_be_silent(self) -> bool:
        """Whether a word left in the script makes the sender wait for its time-out."""
        with self._lock:
            return any(word.startswith("silence") for word in self._script)

    def __enter__(self) -> FaultProxy:
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # headers and body are two writes

            def do_POST(self) -> None:
                proxy._handle(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = serving(Handler)
        self.url = f"http://{self._server.__enter__()}{self._target.path}"
        return self

    def __exit__(
        self, type_: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._server.__exit__(type_, value, trace)

    def _handle(self, request: http.server.BaseHTTPRequestHandler) -> None:
        with self._lock:
            word = self._script.pop(0) if self._script else "ok"
            self.done.append(word)
        size = int(request.headers["Content-Length"])
        if word == "cut request":
            request.rfile.read(size // 2)
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
            request.close_connection = True
            return
        body = request.rfile.read(size)
        if word == "redirect":
            send_reply(request, (307, {"Location": self._target.path + "?again"}, b""))
            return
        if word == "silence":
            self._wait_until_left(request)
            return
        if word.split()[0] in ("429", "500", "502", "503") and not word.endswith("after"):
            of_word = {
                "429 seconds": {"Retry-After": "1"},
                "429 date": {"Retry-After": email.utils.formatdate(time.time() + 1, usegmt=True)},
            }
            send_reply(request, (int(word.split()[0]), of_word.get(word, {}), b"not now"))
            return
        if word == "restart":
            self._restart()
        status, headers, content = self._forward(dict(request.headers), body)
        if word == "lost answer":
            request.close_connection = True
        elif word == "silence after":
            self._wait_until_left(request)
        elif word == "500 after":
            send_reply(request, (500, {}, b"too late"))
        elif word == "slow":
            lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
            head = f"HTTP/1.1 {status} Late\r\n{''.join(lines)}Content-Length: {len(content)}\r\n\r\n"
            for byte in head.encode():
                request.wfile.write(bytes([byte]))
            request.wfile.write(content)
        elif word == "interim":
            request.wfile.write(INTERIM)
            send_reply(request, (status, headers, content))
        elif word == "cut body":
            request.close_connection = True
            lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
            head = f"HTTP/1.1 {status} Cut\r\n{''.join(lines)}Content-Length: 100000\r\n\r\n"
            request.wfile.write(head.encode() + content)
        elif word == "cut answer":
            request.close_connection = True
            request.wfile.write(INTERIM + b"HTTP/1.1 %d" % (status // 10))
        else:
            send_reply(request, (status, headers, content))

    def _forward(self, headers: Mapping[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """The endpoint's status, its header with the count of written samples, and its body."""
        connection = http.client.HTTPConnection(self._target.netloc, timeout=300)
        try:
            connection.request("POST", self._target.path, body, dict(headers))
            answer = connection.getresponse()
            written = {name: value for name, value in answer.headers.items() if name.endswith("-Written")}
            return answer.status, written, answer.read()
        finally:
            connection.close()

    def _wait_until_left(self, request: http.server.BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        request.connection.settimeout(0.05)
        while not self._over.is_set():
            try:
                if not request.connection.recv(1):
                    return
            except TimeoutError:
                continue
