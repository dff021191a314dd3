"""Encode events as bytes.

Strategy: a tick's bytes are packed by a struct, and a header's series only once for each list: both give the
same bytes as msgpack, in a third of the time. The decoder recognizes these forms.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import msgpack

from rondo_tools.stream.known import checked
from rondo_tools.stream.maps import (
    REASON,
    check_identity,
    end_from_map,
    header_of,
    header_to_map,
    time_of,
)
from rondo_tools.stream.model import MAX_MESSAGE, MAX_T_MS, End, Event, Header, Tick

TICK_HEAD = b"\x92\xcf"  # an array of two; a uint64, the type of any time after 1970-02-19
USUAL_HEADER = b"\x86\xa5rondo\x01"  # a map of six keys, as `encode` writes it; the series are the last
SERIES_KEY = b"\xa6series"
_LEAST_UINT64 = 1 << 32  # the least integer that msgpack writes as uint64


def encode(event: Event) -> bytes:
    """Encode one message. Raises ValueError for one that a Decoder would refuse.

    The number of a tick's values is not checked: only the Decoder knows the session's header.
    """
    if isinstance(event, Tick):
        t_ms, values = event
        if _LEAST_UINT64 <= t_ms <= MAX_T_MS:  # the same bytes as msgpack's, in a third of the time
            layout, bin_head = tick_shape(len(values))
            return layout.pack(TICK_HEAD, t_ms, bin_head, values)
        time_of(event._asdict(), "t_ms")
        return bytes(msgpack.packb(event))
    if isinstance(event, End):
        message: dict[str, Any] = {"end": event.reason, "t_ms": event.t_ms}
        end_from_map(message)
        packed = bytes(msgpack.packb(message))
    else:
        packed = _encode_header(event)
    if len(packed) > MAX_MESSAGE:
        raise ValueError(f"a message of {len(packed)} bytes is over the limit of {MAX_MESSAGE}")
    return packed


def _encode_header(header: Header) -> bytes:
    series = checked(header.series)
    fields = header_to_map(header._replace(series=()))
    del fields["series"]
    header_of(fields, header.series)
    if not series.label_names.isdisjoint(fields["labels"]):
        check_identity(header)  # raises, and names the label
    return USUAL_HEADER[:1] + bytes(msgpack.packb(fields))[1:] + SERIES_KEY + series.packed


def encode_refused(refused: Mapping[str, int]) -> bytes:
    """Encode the number of refused ticks by reason, which a store sends before it acknowledges."""
    return bytes(msgpack.packb({"refused": dict(refused)}))


def decode_refused(data: bytes) -> dict[str, int]:
    """The number of refused ticks by reason; empty if `data` is anything else."""
    try:
        message = msgpack.unpackb(data)
        items = message["refused"].items()
        return {reason: n for reason, n in items if REASON.fullmatch(reason) and type(n) is int and n > 0}
    except Exception:  # msgpack raises many types, and the data may be anything
        return {}


class TickShape(NamedTuple):
    """The layout of a tick from `encode`: two bytes, the time as uint64, the head of the bin, the values."""

    layout: struct.Struct
    bin_head: bytes


@cache
def tick_shape(width: int) -> TickShape:
    """The layout of a tick whose values have `width` bytes."""
    packed = bytes(msgpack.packb(bytes(width)))
    head = packed[: len(packed) - width]
    return TickShape(struct.Struct(f">2sQ{len(head)}s{width}s"), head)
