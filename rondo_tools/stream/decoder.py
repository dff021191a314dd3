"""Decode bytes, in pieces of any size, into events.

Strategy: ticks, headers and ends in the exact form of the encoder are decoded from the bytes themselves; all
other messages go through msgpack's Unpacker, and both ways give the same events and errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from typing import Any

import msgpack

from rondo_tools.errors import StreamError
from rondo_tools.stream.encoder import SERIES_KEY, TICK_HEAD, USUAL_HEADER, TickShape, tick_shape
from rondo_tools.stream.known import known_at, remember
from rondo_tools.stream.maps import InvalidError, end_from_map, header_from_map, header_of, shown
from rondo_tools.stream.model import MAX_MESSAGE, MAX_SERIES, MAX_T_MS, Event, Header, Tick
from rondo_tools.units import format_count

_PIECE = 1 << 18  # bytes decoded at once
_USUAL_END = re.compile(rb"\x82\xa3end([\xa1-\xbf])([a-z]+)\xa4t_ms\xcf(.{8})", re.DOTALL)
_MOST_BEFORE_SERIES = 4096  # bytes of a usual header before its series


def _unpacker() -> msgpack.Unpacker:
    return msgpack.Unpacker(
        use_list=False,
        max_buffer_size=MAX_MESSAGE + _PIECE,
        max_array_len=MAX_SERIES,
        max_map_len=256,
        max_str_len=MAX_MESSAGE,
        max_bin_len=MAX_MESSAGE,
        max_ext_len=0,
    )


class _Need(Enum):
    """What a decoding step returns when the message is not complete."""

    DATA = auto()


class _Messages:
    """Messages of any shape, received in pieces: a msgpack.Unpacker that measures them."""

    __slots__ = ("_end", "_unpacker")

    def __init__(self) -> None:
        self._unpacker = _unpacker()
        self._end = 0  # of the last message

    def feed(self, piece: bytes) -> None:
        self._unpacker.feed(piece)

    def next(self) -> tuple[object, int] | _Need:
        """The next message and its size. Raises what msgpack raises for malformed input."""
        try:
            message = self._unpacker.unpack()
        except msgpack.OutOfData:
            return _Need.DATA
        begin, self._end = self._end, self._unpacker.tell()
        return message, self._end - begin


class Decoder:
    """Turns bytes, in pieces of any size, into events. Use one for each connection or file.

    `feed` yields complete messages; `close` checks that the input did not end inside one. A decoder cannot
    be used after a StreamError. It buffers at most MAX_MESSAGE and one piece.

    Strategy: ticks, headers and ends in the exact form of `encode` are decoded from the bytes themselves;
    an incomplete tick waits in `_buffer`. All other messages go through an Unpacker, which keeps an
    incomplete one and costs 45 kB, so it is dropped after a header or when no message is incomplete.
    """

    __slots__ = ("_buffer", "_messages", "_offset", "_received", "_shape", "_width")

    def __init__(self) -> None:
        self._buffer = b""  # the beginning of a tick
        self._messages: _Messages | None = None  # holds the beginning of any other message
        self._received = 0  # bytes of the stream
        self._offset = 0  # of the current message in the stream
        self._width: int | None = None  # bytes of a tick's values; None if no session is open
        self._shape: TickShape | None = None  # of this session's ticks

    @property
    def is_inside_message(self) -> bool:
        """Whether a message is incomplete."""
        return self._received != self._offset

    @property
    def bytes_inside_message(self) -> int:
        """The number of bytes received of an incomplete message."""
        return self._received - self._offset

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield the events that `data` completes, then raise StreamError if the next message is invalid."""
        for begin in range(0, len(data), _PIECE):
            piece = data[begin : begin + _PIECE]
            self._received += len(piece)
            if self._messages is None:
                piece, self._buffer = self._buffer + piece, b""
            else:
                self._messages.feed(piece)
            while inside := self._received - self._offset:
                if self._messages is None:
                    at = len(piece) - inside
                    usual = self._usual(piece, at)
                    if usual is _Need.DATA:
                        self._buffer = piece[at:]
                        break
                    if usual is not None:
                        events, size = usual
                        self._offset += size
                        yield from events
                        continue
                    self._messages = _Messages()
                    self._messages.feed(piece[at:])
                event = self._next(self._messages)
                if event is _Need.DATA:
                    break
                yield event
            else:
                self._messages = None

    def _usual(self, piece: bytes, at: int) -> tuple[Sequence[Event], int] | _Need | None:
        """The events at `at` in the form of `encode`, and their size; None for any other form."""
        shape = self._shape
        if shape is None or piece[at] != TICK_HEAD[0]:
            return self._usual_map(piece, at)
        ticks, size = self._ticks(piece, at, shape)
        if size:
            return ticks, size
        left = piece[at : at + shape.layout.size]
        incomplete = len(left) < shape.layout.size and left.startswith(TICK_HEAD[: len(left)])
        return _Need.DATA if incomplete else None

    def _usual_map(self, piece: bytes, at: int) -> tuple[Sequence[Event], int] | None:
        """A header with known series, or an end, in the form of `encode`, and its size.

        None for any other message and for an invalid one: the Unpacker's path reports the error.
        """
        try:
            if piece.startswith(USUAL_HEADER, at):
                begin = piece.find(SERIES_KEY, at, at + _MOST_BEFORE_SERIES) + len(SERIES_KEY)
                if begin < len(SERIES_KEY) or (known := known_at(piece, begin)) is None:
                    return None
                size = begin + len(known.packed) - at
                fields = msgpack.unpackb(b"\x85" + piece[at + 1 : begin - len(SERIES_KEY)])
                header = header_of(fields, known.series)
                if size > MAX_MESSAGE or not known.label_names.isdisjoint(fields.get("labels", ())):
                    return None
                self._begin_session(header)
                return (header,), size
            if self._width is not None and (found := _USUAL_END.match(piece, at)) is not None:
                head, reason, t_ms = found.groups()
                if head[0] - 0xA0 == len(reason):
                    end = end_from_map({"end": reason.decode(), "t_ms": int.from_bytes(t_ms)})
                    self._width = self._shape = None
                    return (end,), found.end() - at
        except (ValueError, TypeError, msgpack.UnpackException):
            pass
        return None

    def close(self) -> None:
        """Raise StreamError if the input ended inside a message."""
        if self.is_inside_message:
            size = format_count(self.bytes_inside_message, "byte")
            raise StreamError(f"the input ends inside a message, {size} after it began", offset=self._offset)

    def _ticks(self, piece: bytes, at: int, shape: TickShape) -> tuple[Sequence[Any], int]:
        """The ticks of the usual shape in `piece` from `at` on, and their size."""
        size = shape.layout.size
        ticks = []
        for begin in range(at, len(piece) - size + 1, size):
            head, t_ms, bin_head, values = shape.layout.unpack_from(piece, begin)
            if head != TICK_HEAD or bin_head != shape.bin_head or not 0 < t_ms <= MAX_T_MS:
                break
            ticks.append(Tick(t_ms, values))
        return ticks, size * len(ticks)

    def _next(self, messages: _Messages) -> Event | _Need:
        """The next event of the Unpacker's path."""
        try:
            found = messages.next()
        except Exception as exc:  # msgpack raises many types for malformed input
            raise self._error(
                f"not msgpack as rondo uses it ({type(exc).__name__}: {shown(str(exc))})"
            ) from exc
        if found is _Need.DATA:
            self._check_size(self._received - self._offset)
            return found
        message, size = found
        if type(message) is tuple:
            if (
                len(message) != 2
                or type(message[0]) is not int
                or not 0 < message[0] <= MAX_T_MS
                or type(message[1]) is not bytes
                or len(message[1]) != self._width
            ):
                raise self._error(self._what_is_wrong_with_tick(message))
            event: Event = Tick(*message)
        else:
            self._check_size(size)  # here too, so that the result does not depend on the pieces
            event = self._map_event(message)
        self._offset += size
        return event

    def _check_size(self, size: int) -> None:
        if size > MAX_MESSAGE:
            raise self._error(f"a message is larger than {MAX_MESSAGE} bytes")

    def _map_event(self, message: object) -> Event:
        if not isinstance(message, dict):
            raise self._error(f"{shown(message)} is not a header, a tick or an end")
        try:
            if "end" in message:
                if self._width is None:
                    raise InvalidError("an end with no session before it")
                end = end_from_map(message)
                self._width = self._shape = None
                return end
            header = header_from_map(message)
        except InvalidError as exc:
            raise self._error(str(exc)) from None
        remember(header.series, message["series"])
        self._begin_session(header)
        return header

    def _begin_session(self, header: Header) -> None:
        self._width = 8 * len(header.series)
        self._shape = tick_shape(self._width)
        self._messages = None  # the ticks that follow need no Unpacker

    def _what_is_wrong_with_tick(self, message: tuple[Any, ...]) -> str:
        if self._width is None:
            return "a tick with no session open (no header before it, or after an end)"
        if len(message) != 2:
            return f"an array of {len(message)}; a tick is [t_ms, values]"
        t_ms, values = message
        if type(t_ms) is not int or not 0 < t_ms <= MAX_T_MS:
            return f"a tick's time is {shown(t_ms)}, not milliseconds between 1 and 2^53-1"
        if type(values) is not bytes:
            return f"a tick's values are {shown(values)}, not bin"
        size = format_count(len(values), "byte")
        return f"a tick's values have {size}; the header's series need {self._width}"

    def _error(self, what: str) -> StreamError:
        return StreamError(what, offset=self._offset)
