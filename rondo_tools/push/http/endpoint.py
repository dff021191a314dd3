"""The endpoint of a process that may have nothing to send: the first request loads the transport, because
its libraries take longer to load than an idle push."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rondo_tools.push.http.credentials import Credentials
from rondo_tools.push.model import Answer

if TYPE_CHECKING:
    from rondo_tools.push.http.transport import Transport


class Endpoint:
    """Sends like a transport. The owner closes it."""

    def __init__(self, url: str, timeout_s: float, credentials: Credentials) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._credentials = credentials
        self._transport: Transport | None = None

    def send(self, data: bytes, protocol: str) -> Answer:
        if self._transport is None:
            from rondo_tools.push.http.transport import Transport

            self._transport = Transport(self._url, timeout_s=self._timeout_s, credentials=self._credentials)
        return self._transport.send(data, protocol)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
