"""Fetches one page of an exporter, over HTTP, within a deadline.

Strategy: a thread makes the request, so the network cannot delay the stream; a descriptor becomes readable
when it has finished. The connection is kept for the next scrape. At the deadline its socket is shut down, and
the thread ends. A thread that waits for the resolver cannot be ended, and no other scrape begins before it
has finished.
"""

from __future__ import annotations

import http.client
import os
import socket
import threading
import time
import zlib
from typing import NamedTuple

from rondo_tools.errors import EX_UNAVAILABLE, RondoError
from rondo_tools.feed.target import Target
from rondo_tools.units import format_size

MAX_PAGE = 16 << 20  # bytes, compressed or not
_PIECE = 1 << 16
_KEPT_S = 60.0  # the longest use of a connection, so that a name's new address is found
_END_S = 1.0  # time for a thread to see that its connection is shut
_GZIP = 16 + zlib.MAX_WBITS


class ScrapeError(RondoError):
    """A scrape failed."""

    exit_code = EX_UNAVAILABLE


class Scraped(NamedTuple):
    """A page, or the error; and the duration of the scrape."""

    page: bytes
    error: str
    seconds: float


class Scraper:
    """Scrapes one target, one page at a time: `begin`, then `take` when `fileno` is readable."""

    def __init__(self, target: Target, timeout_s: float) -> None:
        self.name = target.name
        self._target, self._timeout_s = target, timeout_s
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._lock = threading.Lock()  # guards the fields below
        self._thread: threading.Thread | None = None
        self._result: Scraped | None = None
        self._tap: socket.socket | None = None  # the connection, below any TLS
        self._is_given_up = False
        self._is_closed = False
        self._connection: http.client.HTTPConnection | None = None  # used by the thread only
        self._opened_s = 0.0
        self._began_s = 0.0

    def fileno(self) -> int:
        return self._read

    @property
    def left_s(self) -> float:
        """The time until the scrape's deadline."""
        return max(0.0, self._began_s + self._timeout_s - time.monotonic())

    def begin(self) -> None:
        """Start a scrape, or continue with one that could not be ended."""
        self._began_s = time.monotonic()
        if self._thread is None or not self._thread.is_alive():
            self._is_given_up, self._result = False, None
            self._thread = threading.Thread(target=self._run, name="scrape", daemon=True)
            self._thread.start()

    def take(self) -> Scraped | None:
        """The result of the scrape; None while it runs."""
        try:
            os.read(self._read, 64)
        except BlockingIOError:
            pass
        with self._lock:
            if self._result is not None and not self._is_given_up:
                result, self._result, self._is_given_up = self._result, None, True
                return result
            if self.left_s > 0:
                return None
            self._is_given_up = True
            if self._tap is not None:
                _shut(self._tap)
        return Scraped(b"", "timed out", self._timeout_s)

    def close(self) -> None:
        with self._lock:
            self._is_closed = self._is_given_up = True
            if self._tap is not None:
                _shut(self._tap)
            os.close(self._read)
            os.close(self._write)
        if self._thread is not None:
            self._thread.join(_END_S)
            if not self._thread.is_alive():
                self._disconnect()

    # --- in the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        began_s = time.monotonic()
        page, error = b"", ""
        try:
            page = self._scrape()
        except RondoError as exc:
            error = str(exc)
        except (OSError, http.client.HTTPException, zlib.error, ValueError) as exc:
            error = _why(exc)
        if error:
            self._disconnect()
        with self._lock:
            self._result = Scraped(page, error, time.monotonic() - began_s)
            if not self._is_closed:
                os.write(self._write, b"\0")

    def _scrape(self) -> bytes:
        headers = self._target.headers()
        is_kept = self._connection is not None and time.monotonic() - self._opened_s < _KEPT_S
        try:
            return self._ask(headers, is_kept=is_kept)
        except (http.client.RemoteDisconnected, ConnectionError):
            if not is_kept or self._is_given_up:
                raise
        return self._ask(headers, is_kept=False)  # the exporter has closed the kept connection

    def _ask(self, headers: dict[str, str], *, is_kept: bool) -> bytes:
        if not is_kept:
            self._disconnect()
            self._connect()
        assert self._connection is not None
        self._connection.request("GET", self._target.path, headers=headers)
        response = self._connection.getresponse()
        if response.status != http.HTTPStatus.OK:
            raise ScrapeError(_refusal(response))
        page = _read(response)
        if response.will_close:
            self._disconnect()
        return page

    def _connect(self) -> None:
        target = self._target
        plain = socket.create_connection((target.host, target.port), timeout=self._timeout_s)
        try:
            with self._lock:
                if self._is_given_up:
                    raise TimeoutError("timed out")
                self._tap = plain.dup()
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connected = target.wrap(plain)
        except BaseException:
            plain.close()
            raise
        self._connection = http.client.HTTPConnection(target.host, target.port)
        self._connection.sock = connected
        self._opened_s = time.monotonic()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        with self._lock:
            if self._tap is not None:
                self._tap.close()
                self._tap = None


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the exporter has closed it


