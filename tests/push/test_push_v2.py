"""Remote-write 2.0: the bytes, checked by a strict receiver, and the conversion to 1.0."""

from __future__ import annotations

import http.server
import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
import snappy
from hypothesis import given
from hypothesis import strategies as st

from devtools.http_server import Reply, http_server
from devtools.receivers.prometheus import Prometheus
from devtools.receivers.receiver import Receiver
from rondo_tools.catalog import Series
from rondo_tools.prom.labels import sent_labels
from rondo_tools.prom.proto.remote_write_v1_pb2 import WriteRequest
from rondo_tools.prom.proto.remote_write_v2_pb2 import Metadata, Request
from rondo_tools.prom.samples import STALE_NAN, Block, Labels, SeriesSet
from rondo_tools.push.encoding import V2, v1, v2
from rondo_tools.push.encoding.body import Body
from tests.support.fixtures import Run
from tests.support.push.receivers import T0, TWO_SERIES, expected, fill, header, seconds
from tests.support.push.strict_v2 import StrictReceiver, forbidden

LABELS = sent_labels(header(), "rondo-vmm", {})
START = T0 - 500


def block(
    t_ms: list[int], rows: list[list[float]], labels: tuple[Labels, ...] = LABELS, start_ms: int = START
) -> Block:
    return Block(
        SeriesSet(TWO_SERIES, labels), np.array(t_ms, np.int64), np.array(rows, np.float64), start_ms
    )


def test_a_small_request() -> None:
    body = v2.encode([block([T0, T0 + 1000], [[1, 2.5], [3, math.nan]])])
    assert forbidden(body) is None
    request = v2.decode(body)
    counter, gauge = request.timeseries
    texts = [request.symbols[ref] for ref in counter.labels_refs]
    assert tuple(zip(texts[::2], texts[1::2], strict=True)) == LABELS[0]
    assert counter.metadata.type == Metadata.METRIC_TYPE_COUNTER
    assert gauge.metadata.type == Metadata.METRIC_TYPE_GAUGE
    assert request.symbols[counter.metadata.help_ref] == "Of core 0."
    assert request.symbols[gauge.metadata.unit_ref] == "kelvin"
    assert [(s.value, s.timestamp, s.start_timestamp) for s in counter.samples] == [
        (1.0, T0, START),
        (3.0, T0 + 1000, START),
    ]
    assert [(s.timestamp, s.start_timestamp) for s in gauge.samples] == [(T0, 0), (T0 + 1000, 0)]


TIMES = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=12, unique=True).map(sorted)


@given(TIMES, st.data())
def test_as_1_0_it_equals_a_body_of_1_0(times: list[int], data: st.DataObject) -> None:
    values = st.lists(st.floats(width=64), min_size=2, max_size=2)
    rows = data.draw(st.lists(values, min_size=len(times), max_size=len(times)))
    start_ms = data.draw(st.sampled_from([0, 1, times[0], times[-1], 2**62]))
    blocks = [block(times, rows, start_ms=start_ms)]
    body = v2.encode(blocks)
    assert forbidden(body) is None
    assert (
        Body(body, V2).as_v1().request().SerializeToString()
        == v1.decode(v1.encode(blocks)).SerializeToString()
    )


def test_a_session_that_began_after_its_ticks_has_no_start() -> None:
    """A clock was set back; a start after its sample would be wrong."""
    request = v2.decode(v2.encode([block([T0], [[1, 2]], start_ms=T0 + 1)]))
    assert {s.start_timestamp for series in request.timeseries for s in series.samples} == {0}


ONE_KIND = {
    "counters only": ((TWO_SERIES[0],), []),
    "gauges only": ((TWO_SERIES[1],), []),
    "one metric of two": (TWO_SERIES, ["--match", "heat"]),
}


