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

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum, auto
from functools import cache, lru_cache
from typing import Any, NamedTuple

import msgpack

from rondo_tools.catalog import KINDS, Series
from rondo_tools.errors import StreamError
from rondo_tools.units import format_count

VERSION = 1
# The reasons of rondo's own tools; a reader accepts any other lower-case word.
END_REASONS = ("poweroff", "reset", "shutdown", "deadline", "signal", "error", "gone", "clock", "lost", "eof")

# Limits that bound a reader's memory, whatever the input.
MAX_MESSAGE = 1 << 20  # bytes
MAX_SERIES = 4096
MAX_LABELS = 32  # of a series, and of a header
MAX_TEXT = 1024  # bytes of a name, label value, unit or help
MAX_T_MS = 2**53 - 1  # exact in a float64

_METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_REASON = re.compile(r"[a-z]{1,32}")
_LABEL_NAME = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")  # Prometheus reserves "__"
_PIECE = 1 << 18  # bytes decoded at once
_USUAL_HEADER = b"\x86\xa5rondo\x01"  # a map of six keys, as `encode` writes it; the series are the last
_USUAL_END = re.compile(rb"\x82\xa3end([\xa1-\xbf])([a-z]+)\xa4t_ms\xcf(.{8})", re.DOTALL)
_SERIES_KEY = b"\xa6series"
_MOST_BEFORE_SERIES = 4096  # bytes of a usual header before its series
TICK_HEAD = b"\x92\xcf"  # an array of two; a uint64, the type of any time after 1970-02-19
_LEAST_UINT64 = 1 << 32  # the least integer that msgpack writes as uint64


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


class _InvalidError(ValueError):
    """A message is invalid; the caller adds the offset."""


def header_to_map(header: Header) -> dict[str, Any]:
    """The header as the map that msgpack carries."""
    return {
        "rondo": VERSION,
        "instance": header.instance,
        "start_ms": header.start_ms,
        "labels": dict(header.labels),
        "interval_ms": header.interval_ms,
        "series": [series._asdict() | {"labels": dict(series.labels)} for series in header.series],
    }


def header_from_map(message: Mapping[str, Any]) -> Header:
    """The header of a map, every field checked. Raises ValueError if one is invalid."""
    version = message.get("rondo")
    if version != VERSION or type(version) is not int:
        raise _InvalidError(
            f"version {_shown(version)} of the stream is not supported (this is version {VERSION})"
        )
    items = message.get("series")
    if not isinstance(items, Sequence) or isinstance(items, str | bytes) or not items:
        raise _InvalidError("the header's series are not a list with at least one entry")
    if len(items) > MAX_SERIES:
        raise _InvalidError(f"the header has {len(items)} series; {MAX_SERIES} is the limit")
    header = _header(message, series_from_maps(items))
    _check_identity(header)
    return header


def _header(message: Mapping[str, Any], series: tuple[Series, ...]) -> Header:
    return Header(
        instance=_text(message, "instance"),
        start_ms=_time(message, "start_ms"),
        labels=_labels(message),
        interval_ms=_time(message, "interval_ms"),
        series=series,
    )


def series_from_maps(items: Sequence[Any]) -> tuple[Series, ...]:
    """The series of a list of maps. Equal lists, as those of many VMs, are checked and kept once."""
    try:
        frozen = tuple(
            (
                item.get("name"),
                tuple(item.get("labels", {}).items()),
                item.get("kind"),
                item.get("unit", ""),
                item.get("help", ""),
            )
            for item in items
        )
        return _known_series(frozen)
    except (AttributeError, TypeError):  # an item is not a map, or contains one that is not hashable
        return tuple(map(_series, items))


@lru_cache(maxsize=8)  # few, because a header may be large
def _known_series(frozen: tuple[tuple[Any, ...], ...]) -> tuple[Series, ...]:
    return tuple(
        _series({"name": name, "labels": dict(labels), "kind": kind, "unit": unit, "help": text})
        for name, labels, kind, unit, text in frozen
    )


class _Known(NamedTuple):
    """The series of a decoded header, and their packed bytes, by which the next header is recognized."""

    packed: bytes
    series: tuple[Series, ...]
    label_names: frozenset[str]  # names that the header's own labels cannot use


