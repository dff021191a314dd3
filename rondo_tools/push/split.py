"""A request cut into parts: by instance, by series, by time.

Strategy: a part is a request again, so that it can be sent, or cut once more; the samples are the
same objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rondo_tools.catalog import Series
from rondo_tools.push.proto.remote_write_v1_pb2 import Sample, TimeSeries, WriteRequest


def name_of(series: TimeSeries) -> str:
    """The series in Prometheus' spelling, all its labels included."""
    labels = {label.name: label.value for label in series.labels}
    name = labels.pop("__name__", "")
    return str(Series(name, tuple(labels.items()), "", "", ""))


def witnesses(request: WriteRequest) -> list[TimeSeries]:
    """Three series, of different instances if there are so many, to speak for all."""
    found = [part.timeseries[0] for part in by_instance(request)[:3]]
    names = {name_of(series) for series in found}
    for series in request.timeseries:
        if len(found) >= 3:
            break
        if name_of(series) not in names:
            found.append(series)
    return found


def count(request: WriteRequest) -> int:
    return sum(len(series.samples) for series in request.timeseries)


def only(series: TimeSeries, samples: Iterable[Sample]) -> WriteRequest:
    """A request for some samples of one series; empty without any."""
    request = WriteRequest()
    samples = list(samples)
    if samples:
        request.timeseries.add(labels=series.labels, samples=samples)
    return request


def joined(parts: Iterable[WriteRequest]) -> WriteRequest:
    return WriteRequest(timeseries=[series for part in parts for series in part.timeseries])


def select(request: WriteRequest, wanted: Callable[[Sample], bool]) -> WriteRequest:
    return joined(only(series, filter(wanted, series.samples)) for series in request.timeseries)


def instance_of(series: TimeSeries) -> str:
    return _label(series, "instance")


def metric_of(series: TimeSeries) -> str:
    return _label(series, "__name__")


def _label(series: TimeSeries, name: str) -> str:
    return next((label.value for label in series.labels if label.name == name), "")


def by_instance(request: WriteRequest) -> list[WriteRequest]:
    parts: dict[str, WriteRequest] = {}
    for series in request.timeseries:
        parts.setdefault(instance_of(series), WriteRequest()).timeseries.append(series)
    return list(parts.values())


def by_series(request: WriteRequest) -> list[WriteRequest]:
    return [only(series, series.samples) for series in request.timeseries]


def finer(request: WriteRequest) -> list[WriteRequest]:
    """A refused request in parts: by instance, by series; itself if it holds one."""
    parts = by_instance(request)
    return parts if len(parts) > 1 else by_series(request)


def smaller(request: WriteRequest) -> list[WriteRequest]:
    """A request that is too large in parts: older and newer half, by instance, by series."""
    times = sorted({sample.timestamp for series in request.timeseries for sample in series.samples})
    if len(times) > 1:
        middle_ms = times[len(times) // 2]
        return [
            select(request, lambda sample: sample.timestamp < middle_ms),
            select(request, lambda sample: sample.timestamp >= middle_ms),
        ]
    parts = by_instance(request)
    return parts if len(parts) > 1 else by_series(request)


def is_of_one_time(request: WriteRequest) -> bool:
    return len({sample.timestamp for series in request.timeseries for sample in series.samples}) == 1
