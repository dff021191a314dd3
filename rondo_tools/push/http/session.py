"""`requests` with its conveniences off, and with a hold on the socket in use.

Strategy: left alone, `requests` would replace an Authorization header by what .netrc says, keep cookies,
turn a redirected POST into a GET, and bound each read by itself but never an answer as a whole. The
first three are switched off; for the last, a connection says which socket it uses, and a timer cuts that.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection


class _Session(requests.Session):
    """Leaves redirects alone: told not to follow them, it would still read all of their bodies."""

    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002  (its signature)
        return None


class Wire:
    """The socket in use, so that it can be cut from outside when the time is up.

    The time-outs of `requests` bound one read; only this bounds all of them together.
    """

    def __init__(self) -> None:
        self.socket: socket.socket | None = None

    def session(self) -> requests.Session:
        """A session whose connections go over this wire, without headers of its own."""
        session = _Session()
        session.trust_env = False
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        session.headers.clear()
        for scheme in ("http://", "https://"):
            session.mount(scheme, _Adapter(self))
        return session

    @contextmanager
    def cut_after(self, seconds: float) -> Iterator[Callable[[], bool]]:
        """Cut the connection if the block takes longer; the value yielded says whether it was."""
        done = threading.Event()

        def watch() -> None:
            # One that is connecting, within its own time-out, has no socket here yet: look again.
            if not done.wait(seconds):
                is_cut.set()
                while True:
                    self._cut()
                    if done.wait(0.1):
                        return

        is_cut = threading.Event()
        watcher = threading.Thread(target=watch, name="time-out", daemon=True)
        watcher.start()
        try:
            yield is_cut.is_set
        finally:
            done.set()
            watcher.join()

    def _cut(self) -> None:
        if self.socket is not None:
            try:
                # Not SSLSocket.shutdown: that would take the TLS state from under the reader.
                socket.socket.shutdown(self.socket, socket.SHUT_RDWR)
            except OSError:
                pass  # it is closed already


class _Adapter(HTTPAdapter):
    """HTTP as `requests` does it, telling the wire which socket is in use."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools()

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = self._pools()
        return manager

    def _pools(self) -> dict[str, Any]:
        wire = self._wire

        class Http(HTTPConnection):
            def connect(self) -> None:
                super().connect()
                wire.socket = self.sock

        class Https(HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                wire.socket = self.sock

        class HttpPool(HTTPConnectionPool):
            ConnectionCls = Http

        class HttpsPool(HTTPSConnectionPool):
            ConnectionCls = Https

        return {"http": HttpPool, "https": HttpsPool}