_known: tuple[_Known, ...] = ()  # the newest first
_MOST_KNOWN = 8
_MOST_KNOWN_BYTES = 1 << 16  # of one


def _known_at(piece: bytes, at: int) -> _Known | None:
    for known in _known:
        if piece.startswith(known.packed, at):
            return known
    return None


def _remember(series: tuple[Series, ...], items: Any) -> None:
    """Remember decoded series, so that the next VM's header with the same ones is not decoded again."""
    global _known
    new = _pack(series, items)
    if len(new.packed) <= _MOST_KNOWN_BYTES:
        others = (known for known in _known if known.packed != new.packed)
        _known = (new, *others)[:_MOST_KNOWN]


def _pack(series: tuple[Series, ...], items: Any) -> _Known:
    names = frozenset({"instance"}.union(*(dict(one.labels) for one in series)))
    return _Known(bytes(msgpack.packb(items)), series, names)


@lru_cache(maxsize=_MOST_KNOWN)
def _checked(series: tuple[Series, ...]) -> _Known:
    """The same for encoding: check and pack a list of series once. Raises ValueError."""
    message = header_to_map(Header("any", 1, (), 1, series))
    header_from_map(message)
    return _pack(series, message["series"])


def forget_series() -> None:
    """Forget all remembered series."""
    global _known
    _known = ()


def _check_identity(header: Header) -> None:
    common = {name for name, _ in header.labels}
    if "instance" in common:
        raise _InvalidError("the label 'instance' is the header's instance and cannot be set")
    seen = set()
    kinds: dict[str, str] = {}
    for series in header.series:
        identity = (series.name, series.labels)
        if identity in seen:
            raise _InvalidError(f"the series {_shown(str(series))} is repeated")
        seen.add(identity)
        if kinds.setdefault(series.name, series.kind) != series.kind:
            raise _InvalidError(f"{_shown(series.name)} is a counter and a gauge at once")
        for name, _ in series.labels:
            if name in common or name == "instance":
                raise _InvalidError(f"the label {_shown(name)} of {series.name} is also one of the header's")


def _text(item: Mapping[str, Any], key: str, *, may_be_empty: bool = False) -> str:
    value = item.get(key, "" if may_be_empty else None)
    if not isinstance(value, str):
        raise _InvalidError(f"{key!r} is {_shown(value)}, not a string")
    if not value and not may_be_empty:
        raise _InvalidError(f"{key!r} is empty")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise _InvalidError(f"{key!r} is not valid UTF-8") from None
    if size > MAX_TEXT:
        raise _InvalidError(f"{key!r} has {size} bytes; {MAX_TEXT} is the limit")
    return value


def _time(item: Mapping[str, Any], key: str) -> int:
    value = item.get(key)
    if type(value) is not int or not 0 < value <= MAX_T_MS:
        raise _InvalidError(f"{key!r} is {_shown(value)}, not milliseconds between 1 and 2^53-1")
    return value


