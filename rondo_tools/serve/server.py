"""The HTTP server: bounded in connections, time and bytes, whatever its clients do.

Strategy: http.server parses requests. Each connection has a thread, at most MAX_CONNECTIONS of them; others
wait in the listener's queue. A thread reads through a `_Bounded` reader, which has a deadline and a number of
bytes for each part of a request: the wait for it, its head, its body. A client must read the answer at a
minimal pace. So a slow, silent or half-open client holds a thread for some seconds only.

    wait for a request   IDLE_S, then the connection is closed without an answer
    its head             HEAD_S, MAX_HEAD bytes
    its body             BODY_S, MAX_BODY bytes
    each piece sent      SEND_S, PIECE bytes
"""

from __future__ import annotations

import io
import logging
import select
import socket
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from rondo_tools.errors import RondoError, UsageError
from rondo_tools.listeners import Listener
from rondo_tools.ratelimit import RateLimit
from rondo_tools.serve.http import SECURITY_HEADERS, HttpError, Request, Response, gzipped, text, usage
from rondo_tools.signals import Signals

MAX_CONNECTIONS = 128
IDLE_S, HEAD_S, BODY_S, SEND_S = 5.0, 5.0, 5.0, 10.0
MAX_HEAD, MAX_BODY = 32 << 10, 64 << 10
PIECE = 1 << 20
_FULL_S = 0.05  # time between checks for a free place

log = logging.getLogger(__name__)

Handle = Callable[[Request, bool], Response]
"""Maps a request, and whether it came over TCP, to an answer. Raises HttpError."""


class Server:
    """Serves `listeners` until a signal. Must be closed."""

    def __init__(self, listeners: Sequence[Listener], handle: Handle) -> None:
        self._listeners = listeners
        self._handle = handle
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.warnings = RateLimit(log, 10, 60.0)

    @property
    def connections(self) -> int:
        return len(self._open)

    def run(self, signals: Signals, each_s: float, then: Callable[[], None]) -> None:
        """Accept connections until a signal; call `then` every `each_s` seconds."""
        next_s = time.monotonic() + each_s
        while not signals.take():
            is_full = self.is_full
            wait_s = max(0.0, next_s - time.monotonic())
            if is_full:
                wait_s = min(wait_s, _FULL_S)
            ready = _readable([signals, *([] if is_full else self._listeners)], wait_s)
            if time.monotonic() >= next_s:
                next_s = time.monotonic() + each_s
                then()
            for listener in self._listeners:
                if listener.fileno() in ready:
                    self._accept(listener)

    def _accept(self, listener: Listener) -> None:
        try:
            connection = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as exc:  # perhaps no descriptor is free: open connections end soon
            self.warnings.warn("accept", "%s: %s", listener.name, exc.strerror)
            time.sleep(_FULL_S)
            return
        with self._lock:
            self._open.add(connection)
        try:
            threading.Thread(target=self._serve, args=(connection,), name="connection", daemon=True).start()
        except (RuntimeError, MemoryError) as exc:  # no thread can be started
            self.warnings.warn("thread", "%s: %s", listener.name, exc)
            self._end(connection)
            time.sleep(_FULL_S)

    def _serve(self, connection: socket.socket) -> None:
        try:
            _Handler(connection, self)
        except OSError:
            pass  # the client is gone, or too slow
        except Exception:
            self.warnings.warn("error", "a connection failed:\n%s", traceback.format_exc())
        finally:
            self._end(connection)

    def _end(self, connection: socket.socket) -> None:
        """Close a connection. Its place is free before that: a client that sees the end may connect again."""
        with self._lock:
            self._open.discard(connection)
        connection.close()

    @property
    def is_full(self) -> bool:
        return len(self._open) >= MAX_CONNECTIONS

    def answer(self, request: Request, *, is_tcp: bool) -> Response:
        """The answer to a request, an error if anything fails."""
        try:
            return gzipped(request, self._handle(request, is_tcp))
        except HttpError as exc:
            return text(str(exc), exc.status, exc.headers)
        except UsageError as exc:
            return text(str(exc), usage(exc).status)
        except RondoError as exc:  # the store is gone, or cannot be read
            self.warnings.warn("store", "%s", exc)
            return text(str(exc), HTTPStatus.SERVICE_UNAVAILABLE)
        except MemoryError:
            return text("the answer does not fit in memory: ask for less", HTTPStatus.SERVICE_UNAVAILABLE)
        except Exception:
            self.warnings.warn(
                "error", "%s %s failed:\n%s", request.method, request.path, traceback.format_exc()
            )
            return text("an internal error; rondo-serve has logged it", HTTPStatus.INTERNAL_SERVER_ERROR)

    def close(self) -> None:
        """Close all open connections."""
        with self._lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # already closed


def _readable(watched: Sequence[Signals | Listener], wait_s: float) -> set[int]:
    poll = select.poll()  # select() takes no descriptor beyond 1023, and a store has many files
    for one in watched:
        poll.register(one, select.POLLIN)
    return {fd for fd, _ in poll.poll(wait_s * 1000)}


class _TooLongError(Exception):
    """A head is longer than MAX_HEAD."""


