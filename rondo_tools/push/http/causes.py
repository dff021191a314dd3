"""Why a request got no answer: exceptions of `requests`, urllib3 and ssl in words, with what to do.

Strategy: libraries wrap one exception into another; the innermost knows. A mistake that somebody has
to mend (a certificate, a proxy of a kind unknown here) is told apart from trouble that passes.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import requests
from urllib3.exceptions import MaxRetryError

_CONFIG_MISTAKES = (
    requests.exceptions.InvalidProxyURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.InvalidURL,
)


def tls_mistake(exc: BaseException | None) -> str | None:
    """What somebody has to change so that TLS comes about; None if it is something else."""
    for cause in _causes(exc):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"the server's certificate is not accepted: {cause.verify_message}; "
                "--ca-file names the CA that signed it"
            )
        if isinstance(cause, ssl.SSLError) and "CERTIFICATE" in (cause.reason or "").upper():
            return f"the server does not accept our certificate ({cause.reason}): --client-cert, --client-key"
    return None


def config_mistake(exc: BaseException | None) -> str | None:
    """What of a URL or a proxy cannot work; None if it is something else."""
    return str(exc) if isinstance(exc, _CONFIG_MISTAKES) else None


def reason(exc: BaseException | None) -> str:
    """The innermost cause, without the objects that `requests` and urllib3 print."""
    before = "no connection to the proxy: " if isinstance(exc, requests.exceptions.ProxyError) else ""
    cause = exc
    for cause in _causes(exc):
        if isinstance(cause, OSError) and cause.strerror:
            return before + cause.strerror
    return before + (str(cause) or type(cause).__name__)


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    """An exception and those within it, the outermost first."""
    while exc is not None:
        yield exc
        inner = exc.reason if isinstance(exc, MaxRetryError) else None
        exc = inner or next((arg for arg in exc.args if isinstance(arg, BaseException)), exc.__cause__)
