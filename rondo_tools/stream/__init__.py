"""The stream from rondo-vmm to rondo-store: a codec that takes and returns bytes and does no I/O.

Strategy: every message is one msgpack object, identified by its type.

    header   map    {"rondo": 1, "instance": str, "start_ms": int, "labels": {str: str},
                     "interval_ms": int, "series": [{"name": str, "labels": {str: str},
                     "kind": "counter" | "gauge", "unit": str, "help": str}, ...]}
    tick     array  [t_ms: int, values: bin]       one little-endian float64 for each series
    end      map    {"end": reason: str, "t_ms": int}

A store may send one message back over the connection, before the close that acknowledges:

    refused  map    {"refused": {reason: str, number of ticks: int}}

A header opens a session (instance + start_ms) and defines the order of the values. Ticks follow, then
at most one end, then perhaps another header. Times are Unix milliseconds. NaN is "no value". Unknown keys
are ignored. Any other input raises a StreamError with the byte offset of its message. docs/formats.md has
the table of bytes.
"""

from __future__ import annotations

from rondo_tools.stream.decoder import Decoder
from rondo_tools.stream.encoder import TICK_HEAD, TickShape, decode_refused, encode, encode_refused
from rondo_tools.stream.known import forget_series
from rondo_tools.stream.maps import end_from_map, header_from_map, header_to_map, series_from_maps
from rondo_tools.stream.model import (
    END_REASONS,
    MAX_LABELS,
    MAX_MESSAGE,
    MAX_SERIES,
    MAX_T_MS,
    MAX_TEXT,
    VERSION,
    End,
    Event,
    Header,
    Tick,
)

__all__ = [
    "END_REASONS",
    "MAX_LABELS",
    "MAX_MESSAGE",
    "MAX_SERIES",
    "MAX_TEXT",
    "MAX_T_MS",
    "TICK_HEAD",
    "VERSION",
    "Decoder",
    "End",
    "Event",
    "Header",
    "Tick",
    "TickShape",
    "decode_refused",
    "encode",
    "encode_refused",
    "end_from_map",
    "forget_series",
    "header_from_map",
    "header_to_map",
    "series_from_maps",
]
