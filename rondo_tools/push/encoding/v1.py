"""Remote-write 1.0: a batch as the exact bytes of a request's body, and back.

Strategy: a codec that does no I/O. WriteRequest as protobuf, compressed as one snappy block. Samples
are many and all alike, so numpy lays them out, all blocks of one shape at once. The labels of a
session's series are written once and come again with every batch. What is left for Python is to put
length, labels and samples of each series one after another. NaN becomes Prometheus' stale marker,
whose bits are set as an integer: arithmetic would change them.

The receiver answers 204 to a request in which a series' samples do not ascend, and drops some of
them; so what must hold within a request is asserted here, for every request.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import lru_cache
from operator import lt
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import snappy

from rondo_tools.catalog import COUNTER, Series
from rondo_tools.prom.proto.remote_write_v1_pb2 import MetricMetadata, WriteRequest
from rondo_tools.prom.samples import INSTANCE, STALE_NAN, Block, Labels, SeriesSet
from rondo_tools.push.model import MAX_BYTES, SAMPLE_BYTES

# Request headers that go with the bodies made here.
HEADERS = {
    "Content-Encoding": "snappy",
    "Content-Type": "application/x-protobuf",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}

_METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")

_LONG_HEAD = 1024  # bytes

Name = TypeVar("Name", bound=Hashable)
Head = bytes | tuple[bytes, ...]
"""A series' labels; if they are long, as parts, which the series of a session share."""


class Run(NamedTuple, Generic[Name]):
    """Rows of some series; `names` tells the series apart, one name for each column of `values`.

    `more` are fields that each sample has besides value and time.
    """

    names: Sequence[Name]
    t_ms: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    more: bytes = b""


def encode(blocks: Iterable[Block], metadata: Iterable[Series] = ()) -> bytes:
    """A request's body. Blocks of the same labels must come in time order.

    Raises AssertionError for blocks that break remote-write's rules: that is a fault of rondo's.
    """
    parts: list[bytes] = []
    for head, samples in _series(blocks):
        whole = head if isinstance(head, bytes) else b"".join(head)
        # WriteRequest.timeseries
        parts += (b"\x0a", varint(len(whole) + len(samples)), whole, samples)
    parts.append(_metadata(metadata))
    return bytes(snappy.compress(b"".join(parts)))


def bodies(
    blocks: Sequence[Block], metadata: Iterable[Series] = (), *, max_bytes: int = MAX_BYTES
) -> Iterator[bytes]:
    """The same as several bodies of about `max_bytes` before compression; a series is never cut."""
    labels = sum(series_set.label_bytes for series_set in {block.series_set for block in blocks})
    if labels + SAMPLE_BYTES * sum(block.values.size for block in blocks) <= max_bytes:
        yield encode(blocks, metadata)
        return
    parts = [_metadata(metadata)]
    size = len(parts[0])
    for head, samples in _series(blocks):
        whole = head if isinstance(head, tuple) else (head,)
        length = sum(map(len, whole)) + len(samples)
        if size + length > max_bytes and len(parts) > 1:
            yield bytes(snappy.compress(b"".join(parts)))
            parts, size = [], 0
        parts += (b"\x0a", varint(length), *whole, samples)
        size += length
    yield bytes(snappy.compress(b"".join(parts)))


def _series(blocks: Iterable[Block]) -> Iterable[tuple[Head, bytes]]:
    """Labels and samples of each series, on the wire."""
    runs = (Run(_heads(block.series_set), block.t_ms, block.values) for block in blocks)
    return samples_by_series(runs).items()


def samples_by_series(runs: Iterable[Run[Name]]) -> dict[Name, bytes]:
    """All samples of each series, as TimeSeries has them on the wire in 1.0 and 2.0.

    A run without rows or without series is left out. Raises AssertionError for samples that do not
    ascend in time.
    """
    whole = [part for run in runs if run.values.size for part in _of_one_length(run)]
    alike: dict[tuple[int, ...], list[int]] = {}  # where in `whole` runs of the same shape are
    for at, (length, run) in enumerate(whole):
        alike.setdefault((length, *run.values.shape, len(run.more)), []).append(at)
    laid_out: list[list[bytes]] = [[]] * len(whole)
    for (length, *_), places in alike.items():
        for at, samples in zip(places, _lay_out([whole[at][1] for at in places], length), strict=True):
            laid_out[at] = samples
    found: dict[Name, tuple[int, bytes]] = {}  # of each series, the last time and all samples
    for (_, run), samples_of_run in zip(whole, laid_out, strict=True):
        first_ms, last_ms = int(run.t_ms[0]), int(run.t_ms[-1])
        for name, more in zip(run.names, samples_of_run, strict=True):
            if name in found:
                before_ms, before = found[name]
                assert before_ms < first_ms, "blocks do not ascend in time"
                found[name] = last_ms, before + more
            else:
                found[name] = last_ms, more
    return {name: samples for name, (_, samples) in found.items()}