class _Bounded(io.RawIOBase):
    """Reads a connection up to a deadline and a number of bytes; raises TimeoutError and _TooLongError."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._until = 0.0
        self._left = 0

    def allow(self, seconds: float, size: int) -> None:
        self._until, self._left = time.monotonic() + seconds, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left_s = self._until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        if self._left <= 0:
            raise _TooLongError
        self._connection.settimeout(left_s)
        count = self._connection.recv_into(buffer, min(len(buffer), self._left))
        self._left -= count
        return count


class _Handler(BaseHTTPRequestHandler):
    """One connection; http.server calls it for each request."""

    protocol_version = "HTTP/1.1"
    command = ""
    requestline = ""
    request_version = "HTTP/1.1"

    def __init__(self, connection: socket.socket, server: Server) -> None:
        self._server = server
        self._raw = _Bounded(connection)
        super().__init__(connection, ("", 0), server)  # type: ignore[arg-type]

    def setup(self) -> None:
        self.connection: socket.socket = self.request
        if self.connection.family != socket.AF_UNIX:
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rfile: io.BufferedReader = io.BufferedReader(self._raw, 1 << 13)

    def finish(self) -> None:
        pass

    def handle_one_request(self) -> None:
        self.close_connection = True
        try:
            self._raw.allow(IDLE_S, MAX_HEAD)
            if not self.rfile.peek(1):
                return
        except TimeoutError:
            return
        try:
            self._raw.allow(HEAD_S, MAX_HEAD)
            self.raw_requestline = self.rfile.readline(MAX_HEAD)
            if not self.raw_requestline.strip():
                return
            if not self.parse_request():  # it has sent an error
                return
            answer = self._server.answer(self._request(), is_tcp=self.connection.family != socket.AF_UNIX)
        except TimeoutError:
            self.close_connection = True
            answer = text("the request took too long to arrive", HTTPStatus.REQUEST_TIMEOUT)
        except _TooLongError:
            self.close_connection = True
            answer = text(
                f"the head of a request has at most {MAX_HEAD} bytes",
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            )
        except HttpError as exc:
            self.close_connection = True
            answer = text(str(exc), exc.status, exc.headers)
        try:
            self._send(answer)
        finally:
            answer.done()

    def _request(self) -> Request:
        try:
            target = urlsplit(self.path)
            query = parse_qs(target.query, keep_blank_values=True, max_num_fields=100)
        except ValueError as exc:
            raise HttpError(HTTPStatus.BAD_REQUEST, f"the address: {exc}") from exc
        return Request(self.command, unquote(target.path), query, self.headers, self._body())

    def _body(self) -> bytes:
        if "Transfer-Encoding" in self.headers:
            raise HttpError(HTTPStatus.LENGTH_REQUIRED, "send the body with a Content-Length")
        given = set(self.headers.get_all("Content-Length", ["0"]))
        length = given.pop()
        if given or not (length.isascii() and length.isdigit()):
            raise HttpError(HTTPStatus.BAD_REQUEST, f"Content-Length {length[:20]!r} is not a number")
        if len(length) > 20 or int(length) > MAX_BODY:
            raise HttpError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body of a request has at most {MAX_BODY} bytes"
            )
        if not int(length):
            return b""
        self._raw.allow(BODY_S, int(length))
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise HttpError(HTTPStatus.BAD_REQUEST, "the body is shorter than its Content-Length")
        return body

    def _send(self, answer: Response) -> None:
        headers = {**SECURITY_HEADERS, "Content-Type": answer.content_type, **answer.headers}
        headers["Cache-Control"] = "no-cache" if answer.may_keep else "no-store"
        is_chunked = False
        if isinstance(answer.body, bytes):
            headers["Content-Length"] = str(len(answer.body))
        elif self.request_version != "HTTP/1.0":
            headers["Transfer-Encoding"] = "chunked"
            is_chunked = True
        else:
            self.close_connection = True
        self.close_connection |= self._server.is_full  # others wait for this place
        if self.close_connection:
            headers["Connection"] = "close"
        lines = [f"HTTP/1.1 {answer.status.value} {answer.status.phrase}", f"Date: {self.date_time_string()}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
        if self.command == "HEAD":
            self._send_all(head)
        elif isinstance(answer.body, bytes):
            self._send_all(head + answer.body)
        else:
            self._send_all(head)
            for part in filter(None, answer.body):  # an empty chunk would end the body
                self._send_all(b"%x\r\n%b\r\n" % (len(part), part) if is_chunked else part)
            if is_chunked:
                self._send_all(b"0\r\n\r\n")

    def _send_all(self, data: bytes) -> None:
        """Send data. Raises TimeoutError if the client does not read a piece in time."""
        view = memoryview(data)
        for at in range(0, len(view), PIECE):
            self.connection.settimeout(SEND_S)
            self.connection.sendall(view[at : at + PIECE])

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send http.server's error for an invalid head."""
        self.close_connection = True
        self._send(text(message or explain or HTTPStatus(code).phrase, HTTPStatus(code)))

    def handle_expect_100(self) -> bool:
        self._send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def log_message(self, format: str, *args: object) -> None:
        pass