def _read(response: http.client.HTTPResponse) -> bytes:
    """The whole page, decompressed. Raises ScrapeError if it is too large or truncated."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip"):
        raise ScrapeError(
            f"the page is encoded as {encoding!r:.60}, which was not requested; plain or gzip was"
        )
    unpacker = _Unpacker() if encoding == "gzip" else None
    parts, size = [], 0
    while piece := response.read(_PIECE):
        if unpacker is not None:
            piece = unpacker.unpack(piece, MAX_PAGE + 1 - size)
        parts.append(piece)
        size += len(piece)
        if size > MAX_PAGE:
            raise ScrapeError(
                f"the page has over {format_size(MAX_PAGE)}: let the exporter leave out some series"
            )
    if response.length or (unpacker is not None and not unpacker.is_complete):
        raise ScrapeError("the page stops in the middle")
    page = b"".join(parts)
    if "openmetrics" in response.headers.get("Content-Type", "") and not page.endswith(b"# EOF\n"):
        raise ScrapeError("the page stops in the middle: OpenMetrics ends with # EOF")
    return page


class _Unpacker:
    """Unpacks gzip; as in a file, one compressed page may follow another (RFC 1952, 2.2)."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP)

    @property
    def is_complete(self) -> bool:
        return self._member.eof

    def unpack(self, piece: bytes, most: int) -> bytes:
        """At most `most` bytes, which is more than a page may have. Raises zlib.error."""
        unpacked = self._member.decompress(piece, most)
        while (rest := self._member.unused_data) and len(unpacked) < most:
            self._member = zlib.decompressobj(_GZIP)
            unpacked += self._member.decompress(rest, most - len(unpacked))
        return unpacked


def _refusal(response: http.client.HTTPResponse) -> str:
    """The meaning of a status other than 200."""
    text = f"answered {response.status} {response.reason:.100}".rstrip()
    if response.status in (401, 403):
        return f"{text}: name a file with --bearer-token-file or --basic-auth-file"
    if location := response.headers.get("Location"):
        return f"{text}, to {location:.1000}: give that to --url"
    return text


def _why(exc: Exception) -> str:
    if isinstance(exc, TimeoutError):
        return "timed out"
    if isinstance(exc, http.client.IncompleteRead):
        return "the page stops in the middle"
    if isinstance(exc, http.client.RemoteDisconnected):
        return "the connection was closed without an answer"
    if isinstance(exc, zlib.error):
        return "the page is declared as gzip, and is not"
    if isinstance(exc, http.client.HTTPException):
        return f"not an answer of HTTP ({type(exc).__name__})"
    if verify := getattr(exc, "verify_message", ""):  # of an ssl.SSLCertVerificationError
        return f"its certificate is not good: {verify}; --ca-file names the CA"
    if getattr(exc, "reason", "") == "WRONG_VERSION_NUMBER":  # of an ssl.SSLError
        return "the server does not speak TLS; is it http:// at this port?"
    return str(getattr(exc, "strerror", None) or getattr(exc, "reason", None) or exc)
