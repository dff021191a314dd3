"""Endpoints and proxies with raw sockets, for answers that no HTTP library would send."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from types import TracebackType
from typing import BinaryIO


class Peer:
    """One connection that a sender opened."""

    def __init__(self, sock: socket.socket, number: int, over: threading.Event) -> None:
        self.sock = sock
        self.number = number  # of the connection, from 1 on
        self.over = over  # set at the end of the test
        self._file: BinaryIO = sock.makefile("rb")

    def head(self) -> tuple[str, dict[str, str]] | None:
        """The next request's line and headers; None when the sender has closed the connection."""
        line = self._file.readline().decode()
        headers = {}
        while field := self._file.readline().strip().decode():
            name, _, value = field.partition(":")
            headers[name.lower()] = value.strip()
        return (line.strip(), headers) if line else None

    def request(self) -> bytes | None:
        """The next request's body."""
        head = self.head()
        return None if head is None else self.body(head[1])

    def body(self, headers: dict[str, str]) -> bytes:
        return self._file.read(int(headers.get("content-length", 0)))

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def trickle(self, data: bytes) -> None:
        """Send it byte by byte, again and again, until the sender closes or the test is over."""
        while True:
            for byte in data:
                self.send(bytes([byte]))
                if self.over.wait(0.02):
                    return

    def upgrade(self, context: ssl.SSLContext) -> None:
        """Continue with TLS."""
        self.sock = context.wrap_socket(self.sock, server_side=True)
        self._file = self.sock.makefile("rb")

    def hang_up(self) -> None:
        """Shut the connection down under a waiting thread."""
        try:
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended

    def close(self) -> None:
        self._file.close()
        self.sock.close()


class RawServer:
    """Listens on loopback while entered; `handle` gets each connection, in its own thread."""

    def __init__(self, handle: Callable[[Peer], None]) -> None:
        self._handle = handle
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self._peers: list[Peer] = []

    def __enter__(self) -> RawServer:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/write"
        self._start(self._accept)
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for peer in self._peers:
            peer.hang_up()
        for thread in self._threads:
            thread.join()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            peer = Peer(sock, len(self._peers) + 1, self._over)
            self._peers.append(peer)
            self._start(self._serve, peer)

    @property
    def connections(self) -> int:
        return len(self._peers)

    def _serve(self, peer: Peer) -> None:
        try:
            self._handle(peer)
        except (OSError, ValueError):
            pass  # the sender has closed, as in many tests
        finally:
            peer.close()
