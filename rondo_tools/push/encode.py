"""Remote-write 1.0: a batch as the exact bytes of a request's body, and back.

Strategy: a codec that does no I/O. WriteRequest as protobuf, compressed as one snappy block; all of it
is protobuf's own code but the samples, which numpy lays out, for they are many and all alike. NaN
becomes Prometheus' stale marker, whose bits are set as an integer: arithmetic would change them.
The receiver answers 204 to a request in which a series' samples do not ascend, and drops some of
them; so what must hold within a request is asserted here, for every request.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import snappy

from rondo_tools.catalog import COUNTER, Series
from rondo_tools.push.batch import Block, Labels
from rondo_tools.push.proto.remote_write_v1_pb2 import MetricMetadata, TimeSeries, WriteRequest

STALE_NAN = 0x7FF0000000000002
"""The bits of the value that says "this series ends here" (Prometheus' value.StaleNaN)."""

# Request headers that go with the bodies made here.
HEADERS = {
    "Content-Encoding": "snappy",
    "Content-Type": "application/x-protobuf",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
}

_METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def encode(blocks: Iterable[Block], metadata: Iterable[Series] = ()) -> bytes:
    """A request's body. Blocks of the same labels must come in time order.

    Raises AssertionError for blocks that break remote-write's rules: that is a fault of rondo's.
    """
    parts: list[bytes] = []
    for labels, samples in samples_by_series(blocks, samples_of_block).items():
        head = _labels(labels)
        # WriteRequest.timeseries
        parts += (b"\x0a", varint(len(head) + len(samples)), head, samples)
    parts.append(_metadata(metadata))
    return bytes(snappy.compress(b"".join(parts)))


def samples_by_series(
    blocks: Iterable[Block], samples_of: Callable[[Block], Iterable[bytes]]
) -> dict[Labels, bytes]:
    """Each series' samples of all blocks, as `samples_of` gives them for each series of a block.

    Raises AssertionError for samples that do not ascend in time.
    """
    found: dict[Labels, tuple[int, bytes]] = {}  # of each series, the last time and all samples
    for block in blocks:
        if not block.t_ms.size:
            continue
        assert np.all(block.t_ms[1:] > block.t_ms[:-1]), "rows do not ascend in time"
        first_ms, last_ms = int(block.t_ms[0]), int(block.t_ms[-1])
        for labels, samples in zip(block.labels, samples_of(block), strict=True):
            before_ms, before = found.get(labels, (-1, b""))
            assert before_ms < first_ms, "blocks do not ascend in time"
            found[labels] = last_ms, before + samples
    return {labels: samples for labels, (_, samples) in found.items()}


def samples_of_block(block: Block) -> list[bytes]:
    return lay_out(block.t_ms, block.values)


def lay_out(t_ms: npt.NDArray[np.int64], values: npt.NDArray[np.float64], more: bytes = b"") -> list[bytes]:
    """For each column of `values` all its samples, as TimeSeries has them on the wire in 1.0 and 2.0.

    `more` are fields that each sample has besides. Times whose varints are as long as each other
    (six bytes from 1971 to 2109) make samples as long as each other: records, of which numpy lays
    out all of a block at once.
    """
    size = len(varint(int(t_ms[0])))
    if len(varint(int(t_ms[-1]))) != size:
        at = int(np.searchsorted(t_ms, 1 << 7 * size))
        shorter, longer = lay_out(t_ms[:at], values[:at], more), lay_out(t_ms[at:], values[at:], more)
        return [before + after for before, after in zip(shorter, longer, strict=True)]
    rows, series = values.shape
    records = np.empty(
        (series, rows),
        [
            ("head", "u1", 3),
            ("value", "<u8"),
            ("key", "u1"),
            ("t_ms", "u1", (size,)),
            ("more", "u1", (len(more),)),
        ],
    )
    records["head"] = (0x12, 10 + size + len(more), 0x09)  # TimeSeries.samples, its length, Sample.value
    bits = np.ascontiguousarray(values).view(np.uint64)
    records["value"] = np.where(np.isnan(values), np.uint64(STALE_NAN), bits).T
    records["key"] = 0x10  # Sample.timestamp
    goes_on = [0x80] * (size - 1) + [0]
    records["t_ms"] = t_ms[:, np.newaxis] >> (7 * np.arange(size)) & 0x7F | goes_on
    records["more"] = list(more)
    data, length = records.tobytes(), rows * records.itemsize
    return [data[at : at + length] for at in range(0, len(data), length)]


@lru_cache(maxsize=1 << 16)
def _labels(labels: Labels) -> bytes:
    """The labels of a series on the wire; those of a session come again with every batch."""
    series = TimeSeries()
    _set_labels(series, labels)
    return series.SerializeToString()


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


def varint(number: int) -> bytes:
    """A number from 0 on as protobuf writes it."""
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)


def compress(request: WriteRequest) -> bytes:
    """The body of a request."""
    return bytes(snappy.compress(request.SerializeToString()))


def decode(body: bytes) -> WriteRequest:
    """The request that a body carries. Raises ValueError."""
    try:
        return WriteRequest.FromString(snappy.decompress(body))
    except Exception as exc:  # snappy's and protobuf's errors have no base class in common
        raise ValueError(f"not a remote-write body: {exc}") from exc


def _set_labels(series: TimeSeries, labels: Labels) -> None:
    check_labels(labels)
    for name, value in labels:
        series.labels.add(name=name, value=value)


def check_labels(labels: Labels) -> None:
    """Raises AssertionError for labels that break remote-write's rules."""
    names = [name for name, _ in labels]
    assert names == sorted(set(names)), f"labels are not sorted and unique: {names}"
    for name, value in labels:
        assert value, f"the label {name} is empty"
        assert _LABEL_NAME.fullmatch(name), f"{name!r} is not a label name"
        assert name != "__name__" or _METRIC_NAME.fullmatch(value), f"{value!r} is not a metric name"
    assert "__name__" in names, "a series without a name"
