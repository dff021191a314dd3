"""Credentials, TLS and proxy settings for the remote-write endpoint.

Strategy: secrets are in files, which are read again when they change. All settings are checked at the
start, before a byte is sent.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rondo_tools import urls
from rondo_tools.errors import PushError, UsageError
from rondo_tools.secret import Secret, SecretError, user_and_password

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_SECRETS = ("authorization", "proxy-authorization", "cookie")
_RESERVED = ("content-encoding", "content-type", "content-length", "transfer-encoding", "host", "connection",
         "user-agent", "x-prometheus-remote-write-version", "accept-encoding", "expect")  # fmt: skip


@dataclass(frozen=True)
class Credentials:
    """The settings to reach the endpoint. Made by `parse_credentials`."""

    basic: Secret | None = None
    bearer: Secret | None = None
    ca_file: Path | None = None
    client_cert: tuple[Path, Path] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    proxy: str | None = None

    def authorization(self) -> str | None:
        """The current value of the header. Raises PushError."""
        try:
            if self.bearer is not None:
                return f"Bearer {self.bearer.text()}"
            if self.basic is not None:
                return f"Basic {base64.b64encode(self.basic.text().encode()).decode()}"
        except SecretError as exc:
            raise PushError(str(exc)) from None
        return None

    def proxies(self, url: str) -> dict[str, str]:
        """The proxies for a URL: --proxy, else those of HTTP_PROXY, HTTPS_PROXY and NO_PROXY."""
        if self.proxy is not None:
            return {"http": self.proxy, "https": self.proxy}
        # Loading it takes 0.1 s, which a push with nothing to send saves.
        from requests.utils import get_environ_proxies

        return dict(get_environ_proxies(url))


def parse_credentials(
    *,
    basic_auth_file: str | None = None,
    bearer_token_file: str | None = None,
    ca_file: str | None = None,
    client_cert: str | None = None,
    client_key: str | None = None,
    header: Iterable[str] = (),
    proxy: str | None = None,
) -> Credentials:
    """Credentials from the flags of these names. Raises UsageError for invalid ones."""
    if basic_auth_file and bearer_token_file:
        raise UsageError("--basic-auth-file and --bearer-token-file: give one of them")
    if client_key and not client_cert:
        raise UsageError("--client-key needs --client-cert")
    basic = user_and_password(Path(basic_auth_file), "--basic-auth-file") if basic_auth_file else None
    pair = (Path(client_cert), Path(client_key or client_cert)) if client_cert else None
    if ca_file or pair:
        _try_tls(ca_file, pair)
    return Credentials(
        basic,
        Secret(Path(bearer_token_file), "--bearer-token-file") if bearer_token_file else None,
        Path(ca_file) if ca_file else None,
        pair,
        _headers(header),
        _proxy(proxy) if proxy else None,
    )


def _try_tls(ca_file: str | None, pair: tuple[Path, Path] | None) -> None:
    """Load a CA, and a certificate with its key. Raises UsageError if that fails."""
    import ssl  # loading it takes 20 ms, which a push with nothing to send saves

    def why(exc: OSError) -> str:
        if isinstance(exc, ssl.SSLError):
            return f"it cannot be used ({exc.reason or 'no PEM'})"
        return exc.strerror or os.strerror(exc.errno or 0)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the default CAs
    if ca_file:
        try:
            context.load_verify_locations(ca_file)
        except OSError as exc:  # ssl.SSLError is one
            raise UsageError(f"--ca-file {ca_file}: {why(exc)}") from None
    if pair:
        try:
            # Without a password, OpenSSL would ask for that of an encrypted key at the terminal.
            context.load_cert_chain(*pair, password=lambda: "")
        except OSError as exc:
            raise UsageError(f"--client-cert {pair[0]}, key {pair[1]}: {why(exc)}") from None


def _headers(lines: Iterable[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = (part.strip() for part in line.partition(":"))
        # The value is not shown: it may still be a secret.
        if not colon or not value or not _HEADER_NAME.fullmatch(name) or not value.isprintable():
            raise UsageError("--header: write 'NAME: VALUE', such as 'X-Scope-OrgID: team-a'")
        if name.lower() in _SECRETS:
            raise UsageError(
                f"--header {name}: other users can read the command line; use --bearer-token-file or "
                "--basic-auth-file"
            )
        if name.lower() in _RESERVED:
            raise UsageError(f"--header {name}: rondo-push sets this header itself")
        if not value.isascii():
            raise UsageError(f"--header {name}: its value is not ASCII")
        headers[name] = value
    return headers


def _proxy(url: str) -> str:
    if urls.holds_secret(url):
        raise UsageError(
            "--proxy carries a user name or password; other users can read the command line: use HTTPS_PROXY"
        )
    if wrong := urls.fault(url):
        raise UsageError(f"--proxy {url!r}: {wrong}")
    return url
