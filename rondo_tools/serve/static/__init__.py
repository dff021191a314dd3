"""The page's files. A browser revalidates its copies each time."""

from __future__ import annotations

from hashlib import blake2b
from http import HTTPStatus
from importlib.resources import files

from rondo_tools.serve.http import Request, Response

_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
FILES = (
    "index.html",
    "app.js",
    "chart.js",
    "lives.js",
    "table.js",
    "fleet.js",
    "vm.js",
    "format.js",
    "style.css",
    "icon.svg",
)

_read: dict[str, tuple[bytes, str]] = {}


def page(request: Request) -> Response | None:
    """The file at a path; None for other paths."""
    name = "index.html" if request.path == "/" else request.path.removeprefix("/static/")
    if name not in FILES or (name == "index.html") != (request.path == "/"):
        return None
    if name not in _read:
        data = files(__name__).joinpath(name).read_bytes()
        _read[name] = data, f'"{blake2b(data, digest_size=12).hexdigest()}"'
    data, tag = _read[name]
    headers = {"ETag": tag}
    if tag in request.headers.get("If-None-Match", ""):
        return Response(b"", _TYPES[name.rpartition(".")[2]], HTTPStatus.NOT_MODIFIED, headers, may_keep=True)
    return Response(data, _TYPES[name.rpartition(".")[2]], headers=headers, may_keep=True)
