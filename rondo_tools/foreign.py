"""Recognizes foreign input by its first bytes, for error messages that say what to do.

Strategy: a magic number or a first line decides. A guess only changes the words of an error, never its cause.
"""

from __future__ import annotations

import re

COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ": "xz", b"BZh": "bzip2"}
"""The programs that unpack with ``-dc``, by the first bytes of their files."""

STREAM = "a rondo stream"
DUMP = "a dump of a store"
LINES = "what rondo-store says to rondo-push"
FOR_PEOPLE = "what --text writes, for people"
METRICS = "a page of metrics"
HTML = "an HTML page"
HTTP = "an HTTP request"
JSON = "JSON"
TEXT = "text"

_BEGINNINGS = (
    (STREAM, rb"[\x80-\x8f]\xa5rondo"),
    (DUMP, rb"rondodmp"),
    (FOR_PEOPLE, rb"# rondo instance="),
    (HTTP, rb"(GET|HEAD|POST|PUT|OPTIONS|DELETE|PATCH|CONNECT) \S"),
    (HTML, rb"(?i:\s*(<\?xml[^>]*>\s*)?(<!doctype\s+html|<html|<head)\b)"),
    (METRICS, rb"# (HELP|TYPE|UNIT) |[a-zA-Z_:][a-zA-Z0-9_:]*(\{[^\n}]*\})?[ \t]+([-+]?[0-9.]|NaN|[-+]?Inf)"),
    (LINES, rb"[^\n]*\t[0-9]+:[0-9]+\n"),
    (JSON, rb"\s*[\[{][\s\"{\[}\]]"),
    (TEXT, rb"[\t\n\r -~]"),
)
_BEGINNING = tuple((kind, re.compile(pattern)) for kind, pattern in _BEGINNINGS)
_LOOKED_AT = 8192  # bytes: a watermark is not longer


def kind_of(data: bytes) -> str:
    """The kind of input that begins with `data`: one of the above, the program that unpacks it, or empty."""
    data = bytes(data[:_LOOKED_AT])
    for magic, program in COMPRESSED.items():
        if data.startswith(magic):
            return program
    return next((kind for kind, pattern in _BEGINNING if pattern.match(data)), "")


def is_packed(kind: str) -> bool:
    return kind in COMPRESSED.values()


_INSTEAD_OF_STREAM = {
    DUMP: "rondo-store DIR --restore reads it",
    FOR_PEOPLE: "have its producer write the stream, without --text",
    METRICS: "rondo-feed makes a stream of it: rondo-feed < FILE | rondo-store DIR",
    LINES: "one rondo-store is enough",
    HTTP: "browsers and Prometheus ask rondo-serve",
}
_MAKERS = "rondo-vmm, rondo-attach, rondo-feed and rondo-query stream write a stream"


def no_stream(data: bytes) -> str:
    """The error message for input that is no stream and begins with `data`; empty for an unknown kind."""
    kind = kind_of(data)
    if not kind or kind == STREAM:
        return ""
    if is_packed(kind):
        return f"this is compressed; give it through {kind} -dc"
    return f"this is {kind}, not a stream; {_INSTEAD_OF_STREAM.get(kind, _MAKERS)}"
