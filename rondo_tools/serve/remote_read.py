"""Prometheus remote-read: a query in, the samples of a store out.

Strategy: `Timelines` has the rows as columns; this module encodes them. SAMPLES is one message, in the layout
of remote-write and compressed whole. STREAMED_XOR_CHUNKS is a frame for each series, in the order of their
labels; the client takes one series from a frame. For labels alone (Prometheus' /api/v1/series) no sample is
read. The client does not check that there is one series for a label set, in time order: that must be right.
Source: https://prometheus.io/docs/prometheus/latest/querying/remote_read_api/ and storage/remote/codec.go.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from http import HTTPStatus
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import snappy

from rondo_tools.prom.proto.remote_read_pb2 import Chunk, ChunkedReadResponse, Query, ReadRequest
from rondo_tools.prom.samples import Labels
from rondo_tools.prom.wire import Run, labels_on_the_wire, samples_by_series, varint
from rondo_tools.selector import Matcher, Selector
from rondo_tools.serve import xor
from rondo_tools.serve.http import HttpError, Response
from rondo_tools.serve.patterns import MATCHING_S, matcher
from rondo_tools.serve.tiers import choose
from rondo_tools.serve.timelines import Asked, Timelines
from rondo_tools.store.format.tiers import Tier

MAX_QUERY = 1 << 20  # bytes, decompressed
MAX_MATCHERS = 100
MAX_QUERIES = 10  # in a request; Prometheus sends one

# Matchers that are not labels of a series: they choose the tier and the aggregate.
TIER, AGGREGATE = "rondo_tier", "rondo_aggregate"

_OPERATORS = ("=", "!=", "=~", "!~")
_STREAMED = "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse"
_SNAPPY_CHUNK, _SNAPPY_CRC_AT = 1 << 16, 14  # after the stream's identifier and the chunk's head
_LABELS_ONLY = "series"  # ReadHints.func of /api/v1/series


def answer(
    body: bytes,
    timelines: Timelines,
    tiers: Sequence[Tier],
    max_samples: int,
    count: Callable[[int], object],
) -> Response:
    """The answer to a request's body; `count` is called with its number of samples. Raises HttpError."""
    request = _parse(body)
    if len(request.queries) > MAX_QUERIES:
        raise HttpError(HTTPStatus.BAD_REQUEST, f"a request has at most {MAX_QUERIES} queries")
    # The queries of a request share its limits.
    share = max_samples // max(len(request.queries), 1)
    asked = [_asked(query, tiers, share) for query in request.queries]
    if _is_streamed(request):
        # Everything is read before the first byte is sent, so that the status can report an error.
        frames = [
            frame for number, one in enumerate(asked) for frame in _frames(one, number, timelines, count)
        ]
        return Response(frames, _STREAMED)
    results = b"".join(_field(1, _result(one, timelines, count)) for one in asked)
    return Response(
        bytes(snappy.compress(results)), "application/x-protobuf", headers={"Content-Encoding": "snappy"}
    )


def _is_streamed(request: ReadRequest) -> bool:
    """Whether the first accepted type that we have is the stream. Raises HttpError if there is none."""
    ours = (ReadRequest.SAMPLES, ReadRequest.STREAMED_XOR_CHUNKS)
    accepted = list(request.accepted_response_types) or [ReadRequest.SAMPLES]
    for one in accepted:
        if one in ours:
            return one == ReadRequest.STREAMED_XOR_CHUNKS
    raise HttpError(HTTPStatus.BAD_REQUEST, "accept SAMPLES or STREAMED_XOR_CHUNKS")


def _parse(body: bytes) -> ReadRequest:
    """Parse a request. Raises HttpError if it is invalid, before it takes memory."""
    try:
        if snappy_length(body) > MAX_QUERY:
            raise HttpError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a query has at most {MAX_QUERY} bytes, decompressed"
            )
        return ReadRequest.FromString(snappy.decompress(body))
    except HttpError:
        raise
    except Exception as exc:  # snappy's and protobuf's errors have no base class in common
        why = str(exc) or "not compressed with snappy"  # its errors have no text
        raise HttpError(HTTPStatus.BAD_REQUEST, f"not a remote-read request: {why}") from exc


def snappy_length(block: bytes) -> int:
    """The decompressed length in a snappy block's header. Raises ValueError."""
    number = 0
    for at, byte in enumerate(block[:5]):
        number |= (byte & 0x7F) << 7 * at
        if byte < 0x80:
            return number
    raise ValueError("not a snappy block")


class _Query(NamedTuple):
    asked: Asked
    labels_only: bool
    added: Labels  # labels in the matchers that no series has


