"""Streams, put together from their messages."""

from __future__ import annotations

from rondo_tools.stream import Event, encode


def encoded(*events: Event) -> bytes:
    return b"".join(map(encode, events))
