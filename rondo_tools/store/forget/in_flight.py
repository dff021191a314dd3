"""Finds the cursors whose batch in flight has data of forgotten sessions.

Strategy: the store can neither settle a batch nor change it, because a receiver may have these exact bytes.
It can search the body for an instance, because labels are plain in it, each after its length.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any, NamedTuple

import snappy

from rondo_tools.store.format.cursor import Progress, parse_progress
from rondo_tools.store.format.layout import Layout


class CursorNow(NamedTuple):
    """The progress of a delivery: `place` changes when a batch, or a stretch, is dealt with."""

    name: str
    place: tuple[object, ...]
    is_sending: bool  # a stretch has begun
    is_in_flight: bool
    holds_some: bool  # its batch in flight has data of the sessions


def cursors_now(layout: Layout, instances: Iterable[str] = ()) -> list[CursorNow]:
    """All cursors of a store. An unreadable one counts as having data of the sessions in flight."""
    needles = [_needle(name) for name in instances]
    found = []
    for name in layout.cursors():
        try:
            progress, in_flight = parse_progress(layout.cursor(name).read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, ValueError):
            found.append(CursorNow(name, (), is_sending=False, is_in_flight=True, holds_some=True))
            continue
        is_in_flight = in_flight is not None
        holds_some = in_flight is not None and _holds(in_flight, needles)
        found.append(CursorNow(name, _place(progress), progress.end is not None, is_in_flight, holds_some))
    return found


def _place(progress: Progress) -> tuple[object, ...]:
    return progress.begin, progress.end, progress.slice, progress.done


def _holds(in_flight: dict[str, Any], needles: list[bytes]) -> bool:
    try:
        bodies = [snappy.decompress(base64.b64decode(piece["body"])) for piece in in_flight["pieces"]]
    except Exception:  # snappy's errors have no base class; an unreadable batch may have any data
        return True
    return any(needle in body for body in bodies for needle in needles)


def _needle(instance: str) -> bytes:
    """A string in protobuf's encoding: its length, 7 bits a byte, then its bytes."""
    name = instance.encode("utf-8", "replace")
    size, length = bytearray(), len(name)
    while length > 0x7F:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*size, length]) + name
