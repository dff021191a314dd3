"""Why a request got no answer: messages for exceptions of `requests`, urllib3 and ssl, with advice.

Strategy: libraries wrap exceptions, and the innermost has the cause. A mistake that somebody has to fix (a
certificate, a TLS version, an unknown kind of proxy) is distinguished from a temporary failure. For TLS,
the peer's alert or OpenSSL's reason distinguishes them.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import requests
from urllib3.exceptions import MaxRetryError

_CLIENT_CERT = "the server does not accept our certificate, or wants one: --client-cert, --client-key"
_HANDSHAKE = (
    "the server refuses the handshake: it wants a client certificate (--client-cert), or supports no TLS "
    "version and cipher of ours"
)
_VERSION = "the server supports no TLS version and cipher of ours; rondo-push supports 1.2 and 1.3"
_KEY = "--client-cert, --client-key: the key is not the certificate's"
_TOO_WEAK = "a key or signature is too weak for OpenSSL's settings on this machine"

# OpenSSL's names of reasons, without the prefix of an alert.
_TLS_MISTAKES = {
    "UNKNOWN_CA": _CLIENT_CERT,
    "BAD_CERTIFICATE": _CLIENT_CERT,
    "NO_CERTIFICATE": _CLIENT_CERT,
    "CERTIFICATE_EXPIRED": _CLIENT_CERT,
    "CERTIFICATE_REQUIRED": _CLIENT_CERT,
    "CERTIFICATE_REVOKED": _CLIENT_CERT,
    "CERTIFICATE_UNKNOWN": _CLIENT_CERT,
    "UNSUPPORTED_CERTIFICATE": _CLIENT_CERT,
    "ACCESS_DENIED": _CLIENT_CERT,
    "DECRYPT_ERROR": _CLIENT_CERT,
    "HANDSHAKE_FAILURE": _HANDSHAKE,
    "PROTOCOL_VERSION": _VERSION,
    "INSUFFICIENT_SECURITY": _VERSION,
    "INAPPROPRIATE_FALLBACK": _VERSION,
    "ILLEGAL_PARAMETER": _VERSION,
    "MISSING_EXTENSION": _VERSION,
    "UNSUPPORTED_PROTOCOL": _VERSION,
    "NO_PROTOCOLS_AVAILABLE": _VERSION,
    "UNRECOGNIZED_NAME": "the server does not know this name; is the host in --remote-write the right one?",
    "WRONG_VERSION_NUMBER": "the server does not speak TLS; is it http:// at this port?",
    "KEY_VALUES_MISMATCH": _KEY,
    "KEY_TYPE_MISMATCH": _KEY,
    "CA_KEY_TOO_SMALL": _TOO_WEAK,
    "CA_MD_TOO_WEAK": _TOO_WEAK,
    "DH_KEY_TOO_SMALL": _TOO_WEAK,
    "EE_KEY_TOO_SMALL": _TOO_WEAK,
}
_CONFIG_MISTAKES = (
    requests.exceptions.InvalidProxyURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.InvalidURL,
)


def tls_mistake(exc: BaseException | None) -> str | None:
    """The mistake to fix for TLS; None if there is another cause."""
    for cause in _causes(exc):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"the server's certificate is not accepted: {cause.verify_message}; "
                "--ca-file names the CA that signed it"
            )
        if isinstance(cause, ssl.SSLError) and cause.reason:
            advice = _TLS_MISTAKES.get(cause.reason.rpartition("ALERT_")[2].removeprefix("TLSV1_"))
            if advice:
                return f"{advice} ({cause.reason})"
    return None


def config_mistake(exc: BaseException | None) -> str | None:
    """The mistake in a URL or a proxy; None if there is another cause."""
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
    """An exception and its causes, the outermost first."""
    while exc is not None:
        yield exc
        inner = exc.reason if isinstance(exc, MaxRetryError) else None
        exc = inner or next((arg for arg in exc.args if isinstance(arg, BaseException)), exc.__cause__)
