"""Remote-write 2.0: encodes a batch as the exact bytes of a request's body, and decodes it.

Strategy: this module has only the differences to 1.0. Samples are laid out as in 1.0, with the start time
of a counter as one more field; labels, help and unit are numbers of symbols, and each symbol is sent once.
Reconciling and dry runs see a request of 1.0 (`plain`). To send a part of its samples, `select` takes them
from the request of 2.0, so that fields unknown to 1.0 are kept.
"""

from __future__ import annotations

from collections.abc import Iterable

import snappy

from rondo_tools.catalog import COUNTER, Series
from rondo_tools.prom.proto.remote_write_v1_pb2 import WriteRequest
from rondo_tools.prom.proto.remote_write_v2_pb2 import Metadata, Request, TimeSeries
from rondo_tools.prom.samples import Block, Labels
from rondo_tools.prom.wire import Run, labels_on_the_wire, samples_by_series, varint

# Request headers for these bodies.
HEADERS = {
    "Content-Encoding": "snappy",
    "Content-Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request",
    "X-Prometheus-Remote-Write-Version": "2.0.0",
}


def encode(blocks: Iterable[Block]) -> bytes:
    """A request's body. Blocks with the same labels must be in time order.

    Raises AssertionError for blocks that break remote-write's rules, which is a bug of rondo.
    """
    blocks = list(blocks)
    described = {
        labels: one
        for block in blocks
        for labels, one in zip(block.series_set.labels, block.series_set.series, strict=True)
    }
    numbers: dict[str, int] = {"": 0}  # of each symbol
    series: list[bytes] = []
    for labels, samples in samples_by_series(run for block in blocks for run in _runs(block)).items():
        labels_on_the_wire(labels)  # asserts the rules, which are the same in 2.0
        around = TimeSeries(
            labels_refs=[_number(numbers, text) for pair in labels for text in pair],
            metadata=_metadata(numbers, described[labels]),
        ).SerializeToString()
        # Request.timeseries; protobuf accepts a message's fields in any order.
        series += (b"\x2a", varint(len(around) + len(samples)), around, samples)
    symbols = Request(symbols=list(numbers)).SerializeToString()
    return bytes(snappy.compress(symbols + b"".join(series)))


def _runs(block: Block) -> tuple[Run[Labels], ...]:
    """A block's counters, whose samples have the counter's start time, and its gauges."""
    series_set, t_ms, values, start_ms = block
    if not t_ms.size or not 0 < start_ms <= int(t_ms[0]):
        return (Run(series_set.labels, t_ms, values),)  # a clock was set, so the start is not known
    counters = [at for at, series in enumerate(series_set.series) if series.kind == COUNTER]
    gauges = [at for at, series in enumerate(series_set.series) if series.kind != COUNTER]
    return (
        Run(
            [series_set.labels[at] for at in counters],
            t_ms,
            values[:, counters],
            b"\x18" + varint(start_ms),  # Sample.start_timestamp
        ),
        Run([series_set.labels[at] for at in gauges], t_ms, values[:, gauges]),
    )


def _metadata(numbers: dict[str, int], series: Series) -> Metadata:
    return Metadata(
        type=Metadata.METRIC_TYPE_COUNTER if series.kind == COUNTER else Metadata.METRIC_TYPE_GAUGE,
        help_ref=_number(numbers, series.help),
        unit_ref=_number(numbers, series.unit),
    )


def _number(numbers: dict[str, int], text: str) -> int:
    return numbers.setdefault(text, len(numbers))


def decode(body: bytes) -> Request:
    """The request in a body. Raises ValueError."""
    try:
        request = Request.FromString(snappy.decompress(body))
    except Exception as exc:  # snappy's and protobuf's errors have no base class in common
        raise ValueError(f"not a remote-write 2.0 body: {exc}") from exc
    for series in request.timeseries:
        refs = series.labels_refs
        if len(refs) % 2 or any(ref >= len(request.symbols) for ref in refs):
            raise ValueError("not a remote-write 2.0 body: a label is not a symbol")
    return request


def plain(request: Request) -> WriteRequest:
    """The same labels and samples as a request of 1.0."""
    found = WriteRequest()
    for series in request.timeseries:
        one = found.timeseries.add()
        for name, value in _labels(request, series):
            one.labels.add(name=name, value=value)
        for sample in series.samples:
            one.samples.add(value=sample.value, timestamp=sample.timestamp)
    return found


def select(whole: Request, piece: WriteRequest) -> Request:
    """The series and times of `whole` that are in `piece`."""
    wanted = {
        tuple((label.name, label.value) for label in series.labels): {one.timestamp for one in series.samples}
        for series in piece.timeseries
    }
    found = Request()
    numbers: dict[str, int] = {"": 0}
    for series in whole.timeseries:
        times = wanted.get(_labels(whole, series))
        if not times:
            continue
        one = found.timeseries.add(
            labels_refs=[_number(numbers, whole.symbols[ref]) for ref in series.labels_refs],
            samples=[sample for sample in series.samples if sample.timestamp in times],
        )
        meta = series.metadata
        one.metadata.type = meta.type
        one.metadata.help_ref = _number(numbers, whole.symbols[meta.help_ref])
        one.metadata.unit_ref = _number(numbers, whole.symbols[meta.unit_ref])
    found.symbols.extend(numbers)
    return found


def compress(request: Request) -> bytes:
    """The body of a request."""
    return bytes(snappy.compress(request.SerializeToString()))


def _labels(request: Request, series: TimeSeries) -> Labels:
    texts = [request.symbols[ref] for ref in series.labels_refs]
    return tuple(zip(texts[::2], texts[1::2], strict=True))
