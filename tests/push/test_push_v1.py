"""The encoder: the bytes of a request, and samples and labels that must never be sent."""

from __future__ import annotations

import itertools
import math
import struct

import numpy as np
import pytest
import snappy
from hypothesis import given
from hypothesis import strategies as st

from rondo_tools.catalog import SERIES, Series
from rondo_tools.errors import UsageError
from rondo_tools.prom.labels import parse_external, parse_job, sent_labels
from rondo_tools.prom.proto.remote_write_v1_pb2 import MetricMetadata
from rondo_tools.prom.samples import STALE_NAN, Block, Labels, SeriesSet
from rondo_tools.push.encoding.v1 import decode, encode
from tests.support.push.receivers import T0, TWO_SERIES, header

LABELS = sent_labels(header(), "rondo-vmm", {})


def block(t_ms: list[int], rows: list[list[float]], labels: tuple[Labels, ...] = LABELS) -> Block:
    return Block(SeriesSet(TWO_SERIES, labels), np.array(t_ms, np.int64), np.array(rows, np.float64))


def test_the_bytes_of_a_small_request() -> None:
    """Written by hand from the specification's field numbers."""
    labels: tuple[Labels, ...] = ((("__name__", "a"), ("b", "c")),)
    body = encode([Block(SeriesSet((TWO_SERIES[0],), labels), np.array([5]), np.array([[1.5]]))])
    sample = b"\x09" + struct.pack("<d", 1.5) + b"\x10\x05"
    name = b"\x0a\x08__name__\x12\x01a"
    label = b"\x0a\x01b\x12\x01c"
    series = b"\x0a" + bytes([len(name)]) + name + b"\x0a" + bytes([len(label)]) + label
    series += b"\x12" + bytes([len(sample)]) + sample
    assert snappy.decompress(body) == b"\x0a" + bytes([len(series)]) + series


@pytest.mark.parametrize("nan", [0x7FF8000000000000, 0xFFF8000000000001, 0x7FF4000000000009])
def test_no_value_is_the_stale_marker_bit_for_bit(nan: int) -> None:
    (value,) = struct.unpack("<d", struct.pack("<Q", nan))
    wire = snappy.decompress(encode([block([T0], [[1.0, value]])]))
    assert b"\x09" + struct.pack("<Q", STALE_NAN) in wire
    assert STALE_NAN == 0x7FF0000000000002


VALUES = st.floats(width=64)


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=20))
def test_every_value_arrives_with_its_bits(rows: list[tuple[float, float]]) -> None:
    request = decode(encode([block([T0 + i for i in range(len(rows))], [list(row) for row in rows])]))
    for column, series in enumerate(request.timeseries):
        assert tuple((label.name, label.value) for label in series.labels) == LABELS[column]
        for at, sample in enumerate(series.samples):
            sent = rows[at][column]
            wanted = STALE_NAN if math.isnan(sent) else struct.unpack("<Q", struct.pack("<d", sent))[0]
            assert struct.unpack("<Q", struct.pack("<d", sample.value))[0] == wanted
            assert sample.timestamp == T0 + at


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=20, unique=True))
def test_every_time_arrives(times: list[int]) -> None:
    """Also those whose varints differ in length."""
    times.sort()
    request = decode(encode([block(times, [[1.0, 2.0]] * len(times))]))
    for series in request.timeseries:
        assert [sample.timestamp for sample in series.samples] == times


def test_two_lives_of_an_instance_become_one_series() -> None:
    request = decode(encode([block([1, 2], [[1, 1], [2, 2]]), block([3], [[3, 3]])]))
    assert [[sample.timestamp for sample in series.samples] for series in request.timeseries] == [
        [1, 2, 3]
    ] * 2


@pytest.mark.parametrize("times", [([1, 1],), ([2, 1],), ([1, 2], [2]), ([1, 3], [2])])
def test_samples_that_do_not_ascend_are_never_sent(times: tuple[list[int], ...]) -> None:
    """Prometheus answers 204 to such a request, and drops samples."""
    with pytest.raises(AssertionError, match="ascend"):
        encode(block(part, [[0.0, 0.0]] * len(part)) for part in times)


@pytest.mark.parametrize(
    "labels",
    [
        (("b", "1"), ("__name__", "a")),
        (("__name__", "a"), ("__name__", "a")),
        (("__name__", "a"), ("b", "")),
        (("__name__", "a"), ("b-c", "1")),
        (("__name__", "a b"),),
        (("b", "1"),),
    ],
)
def test_labels_that_break_the_rules_are_never_sent(labels: Labels) -> None:
    with pytest.raises(AssertionError):
        encode([Block(SeriesSet((TWO_SERIES[0],), (labels,)), np.array([1]), np.array([[1.0]]))])


def test_metadata_has_type_help_and_unit() -> None:
    counter, gauge = decode(encode([], TWO_SERIES)).metadata
    assert (counter.type, counter.metric_family_name) == (MetricMetadata.COUNTER, "cpu_total")
    assert (counter.help, counter.unit) == ("Of core 0.", "exits")
    assert gauge.type == MetricMetadata.GAUGE


@given(st.binary(max_size=200))
def test_an_invalid_body_is_a_value_error(data: bytes) -> None:
    try:
        decode(data)
    except ValueError:
        pass


def test_labels_of_a_series() -> None:
    first = sent_labels(header(), "vms", {"Region": "eu"})[0]
    assert first == (
        ("Region", "eu"),
        ("__name__", "cpu_total"),
        ("core", "0"),
        ("instance", "vm-1"),
        ("job", "vms"),
        ("zone", "a"),
    )


@pytest.mark.parametrize("name", ["zone", "core", "job"])
def test_a_label_of_the_session_takes_precedence_and_no_two_series_become_equal(name: str) -> None:
    series = (*TWO_SERIES, Series("heat", ((("job"), "own"),), "gauge", "", ""))
    labels = sent_labels(header(series=series), "vms", {name: "added"} if name != "job" else {})
    assert len(set(labels)) == 3
    for item in labels:
        assert "added" not in dict(item).values()
        assert dict(item)["zone"] == "a"


def test_every_series_of_the_catalogue_is_distinct() -> None:
    labels = sent_labels(header(series=SERIES), "vms", {"reason": "x", "op": "y"})
    assert len(set(labels)) == len(SERIES) == 16
    for a, b in itertools.pairwise(sorted(labels)):
        assert a != b


@pytest.mark.parametrize(
    "pairs",
    [
        ["a"],
        ["a="],
        ["=b"],
        ["a-b=c"],
        ["__a=c"],
        ["job=x"],
        ["instance=x"],
        ["a=1", "a=2"],
        ["a=" + "x" * 1025],
    ],
)
def test_external_labels_that_are_refused(pairs: list[str]) -> None:
    with pytest.raises(UsageError, match="external-label"):
        parse_external(pairs)


def test_external_labels() -> None:
    assert parse_external(["a=b=c", "d=ü"]) == {"a": "b=c", "d": "ü"}
    with pytest.raises(UsageError):
        parse_job("")