def _of_one_length(run: Run[Name]) -> list[tuple[int, Run[Name]]]:
    """The run in parts, in each of which all times have varints of the same length, and that length.

    Six bytes do from 1971 to 2109: one part, but for times that lie.
    """
    length = _varint_length(int(run.t_ms[0]))
    if int(run.t_ms[-1]) < 1 << 7 * length:
        return [(length, run)]
    at = int(run.t_ms.searchsorted(1 << 7 * length))
    rest = run._replace(t_ms=run.t_ms[at:], values=run.values[at:])
    return [(length, run._replace(t_ms=run.t_ms[:at], values=run.values[:at])), *_of_one_length(rest)]


def _lay_out(runs: Sequence[Run[Name]], length: int) -> list[list[bytes]]:
    """For each of some runs of one shape, its series' samples; `length` is that of a time's varint.

    Such samples are records, all of the same size.
    """
    rows, series = runs[0].values.shape
    t_ms = np.concatenate([run.t_ms for run in runs]).reshape(len(runs), rows)
    values = np.concatenate([run.values for run in runs]).reshape(len(runs), rows, series)
    assert np.all(t_ms[:, 1:] > t_ms[:, :-1]), "rows do not ascend in time"
    more = np.array([list(run.more) for run in runs], np.uint8)
    record = np.dtype(
        [
            ("head", "u1", 3),
            ("value", "<u8"),
            ("key", "u1"),
            ("t_ms", "u1", (length,)),
            ("more", "u1", more.shape[1:]),
        ]
    )
    # All but the value is the same for all series.
    moments = np.zeros((len(runs), 1, rows), record)
    moments["head"] = (0x12, record.itemsize - 2, 0x09)  # TimeSeries.samples, its length, Sample.value
    moments["key"] = 0x10  # Sample.timestamp
    goes_on = [0x80] * (length - 1) + [0]
    moments["t_ms"] = (t_ms[:, np.newaxis, :, np.newaxis] >> 7 * np.arange(length)) & 0x7F | goes_on
    moments["more"] = more[:, np.newaxis, np.newaxis]
    records = np.repeat(moments, series, axis=1)
    bits = np.where(np.isnan(values), np.uint64(STALE_NAN), values.view(np.uint64))
    records["value"] = bits.transpose(0, 2, 1)
    data, size = records.tobytes(), rows * record.itemsize
    samples = [data[at : at + size] for at in range(0, len(data), size)]
    return [samples[at : at + series] for at in range(0, len(samples), series)]


@lru_cache(maxsize=1 << 12)
def _heads(series_set: SeriesSet) -> tuple[Head, ...]:
    """TimeSeries.labels of each of a session's series, on the wire."""
    if series_set.instance is None:
        return tuple(_head(labels_on_the_wire(labels)) for labels in series_set.pattern)
    mine = (_label.__wrapped__((INSTANCE, series_set.instance)),)  # it does not come with many series
    return tuple(_head(before + mine + behind) for before, behind in _around_instance(series_set.pattern))


def _head(parts: tuple[bytes, ...]) -> Head:
    return b"".join(parts) if sum(map(len, parts)) <= _LONG_HEAD else parts


@lru_cache(maxsize=1 << 8)
def _around_instance(pattern: tuple[Labels, ...]) -> tuple[tuple[tuple[bytes, ...], tuple[bytes, ...]], ...]:
    """Of each series' labels on the wire, those before the instance and those behind."""
    found = []
    for labels in pattern:
        parts = labels_on_the_wire(labels)
        at = [name for name, _ in labels].index(INSTANCE)
        found.append((_joined(parts[:at]), _joined(parts[at + 1 :])))
    return tuple(found)


def _joined(parts: tuple[bytes, ...]) -> tuple[bytes, ...]:
    head = _head(parts)
    return (head,) if isinstance(head, bytes) else head


def labels_on_the_wire(labels: Labels) -> tuple[bytes, ...]:
    """TimeSeries.labels, each. Raises AssertionError for labels that break remote-write's rules."""
    names = [name for name, _ in labels]
    assert all(map(lt, names, names[1:])), f"labels are not sorted and unique: {names}"
    assert "__name__" in names, "a series without a name"
    return tuple(map(_label, labels))


@lru_cache(maxsize=1 << 12)
def _label(label: tuple[str, str]) -> bytes:
    """A label, which comes with many series; checked where it is made."""
    name, value = label
    assert value, f"the label {name} is empty"
    assert _LABEL_NAME.fullmatch(name), f"{name!r} is not a label name"
    assert name != "__name__" or _METRIC_NAME.fullmatch(value), f"{value!r} is not a metric name"
    pair = b"".join(
        key + varint(len(text)) + text
        for key, text in ((b"\x0a", name.encode()), (b"\x12", value.encode()))  # Label.name, Label.value
    )
    return b"\x0a" + varint(len(pair)) + pair


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


@lru_cache(maxsize=1 << 12)
def varint(number: int) -> bytes:
    """A number from 0 on as protobuf writes it."""
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)


def _varint_length(number: int) -> int:
    return max(1, -(-number.bit_length() // 7))


def compress(request: WriteRequest) -> bytes:
    """The body of a request."""
    return bytes(snappy.compress(request.SerializeToString()))


def decode(body: bytes) -> WriteRequest:
    """The request that a body carries. Raises ValueError."""
    try:
        return WriteRequest.FromString(snappy.decompress(body))
    except Exception as exc:  # snappy's and protobuf's errors have no base class in common
        raise ValueError(f"not a remote-write body: {exc}") from exc
