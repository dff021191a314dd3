"""Access control: the Host check against DNS rebinding, and the token.

Strategy: a page on the web can point a name that it controls at 127.0.0.1, and make a browser send requests
to it; then the Host header has that name. So over TCP a name is accepted only if it is localhost or was
allowed. Numeric addresses are safe, and browsers cannot reach a Unix socket. A token comes as Bearer, or as
the password of Basic, which browsers can send; its file is read again when it changes.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import re
from collections.abc import Collection
from http import HTTPStatus
from pathlib import Path

from rondo_tools.errors import UsageError
from rondo_tools.secret import Secret, SecretError
from rondo_tools.serve.http import HttpError, Request

_HOST = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[^:\[\]]*)(:[0-9]{1,5})?")
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")


def parse_host(text: str) -> str:
    """The value of --allow-host. Raises UsageError."""
    if not _NAME.fullmatch(text):
        raise UsageError(
            f"--allow-host {text!r}: write a host's name, without a port, such as metrics.example"
        )
    return text.lower().rstrip(".")


class TokenFile:
    """The token in a file. Raises UsageError if the file cannot be read, or has no token."""

    def __init__(self, path: str) -> None:
        self._secret = Secret(Path(path), "--token-file")
        self._token = self._secret.text().encode()

    def is_met(self, authorization: str) -> bool:
        """Whether the value of an Authorization header has the token."""
        try:
            self._token = self._secret.text().encode()
        except SecretError:
            pass  # the file may be being replaced: keep the last token
        scheme, _, rest = authorization.strip().partition(" ")
        given = b""
        if scheme.lower() == "bearer":
            given = rest.strip().encode("latin-1", "replace")
        elif scheme.lower() == "basic":
            try:
                given = base64.b64decode(rest.strip(), validate=True).partition(b":")[2]
            except (binascii.Error, ValueError):
                return False
        return hmac.compare_digest(given, self._token)


class Access:
    """Decides whether a request is answered."""

    def __init__(self, token: TokenFile | None = None, allowed_hosts: Collection[str] = ()) -> None:
        self._token = token
        self._hosts = {"localhost", *allowed_hosts}

    def check_host(self, request: Request) -> None:
        """Check a request over TCP. Raises HttpError."""
        host = request.headers.get("Host", "")
        match = _HOST.fullmatch(host)
        name = match[1].lower().rstrip(".") if match else host
        if name in self._hosts or _is_address(name):
            return
        raise HttpError(
            HTTPStatus.MISDIRECTED_REQUEST,
            f"the host {host[:100]!r} is not known here: to allow it, start rondo-serve with --allow-host",
        )

    def check_token(self, request: Request) -> None:
        """Raises HttpError."""
        if self._token is None or self._token.is_met(request.headers.get("Authorization", "")):
            return
        raise HttpError(
            HTTPStatus.UNAUTHORIZED,
            "send the token as 'Authorization: Bearer TOKEN', or as the password of Basic",
            {"WWW-Authenticate": 'Basic realm="rondo", charset="UTF-8"'},
        )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]").partition("%")[0])
    except ValueError:
        return False
    return True
