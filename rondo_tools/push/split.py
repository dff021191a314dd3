"""Splits a request by instance, by series or by time.

Strategy: a part is a request again, so it can be sent or split once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rondo_tools.catalog import Series
from rondo_tools.prom.proto.remote_write_v1_pb2 import Sample, TimeSeries, WriteRequest


def name_of(series: TimeSeries) -> str:
    """The series with all its labels, in Prometheus' spelling."""
    labels = {label.name: label.value for label in series.labels}
    name = labels.pop("__name__", "")
    return str(Series(name, tuple(labels.items()), "", "", ""))


def instance_of(series: TimeSeries) -> str:
    return _label(series, "instance")


def metric_of(series: TimeSeries) -> str:
    return _label(series, "__name__")


def _label(series: TimeSeries, name: str) -> str:
    return next((label.value for label in series.labels if label.name == name), "")


def count(request: WriteRequest) -> int:
    """The number of samples."""
    return sum(len(series.samples) for series in request.timeseries)


def only(series: TimeSeries, samples: Iterable[Sample]) -> WriteRequest:
    """A request with some samples of one series; empty without samples."""
    request = WriteRequest()
    samples = list(samples)
    if samples:
        request.timeseries.add(labels=series.labels, samples=samples)
    return request


def joined(parts: Iterable[WriteRequest]) -> WriteRequest:
    return WriteRequest(timeseries=[series for part in parts for series in part.timeseries])


def select(request: WriteRequest, wanted: Callable[[Sample], bool]) -> WriteRequest:
    return joined(only(series, filter(wanted, series.samples)) for series in request.timeseries)


def up_to(request: WriteRequest, t_ms: int) -> WriteRequest:
    return select(request, lambda sample: sample.timestamp <= t_ms)


def after(request: WriteRequest, t_ms: int) -> WriteRequest:
    return select(request, lambda sample: sample.timestamp > t_ms)


def without(
    request: WriteRequest, series: TimeSeries, samples: Iterable[Sample] | None = None
) -> WriteRequest:
    """The request without some samples of one of its series, or without all of that series."""
    times = {sample.timestamp for sample in (series.samples if samples is None else samples)}
    return joined(
        only(one, (sample for sample in one.samples if sample.timestamp not in times))
        if one.labels == series.labels
        else WriteRequest(timeseries=[one])
        for one in request.timeseries
    )


def newest(request: WriteRequest) -> WriteRequest:
    """The last sample of each series."""
    return joined(only(series, series.samples[-1:]) for series in request.timeseries)


def by_instance(request: WriteRequest) -> list[WriteRequest]:
    parts: dict[str, WriteRequest] = {}
    for series in request.timeseries:
        parts.setdefault(instance_of(series), WriteRequest()).timeseries.append(series)
    return list(parts.values())


def halves(request: WriteRequest) -> list[WriteRequest]:
    """Two halves of a request with several samples: by instance, else by series, else by time."""
    parts = by_instance(request)
    if len(parts) > 1:
        middle = len(parts) // 2
        return [joined(parts[:middle]), joined(parts[middle:])]
    middle = len(request.timeseries) // 2
    if middle:
        both = request.timeseries[:middle], request.timeseries[middle:]
        return [WriteRequest(timeseries=half) for half in both]
    (series,) = request.timeseries
    middle = len(series.samples) // 2
    return [only(series, series.samples[:middle]), only(series, series.samples[middle:])]


def witnesses(request: WriteRequest) -> list[TimeSeries]:
    """At most three series, including the first: of different instances and metrics if possible."""
    found = [request.timeseries[0]]
    left = list(request.timeseries[1:])
    while left and len(found) < 3:
        instances = {instance_of(series) for series in found}
        metrics = {metric_of(series) for series in found}
        best = max(
            range(len(left)),
            key=lambda at: (
                2 * (instance_of(left[at]) not in instances) + (metric_of(left[at]) not in metrics)
            ),
        )
        found.append(left.pop(best))
    return found
