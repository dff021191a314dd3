"""Encodes samples and labels as protobuf's TimeSeries, which remote-write and remote-read share.

Strategy: samples are many and of equal size, so numpy lays them out, all runs of one shape at once. A label
of many series is encoded once. NaN becomes Prometheus' stale marker, whose bits are set as an integer,
because arithmetic would change them.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache
from operator import lt
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from rondo_tools.prom.samples import STALE_NAN, Labels

_METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")

Name = TypeVar("Name", bound=Hashable)


class Run(NamedTuple, Generic[Name]):
    """Rows of some series; `names` identifies the series, one name for each column of `values`.

    `more` has encoded fields of each sample besides value and time.
    """

    names: Sequence[Name]
    t_ms: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    more: bytes = b""


def samples_by_series(runs: Iterable[Run[Name]]) -> dict[Name, bytes]:
    """All samples of each series, encoded as in TimeSeries of 1.0 and 2.0.

    Runs without rows or series are left out. Raises AssertionError for samples that do not ascend in time.
    """
    whole = [part for run in runs if run.values.size for part in _of_one_length(run)]
    alike: dict[tuple[int, ...], list[int]] = {}  # the indices in `whole` of runs of the same shape
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
    """The run split by the length of its times' varints: (length, part) of each.

    Times from 1971 to 2109 have six bytes, so there is one part unless a time is wrong.
    """
    length = _varint_length(int(run.t_ms[0]))
    if int(run.t_ms[-1]) < 1 << 7 * length:
        return [(length, run)]
    at = int(run.t_ms.searchsorted(1 << 7 * length))
    rest = run._replace(t_ms=run.t_ms[at:], values=run.values[at:])
    return [(length, run._replace(t_ms=run.t_ms[:at], values=run.values[:at])), *_of_one_length(rest)]


def _lay_out(runs: Sequence[Run[Name]], length: int) -> list[list[bytes]]:
    """The samples of each series of each run. The runs have one shape; a time's varint has `length` bytes.

    So the samples are records of equal size.
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


def labels_on_the_wire(labels: Labels) -> tuple[bytes, ...]:
    """Each of TimeSeries.labels, encoded. Raises AssertionError if they break remote-write's rules."""
    names = [name for name, _ in labels]
    assert all(map(lt, names, names[1:])), f"labels are not sorted and unique: {names}"
    assert "__name__" in names, "a series without a name"
    return tuple(map(label_on_the_wire, labels))


@lru_cache(maxsize=1 << 12)
def label_on_the_wire(label: tuple[str, str]) -> bytes:
    """An encoded label, cached because many series have it, and checked."""
    name, value = label
    assert value, f"the label {name} is empty"
    assert _LABEL_NAME.fullmatch(name), f"{name!r} is not a label name"
    assert name != "__name__" or _METRIC_NAME.fullmatch(value), f"{value!r} is not a metric name"
    pair = b"".join(
        key + varint(len(text)) + text
        for key, text in ((b"\x0a", name.encode()), (b"\x12", value.encode()))  # Label.name, Label.value
    )
    return b"\x0a" + varint(len(pair)) + pair


@lru_cache(maxsize=1 << 12)
def varint(number: int) -> bytes:
    """A number >= 0 in protobuf's encoding."""
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)


def _varint_length(number: int) -> int:
    return max(1, -(-number.bit_length() // 7))