def _labels(item: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    labels = item.get("labels", {})
    if not isinstance(labels, Mapping):
        raise _InvalidError(f"'labels' is {_shown(labels)}, not a map")
    if len(labels) > MAX_LABELS:
        raise _InvalidError(f"{len(labels)} labels are more than {MAX_LABELS}")
    for name in labels:
        if not isinstance(name, str) or len(name) > MAX_TEXT or not _LABEL_NAME.fullmatch(name):
            raise _InvalidError(f"{_shown(name)} is not a label name")
    return tuple(sorted((name, _text(labels, name)) for name in labels))


def _series(item: object) -> Series:
    if not isinstance(item, Mapping):
        raise _InvalidError(f"a series is {_shown(item)}, not a map")
    name = _text(item, "name")
    if not _METRIC_NAME.fullmatch(name):
        raise _InvalidError(f"{_shown(name)} is not a metric name")
    kind = item.get("kind")
    if kind not in KINDS:
        raise _InvalidError(f"the kind of {name} is {_shown(kind)}, not one of {', '.join(KINDS)}")
    unit = _text(item, "unit", may_be_empty=True)
    return Series(name, _labels(item), kind, unit, _text(item, "help", may_be_empty=True))


def end_from_map(message: Mapping[str, Any]) -> End:
    """The end of a map, every field checked. Raises ValueError if one is invalid."""
    reason = message.get("end")
    if not isinstance(reason, str) or not _REASON.fullmatch(reason):
        raise _InvalidError(f"the end's reason is {_shown(reason)}, not 1 to 32 lower-case letters")
    return End(reason, _time(message, "t_ms"))


def _shown(value: object) -> str:
    """A value of the input, shortened for an error message."""
    text = repr(value) if isinstance(value, str | int | float | None) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def encode(event: Event) -> bytes:
    """Encode one message. Raises ValueError for one that a Decoder would refuse.

    The number of a tick's values is not checked: only the Decoder knows the session's header.
    """
    if isinstance(event, Tick):
        t_ms, values = event
        if _LEAST_UINT64 <= t_ms <= MAX_T_MS:  # the same bytes as msgpack's, in a third of the time
            layout, bin_head = _tick_shape(len(values))
            return layout.pack(TICK_HEAD, t_ms, bin_head, values)
        _time(event._asdict(), "t_ms")
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
    series = _checked(header.series)
    fields = header_to_map(header._replace(series=()))
    del fields["series"]
    _header(fields, header.series)
    if not series.label_names.isdisjoint(fields["labels"]):
        _check_identity(header)  # raises, and names the label
    return _USUAL_HEADER[:1] + bytes(msgpack.packb(fields))[1:] + _SERIES_KEY + series.packed


def encode_refused(refused: Mapping[str, int]) -> bytes:
    """Encode the number of refused ticks by reason, which a store sends before it acknowledges."""
    return bytes(msgpack.packb({"refused": dict(refused)}))


def decode_refused(data: bytes) -> dict[str, int]:
    """The number of refused ticks by reason; empty if `data` is anything else."""
    try:
        message = msgpack.unpackb(data)
        items = message["refused"].items()
        return {reason: n for reason, n in items if _REASON.fullmatch(reason) and type(n) is int and n > 0}
    except Exception:  # msgpack raises many types, and the data may be anything
        return {}


class TickShape(NamedTuple):
    """The layout of a tick from `encode`: two bytes, the time as uint64, the head of the bin, the values."""

    layout: struct.Struct
    bin_head: bytes


@cache
def _tick_shape(width: int) -> TickShape:
    packed = bytes(msgpack.packb(bytes(width)))
    head = packed[: len(packed) - width]
    return TickShape(struct.Struct(f">2sQ{len(head)}s{width}s"), head)


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
            if piece.startswith(_USUAL_HEADER, at):
                begin = piece.find(_SERIES_KEY, at, at + _MOST_BEFORE_SERIES) + len(_SERIES_KEY)
                if begin < len(_SERIES_KEY) or (known := _known_at(piece, begin)) is None:
                    return None
                size = begin + len(known.packed) - at
                fields = msgpack.unpackb(b"\x85" + piece[at + 1 : begin - len(_SERIES_KEY)])
                header = _header(fields, known.series)
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
                f"not msgpack as rondo uses it ({type(exc).__name__}: {_shown(str(exc))})"
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
            raise self._error(f"{_shown(message)} is not a header, a tick or an end")
        try:
            if "end" in message:
                if self._width is None:
                    raise _InvalidError("an end with no session before it")
                end = end_from_map(message)
                self._width = self._shape = None
                return end
            header = header_from_map(message)
        except _InvalidError as exc:
            raise self._error(str(exc)) from None
        _remember(header.series, message["series"])
        self._begin_session(header)
        return header

    def _begin_session(self, header: Header) -> None:
        self._width = 8 * len(header.series)
        self._shape = _tick_shape(self._width)
        self._messages = None  # the ticks that follow need no Unpacker

    def _what_is_wrong_with_tick(self, message: tuple[Any, ...]) -> str:
        if self._width is None:
            return "a tick with no session open (no header before it, or after an end)"
        if len(message) != 2:
            return f"an array of {len(message)}; a tick is [t_ms, values]"
        t_ms, values = message
        if type(t_ms) is not int or not 0 < t_ms <= MAX_T_MS:
            return f"a tick's time is {_shown(t_ms)}, not milliseconds between 1 and 2^53-1"
        if type(values) is not bytes:
            return f"a tick's values are {_shown(values)}, not bin"
        size = format_count(len(values), "byte")
        return f"a tick's values have {size}; the header's series need {self._width}"

    def _error(self, what: str) -> StreamError:
        return StreamError(what, offset=self._offset)
