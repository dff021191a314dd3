"""Which cursors still hold something of sessions that were forgotten: a batch that is in flight.

Strategy: the store cannot settle a batch, nor make it smaller: its bytes are what a receiver may have. It
can tell whose it is, as labels stand in a body as they are, each behind its length.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any, NamedTuple

import snappy

from rondo_tools.store.format.cursor import Progress, parse_progress
from rondo_tools.store.format.layout import Layout


class CursorNow(NamedTuple):
    """How far a delivery is: `place` changes when a batch, or a stretch, is dealt with."""

    name: str
    place: tuple[object, ...]
    is_sending: bool  # a stretch has been begun
    is_in_flight: bool
    holds_some: bool  # its batch in flight has something of the sessions


def cursors_now(layout: Layout, instances: Iterable[str] = ()) -> list[CursorNow]:
    """All cursors of a store. Of one that cannot be read the batch counts as one that has some."""
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
    except Exception:  # snappy's errors have no base class; what cannot be read may have anything
        return True
    return any(needle in body for body in bodies for needle in needles)


def _needle(instance: str) -> bytes:
    """A string as protobuf has it: its length, 7 bits a byte, and its bytes."""
    name = instance.encode("utf-8", "replace")
    size, length = bytearray(), len(name)
    while length > 0x7F:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*size, length]) + name
