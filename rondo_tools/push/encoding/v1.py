"""Remote-write 1.0: encodes a batch as the exact bytes of a request's body, and decodes it.

Strategy: a codec without I/O. A body is a WriteRequest in protobuf, compressed as one snappy block.
`prom.wire` lays out the samples. The labels of a session's series are encoded once and used in every
batch. Python only joins length, labels and samples of each series.

A receiver answers 204 to a request in which a series' samples do not ascend, and drops some of them. So
the rules of a request are asserted here, for every request.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import snappy

from rondo_tools.catalog import COUNTER, Series
from rondo_tools.prom.proto.remote_write_v1_pb2 import MetricMetadata, WriteRequest
from rondo_tools.prom.samples import INSTANCE, Block, Labels, SeriesSet
from rondo_tools.prom.wire import Run, label_on_the_wire, labels_on_the_wire, samples_by_series, varint
from rondo_tools.push.model import MAX_BYTES, SAMPLE_BYTES

# Request headers for these bodies.
HEADERS = {
    "Content-Encoding": "snappy",
    "Content-Type": "application/x-protobuf",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}

_LONG_HEAD = 1024  # bytes

Head = bytes | tuple[bytes, ...]
"""A series' encoded labels; long ones in parts, which the series of a session share."""


def encode(blocks: Iterable[Block], metadata: Iterable[Series] = ()) -> bytes:
    """A request's body. Blocks with the same labels must be in time order.

    Raises AssertionError for blocks that break remote-write's rules, which is a bug of rondo.
    """
    parts: list[bytes] = []
    for head, samples in _series(blocks):
        whole = head if isinstance(head, bytes) else b"".join(head)
        # WriteRequest.timeseries
        parts += (b"\x0a", varint(len(whole) + len(samples)), whole, samples)
    parts.append(_metadata(metadata))
    return bytes(snappy.compress(b"".join(parts)))


def bodies(blocks: Sequence[Block], metadata: Iterable[Series] = ()) -> Iterator[bytes]:
    """The same in several bodies of about MAX_BYTES before compression; a series is never split."""
    labels = sum(series_set.label_bytes for series_set in {block.series_set for block in blocks})
    if labels + SAMPLE_BYTES * sum(block.values.size for block in blocks) <= MAX_BYTES:
        yield encode(blocks, metadata)
        return
    parts = [_metadata(metadata)]
    size = len(parts[0])
    for head, samples in _series(blocks):
        whole = head if isinstance(head, tuple) else (head,)
        length = sum(map(len, whole)) + len(samples)
        if size + length > MAX_BYTES and len(parts) > 1:
            yield bytes(snappy.compress(b"".join(parts)))
            parts, size = [], 0
        parts += (b"\x0a", varint(length), *whole, samples)
        size += length
    yield bytes(snappy.compress(b"".join(parts)))


def _series(blocks: Iterable[Block]) -> Iterable[tuple[Head, bytes]]:
    """Labels and samples of each series, encoded."""
    runs = (Run(_heads(block.series_set), block.t_ms, block.values) for block in blocks)
    return samples_by_series(runs).items()


@lru_cache(maxsize=1 << 12)
def _heads(series_set: SeriesSet) -> tuple[Head, ...]:
    """TimeSeries.labels of each of a session's series, encoded."""
    if series_set.instance is None:
        return tuple(_head(labels_on_the_wire(labels)) for labels in series_set.pattern)
    # Not cached: few series have this label.
    mine = (label_on_the_wire.__wrapped__((INSTANCE, series_set.instance)),)
    return tuple(_head(before + mine + behind) for before, behind in _around_instance(series_set.pattern))


def _head(parts: tuple[bytes, ...]) -> Head:
    return b"".join(parts) if sum(map(len, parts)) <= _LONG_HEAD else parts


@lru_cache(maxsize=1 << 8)
def _around_instance(pattern: tuple[Labels, ...]) -> tuple[tuple[tuple[bytes, ...], tuple[bytes, ...]], ...]:
    """The encoded labels of each series before the instance, and those after it."""
    found = []
    for labels in pattern:
        parts = labels_on_the_wire(labels)
        at = [name for name, _ in labels].index(INSTANCE)
        found.append((_joined(parts[:at]), _joined(parts[at + 1 :])))
    return tuple(found)


def _joined(parts: tuple[bytes, ...]) -> tuple[bytes, ...]:
    head = _head(parts)
    return (head,) if isinstance(head, bytes) else head


def _metadata(metadata: Iterable[Series]) -> bytes:
    request = WriteRequest()
    for item in metadata:
        request.metadata.add(
            type=MetricMetadata.COUNTER if item.kind == COUNTER else MetricMetadata.GAUGE,
            metric_family_name=item.name,
            help=item.help,
            unit=item.unit,
        )
    return request.SerializeToString()


def compress(request: WriteRequest) -> bytes:
    """The body of a request."""
    return bytes(snappy.compress(request.SerializeToString()))


def decode(body: bytes) -> WriteRequest:
    """The request in a body. Raises ValueError."""
    try:
        return WriteRequest.FromString(snappy.decompress(body))
    except Exception as exc:  # snappy's and protobuf's errors have no base class in common
        raise ValueError(f"not a remote-write body: {exc}") from exc
