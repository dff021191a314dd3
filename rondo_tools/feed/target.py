"""The target of scrapes: a URL, credentials, and trusted CAs."""

from __future__ import annotations

import base64
import socket
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from rondo_tools import __version__
from rondo_tools.errors import UsageError
from rondo_tools.secret import Secret, user_and_password
from rondo_tools.urls import shown

if TYPE_CHECKING:
    import ssl

_ACCEPT = "text/plain;version=0.0.4,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1"


class Target:
    """A URL, credentials and trusted CAs. Raises UsageError for files that cannot be used."""

    def __init__(
        self,
        url: str,
        *,
        basic_auth_file: str | None = None,
        bearer_token_file: str | None = None,
        ca_file: str | None = None,
    ) -> None:
        if basic_auth_file and bearer_token_file:
            raise UsageError("--basic-auth-file and --bearer-token-file: give one of them")
        parts = urlsplit(url)
        self.is_https = parts.scheme == "https"
        self.host = str(parts.hostname)
        self.port = parts.port or (443 if self.is_https else 80)
        self.path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self.netloc = parts.netloc
        self.name = shown(url)
        self._basic = (
            user_and_password(Path(basic_auth_file), "--basic-auth-file") if basic_auth_file else None
        )
        self._bearer = Secret(Path(bearer_token_file), "--bearer-token-file") if bearer_token_file else None
        self._tls = _tls(ca_file) if self.is_https else None
        if ca_file and not self.is_https:
            raise UsageError("--ca-file needs an https URL")

    @property
    def instance(self) -> str:
        """The instance, as in Prometheus: host and port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def headers(self) -> dict[str, str]:
        """The headers of a request. Raises SecretError."""
        headers = {
            "Host": self.netloc,
            "User-Agent": f"rondo-feed/{__version__}",
            "Accept": _ACCEPT,
            "Accept-Encoding": "gzip",
        }
        if self._bearer is not None:
            headers["Authorization"] = f"Bearer {self._bearer.text()}"
        if self._basic is not None:
            headers["Authorization"] = f"Basic {base64.b64encode(self._basic.text().encode()).decode()}"
        return headers

    def wrap(self, plain: socket.socket) -> socket.socket:
        """TLS over a connection, if the URL is https. Raises OSError."""
        return plain if self._tls is None else self._tls.wrap_socket(plain, server_hostname=self.host)


def _tls(ca_file: str | None) -> ssl.SSLContext:
    import ssl  # takes 20 ms, so only for https

    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as exc:  # ssl.SSLError is a subclass
        why = (
            f"not a PEM file of certificates ({exc.reason or 'no PEM'})"
            if isinstance(exc, ssl.SSLError)
            else exc.strerror
        )
        raise UsageError(f"--ca-file {ca_file}: {why}") from None
