"""URLs: checks them, hides their secrets, and resolves redirects."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

from rondo_tools.errors import UsageError


def parse_url(text: str) -> str:
    """An http or https URL without secrets. Raises UsageError."""
    if holds_secret(text):
        raise UsageError(
            "the URL carries a user name or password; other users of this machine can read it there"
        )
    wrong = fault(text)
    if wrong is None and urlsplit(text).fragment:
        wrong = "a fragment, from # on, is never sent"
    if wrong is not None:
        raise UsageError(f"{text!r} is no usable URL: {wrong}")
    return text


def holds_secret(text: str) -> bool:
    """Whether a URL carries a user name or password."""
    try:
        return "@" in urlsplit(text).netloc
    except ValueError:
        return "@" in text


def fault(text: str) -> str | None:
    """Why a text is not a valid http or https URL; None if it is."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")
    except ValueError:
        return "not a URL"
    behind = parts.netloc.rpartition("]")[2] if "]" in parts.netloc else ""
    if behind and not behind.startswith(":"):
        return "a colon is missing between the IPv6 address and its port"
    if not text.isprintable() or " " in text or "\\" in text:
        return "it has a space, a backslash or an unprintable character"
    if parts.scheme not in ("http", "https") or not host or port == 0:
        return "write http://HOST:PORT/PATH, or https"
    if "%" in host:
        return "an IPv6 zone cannot be used; write an address without one, or a name"
    return None


def shown(url: str) -> str:
    """A URL without the parts that may be secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def joined(url: str, location: str) -> str:
    """The URL of an answer's Location."""
    try:
        return urljoin(url, location)
    except ValueError:
        return location  # not a URL: another origin for sure


def origin(url: str) -> tuple[str, str | None, int | None] | None:
    """Scheme, host and port; None, which equals no origin, if it is no URL or has credentials."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None
    return None if "@" in parts.netloc else (parts.scheme, parts.hostname, port)
