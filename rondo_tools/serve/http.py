"""What a request and an answer are, and the headers that every answer has."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from email.message import Message
from http import HTTPStatus
from typing import Any

from rondo_tools.errors import UsageError

# A page of ours loads only what we serve; nothing of ours is loaded by a page of somebody else.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
TEXT = "text/plain; charset=utf-8"
JSON = "application/json"

_WORTH_GZIP = 1 << 10  # bytes


class HttpError(Exception):
    """An answer that is no success; `message` says what to do."""

    def __init__(self, status: HTTPStatus, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


@dataclass(frozen=True)
class Request:
    """`query` has the values of each parameter in the order given."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Message
    body: bytes = b""

    def one(self, name: str, default: str | None = None) -> str:
        """The value of a parameter that is given once. Raises HttpError."""
        values = self.query.get(name, [])
        if len(values) > 1 or (not values and default is None):
            times = "once" if values else "it is missing"
            raise HttpError(HTTPStatus.BAD_REQUEST, f"the parameter {name!r}: give it {times}")
        return values[0] if values else str(default)

    @property
    def takes_gzip(self) -> bool:
        codings = self.headers.get("Accept-Encoding", "").replace(" ", "").lower().split(",")
        return any(one in ("gzip", "gzip;q=1", "gzip;q=1.0") for one in codings)


@dataclass(frozen=True)
class Response:
    """`body` is bytes, or parts that are sent as they come; `done` is called when it was sent, or could not
    be."""

    body: bytes | Iterable[bytes]
    content_type: str = TEXT
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)
    may_keep: bool = False  # by a browser, if it asks each time whether it is still current
    done: Callable[[], object] = lambda: None


def text(
    message: str, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(f"{message}\n".encode(), TEXT, status, headers or {})


def as_json(value: Any, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """NaN and infinities must be None or text: they are no JSON."""
    return Response(json.dumps(value, separators=(",", ":"), allow_nan=False).encode(), JSON, status)


def gzipped(request: Request, response: Response) -> Response:
    """The response, smaller where the client takes that and it is worth it."""
    if (
        not isinstance(response.body, bytes)
        or len(response.body) < _WORTH_GZIP
        or "Content-Encoding" in response.headers
        or not request.takes_gzip
    ):
        return response
    headers = {**response.headers, "Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    return replace(response, body=gzip.compress(response.body, 1, mtime=0), headers=headers)


def usage(exc: UsageError) -> HttpError:
    """A selector, time or tier that cannot be meant, as an answer."""
    return HttpError(HTTPStatus.BAD_REQUEST, str(exc))