@pytest.mark.parametrize("name", ONE_KIND)
@pytest.mark.parametrize("protocol", ["1.0", "2.0"])
def test_series_of_one_kind_only(run: Run, tmp_path: Path, name: str, protocol: str) -> None:
    """A session with counters only or gauges only; a neighbour has both."""
    series, flags = ONE_KIND[name]
    fill(tmp_path, header("a", series=series), seconds(5, width=len(series)), "poweroff")
    fill(tmp_path, header("b"), seconds(5), "poweroff")
    strict, plain = StrictReceiver(), Receiver()

    def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> Reply:
        if protocol == "2.0":
            return strict(handler, body)
        return (204, {}, b"") if plain.take(body) is None else (400, {}, b"")

    with http_server(answer) as url:
        done = run("rondo-push", tmp_path, "--remote-write", url, "--protocol", protocol, *flags)
    assert (done.returncode, done.stderr) == (0, b"")
    assert strict.forbidden == []
    got = strict.store.samples if protocol == "2.0" else plain.samples
    assert got == {
        labels: mine
        for labels, mine in expected(tmp_path).items()
        if not flags or ("__name__", "heat") in labels
    }


def test_two_lives_have_their_own_starts() -> None:
    request = v2.decode(v2.encode([block([T0], [[1, 1]]), block([T0 + 5000], [[0, 0]], start_ms=T0 + 4000)]))
    assert [s.start_timestamp for s in request.timeseries[0].samples] == [START, T0 + 4000]


def test_a_piece_keeps_metadata_and_starts() -> None:
    whole = v2.decode(v2.encode([block([T0, T0 + 1000, T0 + 2000], [[1, 1], [2, 2], [3, 3]])]))
    piece = WriteRequest(timeseries=[v2.plain(whole).timeseries[0]])
    del piece.timeseries[0].samples[1]
    body = v2.compress(v2.select(whole, piece))
    assert forbidden(body) is None
    (series,) = v2.decode(body).timeseries
    assert [(s.timestamp, s.start_timestamp) for s in series.samples] == [(T0, START), (T0 + 2000, START)]
    assert series.metadata.type == Metadata.METRIC_TYPE_COUNTER


@pytest.mark.parametrize("times", [([1, 1],), ([2, 1],), ([1, 2], [2]), ([1, 3], [2])])
def test_samples_that_do_not_ascend_are_never_sent(times: tuple[list[int], ...]) -> None:
    with pytest.raises(AssertionError, match="ascend"):
        v2.encode(block(part, [[0.0, 0.0]] * len(part)) for part in times)


@pytest.mark.parametrize("labels", [(("__name__", "a"), ("b", "")), (("b", "1"),), (("__name__", "a b"),)])
def test_labels_that_break_the_rules_are_never_sent(labels: Labels) -> None:
    one = Series("a", (), "gauge", "", "")
    with pytest.raises(AssertionError):
        v2.encode([Block(SeriesSet((one,), (labels,)), np.array([1]), np.array([[1.0]]))])


@given(st.binary(max_size=200))
def test_an_invalid_body_is_a_value_error(data: bytes) -> None:
    for body in (data, snappy.compress(data)):
        try:
            v2.decode(body)
        except ValueError:
            pass


def spoiled(how: str) -> bytes:
    request = v2.decode(v2.encode([block([T0, T0 + 1000], [[1, 2], [3, 4]])]))
    series = request.timeseries[0]
    match how:
        case "symbols":
            request.symbols[0] = "x"
        case "twice":
            request.symbols.append(request.symbols[1])
        case "refers":
            request.symbols.append("nobody's")
        case "references":
            series.labels_refs.append(0)
        case "no symbol":
            series.labels_refs[0] = 1000
        case "nothing":
            del request.timeseries[:]
        case "without samples":
            del series.samples[:]
        case "ascend":
            series.samples[1].timestamp = series.samples[0].timestamp
        case "sorted":
            series.labels_refs[:] = [*series.labels_refs[2:], *series.labels_refs[:2]]
        case "metadata":
            series.ClearField("metadata")
        case "before its start":
            series.samples[0].start_timestamp = T0 + 1
        case "gauge that began":
            request.timeseries[1].samples[0].start_timestamp = T0
        case "a series twice":
            request.timeseries.append(series)
        case "fields":
            return bytes(snappy.compress(b"\x0a\x00" + request.SerializeToString()))
    return v2.compress(request)


