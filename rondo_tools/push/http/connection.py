"""An urllib3 connection with a deadline, which also handles the odd cases of HTTP.

Strategy: there are three kinds of waiting for the network. A name is resolved in a thread, which is
abandoned at the deadline, because nothing can interrupt it. Addresses are tried one after the other, each
for its share of the time left. On a connection (CONNECT, TLS, sending, the answer) there are no time-outs:
a timer shuts the socket down, and reads and writes end.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection


class Wire:
    """The connection in use: opens it, records the progress of the request, cuts it at the deadline."""

    def __init__(self) -> None:
        self.until = 0.0  # the deadline, of time.monotonic
        self.is_open = False  # whether the peer is the endpoint, not a proxy before it
        self.is_sent = False
        self.is_clean = False  # whether the last answer was read to its end, and nothing followed it
        self.status: int | None = None
        self.proxy_status: int | None = None
        self._tap: socket.socket | None = None  # the same connection, below any TLS
        self._lock = threading.Lock()  # of the tap
        self._lookup: _Lookup | None = None

    def forget(self) -> None:
        """Forget the last request; the connection stays."""
        self.is_sent = self.is_clean = False
        self.status = self.proxy_status = None

    @contextmanager
    def cut_after(self, seconds: float) -> Iterator[None]:
        """Cut the connection if the block takes longer."""
        timer = threading.Timer(seconds, self._cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()

    def close(self) -> None:
        with self._lock:
            self.is_open = False
            if self._tap is not None:
                self._tap.close()
                self._tap = None

    def connect(self, host: str, port: int, options: Any) -> socket.socket:
        """A connection to the first of the host's addresses that accepts one."""
        addresses = self._resolve(host, port)
        error = OSError("the name has no address")
        for tried, (family, kind, protocol, _, address) in enumerate(addresses):
            try:
                connected = socket.socket(family, kind, protocol)
            except OSError as exc:  # no IPv6 here
                error = exc if tried == 0 else error
                continue
            try:
                for option in options or ():
                    connected.setsockopt(*option)
                connected.settimeout(self._left_s() / (len(addresses) - tried))
                connected.connect(address)
                connected.settimeout(None)
                self._set_tap(connected)
            except OSError as exc:
                connected.close()
                error = exc if tried == 0 else error
            else:
                return connected
        raise error

    def _left_s(self) -> float:
        left_s = self.until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s

    def _resolve(self, host: str, port: int) -> list[Any]:
        if self._lookup is None or not self._lookup.is_alive():  # else use the abandoned one
            self._lookup = _Lookup(host, port)
            self._lookup.start()
        lookup = self._lookup
        lookup.join(self._left_s())
        if lookup.is_alive():
            raise TimeoutError
        self._lookup = None
        if lookup.error is not None:
            raise lookup.error
        return lookup.addresses

    def _set_tap(self, connected: socket.socket) -> None:
        self.close()
        with self._lock:
            self._left_s()  # the timer may have fired before there was a connection to cut
            self._tap = connected.dup()

    def _cut(self) -> None:
        with self._lock:
            if self._tap is not None:
                try:
                    self._tap.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # it is closed already


class _Lookup(threading.Thread):
    """Resolves a name. A daemon, so that a hanging resolver does not keep the process from exiting."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(name="resolver", daemon=True)
        self._host = host.strip("[]")
        self._port = port
        self.addresses: list[Any] = []
        self.error: OSError | ValueError | None = None

    def run(self) -> None:
        try:
            self.addresses = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except (OSError, ValueError) as exc:  # UnicodeError, for an invalid name, is a ValueError
            self.error = exc


class _Answer(http.client.HTTPResponse):
    """http.client's reader of an answer, or of a proxy's answer to CONNECT; sets the wire's status."""

    def __init__(self, wire: Wire, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._wire = wire
        self._sock = sock
        wire.is_clean = False

    def _read_status(self) -> tuple[str, int, str]:
        """The status of the final answer: http.client skips only 100 (RFC 9110, 15.2)."""
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if status >= 200 or status == http.client.SWITCHING_PROTOCOLS:
                break
            http.client.parse_headers(self.fp)
        if self._wire.is_open:
            self._wire.status = status
        else:
            self._wire.proxy_status = status
        return version, status, reason

    def begin(self) -> None:
        super().begin()
        if self.headers.defects:  # else urllib3 logs them with a traceback, and continues
            raise http.client.HTTPException("the answer's headers are damaged")

    def _close_conn(self) -> None:
        """Called at the body's end, or earlier by `close`."""
        is_whole = self.length == 0 or self.chunked is True
        self._wire.is_clean = is_whole and not self.will_close and not self._has_more()
        super()._close_conn()  # type: ignore[misc]

    def close(self) -> None:
        is_at_end = self.isclosed()
        super().close()
        self._wire.is_clean &= is_at_end

    def _has_more(self) -> bool:
        """Whether bytes follow the answer: in the buffer, which is about to be closed, or in TLS."""
        try:
            self._sock.settimeout(0)
            return bool(self.fp.peek(1))
        except OSError as exc:
            return not isinstance(exc, ssl.SSLWantReadError)
        finally:
            self._sock.settimeout(None)


class _Connection(HTTPConnection):
    """A connection of the wire."""

    wire: Wire

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.response_class = partial(_Answer, self.wire)  # type: ignore[assignment]

    def _new_conn(self) -> socket.socket:
        return self.wire.connect(self._dns_host, self.port, self.socket_options)

    def connect(self) -> None:
        super().connect()  # with CONNECT and the handshakes
        self.wire.is_open = True

    def send(self, data: Any) -> None:
        try:
            super().send(data)  # connects first if necessary
        except ssl.SSLError as exc:
            if not self.wire.is_open:
                raise
            # The peer's reason may be readable: an alert of TLS 1.3, or an early answer. urllib3 reads it
            # after a broken pipe.
            raise BrokenPipeError from exc
        finally:
            self.wire.is_sent |= self.wire.is_open


class _TlsConnection(_Connection, HTTPSConnection):
    """The same with TLS."""


class Adapter(HTTPAdapter):
    """The HTTP adapter of `requests`, over the wire's connections."""

    def __init__(self, wire: Wire) -> None:
        def pool(base: type, connection: type) -> type:
            connection = type(connection.__name__, (connection,), {"wire": wire})
            return type(base.__name__, (base,), {"ConnectionCls": connection})

        self._pools = {
            "http": pool(HTTPConnectionPool, _Connection),
            "https": pool(HTTPSConnectionPool, _TlsConnection),
        }
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = self._pools
        return manager
