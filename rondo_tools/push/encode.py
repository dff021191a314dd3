"""Remote-write 1.0: a batch as the exact bytes of a request's body, and back.

Strategy: a codec that does no I/O. WriteRequest as protobuf, compressed as one snappy block. NaN
becomes Prometheus' stale marker, whose bits are set as an integer: arithmetic would change them.
The receiver answers 204 to a request in which a series' samples do not ascend, and drops some of
them; so what must hold within a request is asserted here, for every request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import snappy

from rondo_tools.catalog import COUNTER, Series
from rondo_tools.push.batch import Block, Labels
from rondo_tools.push.proto.remote_write_v1_pb2 import MetricMetadata, Sample, TimeSeries, WriteRequest

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
    request = WriteRequest()
    known: dict[Labels, TimeSeries] = {}
    for block in blocks:
        times = block.t_ms.tolist()
        assert all(a < b for a, b in pairwise(times)), "rows do not ascend in time"
        bits = np.ascontiguousarray(block.values).view(np.uint64)
        values = np.where(np.isnan(block.values), np.uint64(STALE_NAN), bits).view(np.float64)
        for labels, column in zip(block.labels, values.T.tolist(), strict=True):
            series = known.get(labels)
            if series is None:
                series = known[labels] = request.timeseries.add()
                _set_labels(series, labels)
            elif times:
                assert series.samples[-1].timestamp < times[0], "blocks do not ascend in time"
            series.samples.extend(map(_sample, column, times))
    for item in metadata:
        request.metadata.add(
            type=MetricMetadata.COUNTER if item.kind == COUNTER else MetricMetadata.GAUGE,
            metric_family_name=item.name,
            help=item.help,
            unit=item.unit,
        )
    return compress(request)


def compress(request: WriteRequest) -> bytes:
    """The body of a request."""
    return bytes(snappy.compress(request.SerializeToString()))


def decode(body: bytes) -> WriteRequest:
    """The request that a body carries. Raises ValueError."""
    try:
        return WriteRequest.FromString(snappy.decompress(body))
    except Exception as exc:  # snappy's and protobuf's errors have no base class in common
        raise ValueError(f"not a remote-write body: {exc}") from exc


def _sample(value: float, t_ms: int) -> Sample:
    return Sample(value=value, timestamp=t_ms)


def _set_labels(series: TimeSeries, labels: Labels) -> None:
    names = [name for name, _ in labels]
    assert names == sorted(set(names)), f"labels are not sorted and unique: {names}"
    for name, value in labels:
        assert value, f"the label {name} is empty"
        assert _LABEL_NAME.fullmatch(name), f"{name!r} is not a label name"
        assert name != "__name__" or _METRIC_NAME.fullmatch(value), f"{value!r} is not a metric name"
        series.labels.add(name=name, value=value)
    assert "__name__" in names, "a series without a name"