@pytest.mark.parametrize(
    "how",
    ["symbols", "twice", "refers", "references", "no symbol", "nothing", "without samples", "ascend",
     "sorted", "metadata", "before its start", "gauge that began", "a series twice", "fields"],
)  # fmt: skip
def test_the_strict_receiver_is_strict(how: str) -> None:
    words = forbidden(spoiled(how))
    assert words is not None
    assert how in words or how in ("no symbol",)


def test_the_strict_receiver_knows_1_0_from_2_0() -> None:
    assert forbidden(v1.encode([block([T0], [[1, 2]])])) is not None
    assert Request.FromString(snappy.decompress(v2.encode([block([T0], [[1, 2]])]))).symbols[0] == ""


def test_every_sample_once_as_2_0_and_the_same_bytes_again(run: Run, tmp_path: Path) -> None:
    """A batch in flight is sent again bit for bit, with its headers."""
    fill(tmp_path, header("a"), seconds(30), "poweroff")
    fill(tmp_path, header("b", T0 + 5000), seconds(10, T0 + 5300), "reset")
    receiver = StrictReceiver()
    seen: list[bytes] = []

    def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> Reply:
        seen.append(body)
        return receiver(handler, body) if len(seen) > 4 else (503, {}, b"")

    with http_server(answer) as url:
        flags = ["--remote-write", url, "--protocol", "2.0"]
        assert run("rondo-push", tmp_path, *flags).returncode == 75
        assert json.loads((tmp_path / "cursor_prometheus.json").read_text())["in_flight"]["protocol"] == "2.0"
        done = run("rondo-push", tmp_path, *flags)
        assert (done.returncode, done.stderr) == (0, b"")
    assert receiver.forbidden == []
    assert seen[4] == seen[3] == seen[0]
    assert receiver.store.samples == expected(tmp_path)


def test_one_refused_series_costs_only_itself(run: Run, tmp_path: Path) -> None:
    fill(tmp_path, header("a"), seconds(20), "poweroff")
    receiver = StrictReceiver(lambda labels, t_ms: "no heat" if ("__name__", "heat") in labels else None)
    with http_server(receiver) as url:
        done = run("rondo-push", tmp_path, "--remote-write", url, "--protocol", "2.0", "-v")
    assert (done.returncode, receiver.forbidden) == (0, [])
    assert b"no heat" in done.stderr
    wanted = {
        labels: mine for labels, mine in expected(tmp_path).items() if ("__name__", "heat") not in labels
    }
    assert receiver.store.samples == wanted


def test_a_partly_written_request_is_logged_and_counted(run: Run, tmp_path: Path) -> None:
    fill(tmp_path, header("a"), seconds(20), "poweroff")

    def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> Reply:
        return 204, {"X-Prometheus-Remote-Write-Samples-Written": "39"}, b""

    with http_server(answer) as url:
        done = run("rondo-push", tmp_path, "--remote-write", url, "--protocol", "2.0", "-v", "--no-health")
    assert done.returncode == 0
    assert b"39 of 42 samples were written" in done.stderr
    assert b"39 samples sent, 0 rejected, 0 unclear, 3 passed over, 1 request" in done.stderr


def test_an_old_prometheus_gets_1_0_and_all_samples(run: Run, tmp_path: Path, prometheus: Prometheus) -> None:
    """It answers 204 to a request of 2.0, and stores nothing."""
    now_ms = time.time_ns() // 1_000_000
    fill(tmp_path, header("a", now_ms - 60_000), seconds(30, now_ms - 60_000), "poweroff")
    done = run("rondo-push", tmp_path, "--remote-write", prometheus.write_url, "--protocol", "2.0")
    assert done.returncode == 0
    assert b"does not support remote-write 2.0" in done.stderr
    shown = prometheus.samples('{instance="a"}')
    for labels, samples in expected(tmp_path).items():
        times = [t_ms for t_ms, value in sorted(samples.items()) if value != STALE_NAN]
        assert [t_ms for t_ms, _ in shown[labels]] == times
