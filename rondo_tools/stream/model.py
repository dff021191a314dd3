"""The messages of a stream, as values, and the limits that bound a reader's memory."""

from __future__ import annotations

from typing import NamedTuple

from rondo_tools.catalog import Series

VERSION = 1
# The reasons of rondo's own tools; a reader accepts any other lower-case word.
END_REASONS = ("poweroff", "reset", "shutdown", "deadline", "signal", "error", "gone", "clock", "lost", "eof")

# Limits that bound a reader's memory, whatever the input.
MAX_MESSAGE = 1 << 20  # bytes
MAX_SERIES = 4096
MAX_LABELS = 32  # of a series, and of a header
MAX_TEXT = 1024  # bytes of a name, label value, unit or help
MAX_T_MS = 2**53 - 1  # exact in a float64


class Header(NamedTuple):
    """Opens a session. `labels` are (name, value) pairs sorted by name, beyond instance and job."""

    instance: str
    start_ms: int
    labels: tuple[tuple[str, str], ...]
    interval_ms: int
    series: tuple[Series, ...]


class Tick(NamedTuple):
    """The values at one time: `values` has 8 bytes for each series, little-endian float64."""

    t_ms: int
    values: bytes


class End(NamedTuple):
    """Ends a session; `reason` is a lower-case word, usually one of END_REASONS."""

    reason: str
    t_ms: int


Event = Header | Tick | End