def _asked(query: Query, tiers: Sequence[Tier], max_samples: int) -> _Query:
    if len(query.matchers) > MAX_MATCHERS:
        raise HttpError(HTTPStatus.BAD_REQUEST, f"a query has at most {MAX_MATCHERS} matchers")
    until = time.monotonic() + MATCHING_S
    matchers: list[Matcher] = []
    forced: dict[str, str] = {}
    for one in query.matchers:
        if not 0 <= one.type < len(_OPERATORS):  # protobuf takes any number
            raise HttpError(HTTPStatus.BAD_REQUEST, f"there is no matcher of type {one.type}")
        if one.name in (TIER, AGGREGATE) and one.type == 0 and one.value:
            forced[one.name] = one.value
        else:
            matchers.append(matcher(one.name, _OPERATORS[one.type], one.value, until))
    hints = query.hints
    span_ms = query.end_timestamp_ms - query.start_timestamp_ms
    tier, aggregate = choose(
        tiers, span_ms=span_ms, step_ms=hints.step_ms, range_ms=hints.range_ms, func=hints.func
    )
    if TIER in forced:
        tier = _number(forced[TIER], len(tiers))
    if AGGREGATE in forced:
        aggregate = forced[AGGREGATE]
        if aggregate not in ("avg", "min", "max"):
            raise HttpError(HTTPStatus.BAD_REQUEST, f"{AGGREGATE} is avg, min or max, not {aggregate!r:.50}")
    asked = Asked(
        Selector(tuple(matchers)),
        query.start_timestamp_ms,
        query.end_timestamp_ms,
        tier,
        aggregate,
        max_samples,
    )
    return _Query(asked, hints.func == _LABELS_ONLY, tuple(sorted(forced.items())))


def _number(text: str, tiers: int) -> int:
    if text not in map(str, range(tiers)):
        raise HttpError(HTTPStatus.BAD_REQUEST, f"{TIER} is a number from 0 to {tiers - 1}, not {text!r:.50}")
    return int(text)


def _result(query: _Query, timelines: Timelines, count: Callable[[int], object]) -> bytes:
    """Encode a QueryResult."""
    if query.labels_only:
        found: Iterable[tuple[Labels, bytes]] = ((one, b"") for one in timelines.labels(query.asked))
    else:
        runs = list(timelines.runs(query.asked))
        count(sum(run.values.size for run in runs))
        found = samples_by_series(runs).items()
    parts: list[bytes] = []
    for labels, samples in found:
        head = b"".join(labels_on_the_wire(_with(labels, query.added)))
        parts += (b"\x0a", varint(len(head) + len(samples)), head, samples)  # QueryResult.timeseries
    return b"".join(parts)


def _with(labels: Labels, added: Labels) -> Labels:
    return tuple(sorted((*labels, *added))) if added else labels


def _field(number: int, message: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(message)) + message


def _frames(
    query: _Query, index: int, timelines: Timelines, count: Callable[[int], object]
) -> Iterator[bytes]:
    """The answer to a query as frames."""
    if query.labels_only:
        chunks_of: dict[Labels, list[Chunk]] = {one: [] for one in timelines.labels(query.asked)}
    else:
        chunks_of = _chunks(timelines.runs(query.asked), count)
    named = ((_with(labels, query.added), chunks) for labels, chunks in chunks_of.items())
    for labels, chunks in sorted(named, key=itemgetter(0)):
        message = ChunkedReadResponse(query_index=index)
        series = message.chunked_series.add(chunks=chunks)
        for name, value in labels:
            series.labels.add(name=name, value=value)
        yield framed(message.SerializeToString())


def _chunks(runs: Iterable[Run[Labels]], count: Callable[[int], object]) -> dict[Labels, list[Chunk]]:
    found: dict[Labels, list[Chunk]] = {}
    samples = 0
    for run in runs:
        samples += run.values.size
        for at in range(0, run.t_ms.size, xor.MOST):
            t_ms = run.t_ms[at : at + xor.MOST]
            values = np.ascontiguousarray(run.values[at : at + xor.MOST])
            first_ms, last_ms = int(t_ms[0]), int(t_ms[-1])
            for name, data in zip(run.names, xor.encode(t_ms, values), strict=True):
                chunk = Chunk(min_time_ms=first_ms, max_time_ms=last_ms, type=Chunk.XOR, data=data)
                found.setdefault(name, []).append(chunk)
    count(samples)
    return found


def framed(message: bytes) -> bytes:
    """A message as a frame of a stream: its length, the CRC-32C of it, the message."""
    return varint(len(message)) + crc32c(message).to_bytes(4, "big") + message


def crc32c(data: bytes) -> int:
    """The Castagnoli CRC, which Python lacks; snappy's framing format has it before each 64 KiB."""
    if len(data) > _SNAPPY_CHUNK:  # a series of ten thousands of samples: rare, so a slow loop will do
        crc = 0xFFFFFFFF
        for byte in data:
            crc = _CASTAGNOLI[(crc ^ byte) & 0xFF] ^ crc >> 8
        return crc ^ 0xFFFFFFFF
    stream = bytes(snappy.StreamCompressor().add_chunk(data))
    masked = int.from_bytes(stream[_SNAPPY_CRC_AT : _SNAPPY_CRC_AT + 4], "little")
    rotated = (masked - 0xA282EAD8) & 0xFFFFFFFF
    return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF


def _castagnoli(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CASTAGNOLI = tuple(map(_castagnoli, range(256)))
