"""Requests and answers, and the headers of every answer."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from email.message import Message
from http import HTTPStatus
from typing import Any

from rondo_tools.errors import UsageError

# Our page loads only our files, and no other site can load or frame our answers.
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
    """A request fails with this status; `message` says what to do."""

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
        """The value of a parameter. Raises HttpError unless it is given once."""
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
    """`body` is bytes, or parts that are sent one by one. `done` is called after it was sent, or sending
    failed."""

    body: bytes | Iterable[bytes]
    content_type: str = TEXT
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = field(default_factory=dict)
    may_keep: bool = False  # a browser may cache it, if it revalidates each time
    done: Callable[[], object] = lambda: None


def text(
    message: str, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(f"{message}\n".encode(), TEXT, status, headers or {})


def as_json(value: Any, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """A JSON answer. NaN and infinities must be None or text: JSON has none."""
    return Response(json.dumps(value, separators=(",", ":"), allow_nan=False).encode(), JSON, status)


def gzipped(request: Request, response: Response) -> Response:
    """The response, compressed if the client accepts gzip and it is large."""
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
    """The answer to an invalid selector, time or tier."""
    return HttpError(HTTPStatus.BAD_REQUEST, str(exc))
