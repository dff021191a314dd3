"""POSTs by `requests` with its conveniences off: one request, one answer, within a deadline.

Strategy: left alone, `requests` keeps cookies, reads .netrc, turns a redirected POST into a GET, and
gives up an answer whose body is damaged. Here a status that arrived stands, and the connection is used
again only after a 2xx that was as it should be: with anything else, the next request begins anew, from
the resolution of the name on.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import NamedTuple

import requests
from urllib3.exceptions import HTTPError

from rondo_tools.push.http.connection import Adapter, Wire

MAX_BODY = 4096  # bytes of an answer's body that are read
_PATIENCE_S = 1.0  # for the body of a 2xx, which nobody needs

# What `requests`, urllib3 and http.client raise for what the network, the peer or a bad URL does.
_ERRORS = (requests.RequestException, HTTPError, http.client.HTTPException, OSError, ValueError)


class Reply(NamedTuple):
    """An answer: its status, its headers (none if they were damaged), the beginning of its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class NoReplyError(Exception):
    """A request that got no answer; `__cause__` says why.

    `is_sent` if a byte of it may have left us; `is_late` if the deadline ended it; `proxy_status` is
    what a proxy answered to CONNECT, if it did.
    """

    def __init__(self, *, is_sent: bool, is_late: bool, proxy_status: int | None) -> None:
        super().__init__()
        self.is_sent = is_sent
        self.is_late = is_late
        self.proxy_status = proxy_status


class Client:
    """One connection at a time, kept open between requests."""

    def __init__(
        self,
        headers: Mapping[str, str],
        *,
        proxies: Mapping[str, str],
        ca_file: Path | None = None,
        client_cert: tuple[Path, Path] | None = None,
    ) -> None:
        self._wire = Wire()
        self._session = _Session()
        self._session.trust_env = False
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        self._session.headers.clear()
        self._session.headers.update(headers)
        self._session.proxies = dict(proxies)
        if ca_file is not None:
            self._session.verify = str(ca_file)
        if client_cert is not None:
            self._session.cert = (str(client_cert[0]), str(client_cert[1]))
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, Adapter(self._wire))

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """All that the block's requests do, they do in so long."""
        self._wire.until = time.monotonic() + seconds
        with self._wire.cut_after(seconds):
            yield

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """One request, inside of `within`. Raises NoReplyError.

        A status that arrived stands, whatever is wrong with what comes behind it.
        """
        wire = self._wire
        wire.forget()
        is_clean = False
        try:
            response = self._session.post(
                url, data=body, headers=headers, allow_redirects=False, stream=True, timeout=None
            )
            content = self._read(response)
            is_clean = 200 <= response.status_code < 300 and wire.is_clean
            return Reply(response.status_code, response.headers, content)
        except _ERRORS as exc:
            if wire.status is not None:
                return Reply(wire.status, {}, b"")
            is_late = time.monotonic() >= wire.until
            raise NoReplyError(is_sent=wire.is_sent, is_late=is_late, proxy_status=wire.proxy_status) from exc
        finally:
            if not is_clean:
                self.close()

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        self._session.close()
        self._wire.close()

    def _read(self, response: requests.Response) -> bytes:
        """The beginning of the body. Of a 2xx it is read only so that the connection can be kept."""
        is_needed = response.status_code >= 300 or response.raw.length_remaining == 0
        with response, nullcontext() if is_needed else self._wire.cut_after(_PATIENCE_S):
            try:
                return bytes(response.raw.read(MAX_BODY))
            except _ERRORS:
                return b""  # the status stands


class _Session(requests.Session):
    """Leaves redirects alone: told not to follow them, it would still read all of their bodies."""

    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002  (its signature)
        return None
