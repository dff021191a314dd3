"""The fed series as sessions of a stream: headers, ticks, ends.

Strategy: a header lists the current series. A later series gets a new header of the same session, before its
first tick. A series that goes away is NaN until the next header leaves it out. Encodes into an output; does
no I/O itself.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable
from typing import Protocol

from rondo_tools.feed.text import TOO_MANY, Current, TextError
from rondo_tools.stream import MAX_SERIES, End, Event, Header, Tick

# The limit of headers, if series come and go all the time: so many bytes at once, then so many each ms.
_HEADER_BYTES, _HEADER_BYTES_PER_MS = 2_000_000, 100

Encode = Callable[[Event], bytes]


class Sink(Protocol):
    """The methods of a producer's output that are used."""

    def begin(self, header: bytes) -> None: ...
    def begin_anew(self, end: bytes, header: bytes) -> None: ...
    def put(self, item: bytes) -> None: ...
    def finish(self, end: bytes) -> None: ...


class Session:
    """One instance on one output. `header` is that of all sessions, without series and start."""

    def __init__(self, output: Sink, encode: Encode, header: Header) -> None:
        self._output, self._encode, self._header = output, encode, header
        self._listed: list[Current] = []  # in the order of the header
        self._fresh: list[Current] = []  # for the next header
        self._end = b""  # the end of the last session, if the next header begins a new one
        self._dropped_ms = -math.inf  # no series has an older value: up to here there is nothing to drop
        self._needs_header = True
        self._paid_ms = 0.0  # before this time only a necessary header is sent
        self._had_values = False  # the last tick
        self.has_begun = False
        self.last_ms = header.start_ms  # the time of the last tick, or of the start

    @property
    def interval_ms(self) -> int:
        return self._header.interval_ms

    def start_at(self, start_ms: int) -> None:
        """Set the start of the session, before its first tick."""
        self._header = self._header._replace(start_ms=start_ms)
        self.last_ms = start_ms

    def set_back(self, start_ms: int) -> None:
        """The clock was set back: end this session, and continue in a new one with the same values."""
        if self.has_begun:
            self._end = self._encode(End("clock", self.last_ms))
        self._needs_header = True
        self.start_at(start_ms)

    def give(self, current: Current, value: float, at_ms: float, oldest_ms: float) -> None:
        """Set the value of a series. Raises TextError if there are too many series.

        In a full header, series without a value since `oldest_ms` are replaced.
        """
        if not current.listed:
            if self._count() >= MAX_SERIES and oldest_ms > self._dropped_ms:
                self._drop(oldest_ms)
            if self._count() >= MAX_SERIES:
                raise TextError(TOO_MANY)
            current.listed = True
            self._fresh.append(current)
        self._dropped_ms = min(self._dropped_ms, at_ms)  # also of a listed series: the clock may be set back
        current.value, current.at_ms = value, at_ms

    def take_back(self, currents: Iterable[Current]) -> None:
        """Leave the series without a value, as if none had been given."""
        for current in currents:
            current.at_ms = -math.inf
        self._dropped_ms = -math.inf

    def tick(self, t_ms: int, oldest_ms: float) -> None:
        """Send the values given at `oldest_ms` or later, and NaN for all others.

        A tick without values is sent only after one with values. New series wait while headers are over their
        limit. Raises TextError, without sending, if the new series do not fit into a header; they are left
        out.
        """
        if self._needs_header or (self._fresh and self._paid_ms <= t_ms):
            self._renew_header(t_ms, oldest_ms)
        values = [one.value if one.at_ms >= oldest_ms else math.nan for one in self._listed]
        has_values = not all(map(math.isnan, values))
        if has_values or self._had_values:
            self._output.put(self._encode(Tick(t_ms, struct.pack(f"<{len(values)}d", *values))))
            self.last_ms, self._had_values = t_ms, has_values

    def finish(self, reason: str) -> None:
        """End the session and the output."""
        self._output.finish(self._end or self._encode(End(reason, self.last_ms)))

    def _count(self) -> int:
        return len(self._listed) + len(self._fresh)

    def _drop(self, oldest_ms: float) -> None:
        """Leave out series without a value since `oldest_ms`."""
        count = len(self._listed)
        for listed in (self._listed, self._fresh):
            for one in listed:
                one.listed = one.at_ms >= oldest_ms
            listed[:] = [one for one in listed if one.listed]
        self._needs_header |= len(self._listed) < count
        self._dropped_ms = min((one.at_ms for one in (*self._listed, *self._fresh)), default=-math.inf)

    def _renew_header(self, t_ms: int, oldest_ms: float) -> None:
        """Send a header with the new series, and without those that went away."""
        self._drop(oldest_ms)
        fresh, self._fresh = self._fresh, []
        if not self._listed and not fresh:
            return
        try:
            header = self._encoded([*self._listed, *fresh])
        except TextError:
            for one in fresh:
                one.listed = False
            raise
        self._listed += fresh
        unused_ms = _HEADER_BYTES / _HEADER_BYTES_PER_MS
        self._paid_ms = max(self._paid_ms, t_ms - unused_ms) + len(header) / _HEADER_BYTES_PER_MS
        if self.has_begun:
            self._output.begin_anew(self._end, header)
        else:
            self._output.begin(header)
        self.has_begun, self._end, self._needs_header = True, b"", False

    def _encoded(self, listed: list[Current]) -> bytes:
        """The header of these series; without their help texts if it is too large. Raises TextError."""
        header = self._header._replace(series=tuple(one.series for one in listed))
        try:
            return self._encode(header)
        except ValueError:
            bare = tuple(series._replace(help="") for series in header.series)
        try:
            return self._encode(header._replace(series=bare))
        except ValueError as exc:
            raise TextError(f"the series do not fit into a header: {exc}; choose some with --match") from None
