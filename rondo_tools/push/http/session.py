"""POST with `requests`, without its conveniences: one request, one answer, within a deadline.

Strategy: by default `requests` keeps cookies, reads .netrc, turns a redirected POST into a GET, and drops
an answer with a damaged body. Here a received status is final. The connection is used again only after a
complete 2xx; otherwise the next request resolves the name and connects again.
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
_PATIENCE_S = 1.0  # for the body of a 2xx, which is not needed

# The exceptions of `requests`, urllib3 and http.client for errors of the network, the peer or the URL.
_ERRORS = (requests.RequestException, HTTPError, http.client.HTTPException, OSError, ValueError)


class Reply(NamedTuple):
    """An answer: its status, its headers (empty if they were damaged), the beginning of its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class NoReplyError(Exception):
    """A request got no answer; `__cause__` is the reason.

    `is_sent` if a byte of it may have been sent; `is_late` if the deadline ended it; `proxy_status` is
    a proxy's answer to CONNECT, if any.
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
        """A deadline for all requests of the block together."""
        self._wire.until = time.monotonic() + seconds
        with self._wire.cut_after(seconds):
            yield

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """One request, inside `within`. Raises NoReplyError.

        A received status is final, even if the rest of the answer is damaged.
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
        """The beginning of the body. The body of a 2xx is read only to keep the connection."""
        is_needed = response.status_code >= 300 or response.raw.length_remaining == 0
        with response, nullcontext() if is_needed else self._wire.cut_after(_PATIENCE_S):
            try:
                return bytes(response.raw.read(MAX_BODY))
            except _ERRORS:
                return b""  # the status is final


class _Session(requests.Session):
    """Ignores redirects: even with `allow_redirects=False`, `requests` would read their whole bodies."""

    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002  (its signature)
        return None
