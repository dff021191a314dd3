"""Remote-read without Prometheus: one line of time for an instance, for every query."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import pytest
import snappy

from rondo_tools.prom.proto.remote_read_pb2 import (
    ChunkedReadResponse,
    LabelMatcher,
    Query,
    ReadHints,
    ReadRequest,
)
from rondo_tools.prom.proto.remote_write_v1_pb2 import WriteRequest
from rondo_tools.prom.samples import Labels
from rondo_tools.serve import remote_read
from rondo_tools.serve.http import HttpError
from rondo_tools.serve.timelines import Naming, Timelines
from rondo_tools.store.format.tiers import parse_tiers
from rondo_tools.store.reader import Store
from tests.support.serve.serve_host import fill_with_changes, fill_with_lives, life, store_stream
from tests.support.serve.xor_decoder import decode

NOW_MS = time.time_ns() // 1_000_000
T0 = NOW_MS // 1000 * 1000 - 200_000
Series = dict[Labels, list[tuple[int, float]]]


def asked(start_ms: int = 0, end_ms: int = NOW_MS, hints: ReadHints | None = None, /, **equal: str) -> Query:
    matchers = [LabelMatcher(name=name, value=value) for name, value in equal.items()]
    return Query(start_timestamp_ms=start_ms, end_timestamp_ms=end_ms, matchers=matchers, hints=hints)


def request(store: Path, *queries: Query, streamed: bool = False, most: int = 1_000_000) -> bytes:
    wanted = ReadRequest(queries=queries)
    if streamed:
        wanted.accepted_response_types.append(ReadRequest.STREAMED_XOR_CHUNKS)
    opened = Store(store)
    timelines = Timelines(opened, Naming("rondo-vmm", {}))
    body = bytes(snappy.compress(wanted.SerializeToString()))
    answer = remote_read.answer(body, timelines, opened.tiers, most, lambda samples: None)
    return answer.body if isinstance(answer.body, bytes) else b"".join(answer.body)


def read(store: Path, query: Query) -> Series:
    """The only result of a query. A QueryResult has the same field for TimeSeries as a WriteRequest."""
    results = bytes(snappy.decompress(request(store, query)))
    at = 1
    while results[at] & 0x80:
        at += 1
    found: Series = {}
    for one in WriteRequest.FromString(results[at + 1 :]).timeseries:
        labels = tuple((label.name, label.value) for label in one.labels)
        assert labels not in found
        found[labels] = [(sample.timestamp, sample.value) for sample in one.samples]
        times = [t_ms for t_ms, _ in found[labels]]
        assert times == sorted(set(times))
    return found


def streamed(store: Path, query: Query) -> list[Labels]:
    """The label sets of a stream, in its order."""
    data, at, found = request(store, query, streamed=True), 0, []
    while at < len(data):
        size = shift = 0
        while True:
            byte = data[at]
            size, shift, at = size | (byte & 0x7F) << shift, shift + 7, at + 1
            if byte < 0x80:
                break
        (one,) = ChunkedReadResponse.FromString(data[at + 4 : at + 4 + size]).chunked_series
        found.append(tuple((label.name, label.value) for label in one.labels))
        times = [t_ms for chunk in one.chunks for t_ms in decode(chunk.data)[0]]
        assert times == sorted(set(times))
        at += 4 + size
    return found


def same(one: Series, other: Series) -> None:
    assert {name: repr(some) for name, some in one.items()} == {
        name: repr(some) for name, some in other.items()
    }


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("read") / "s"
    fill_with_lives(path, NOW_MS)
    fill_with_changes(path, NOW_MS)
    return path


@pytest.mark.parametrize(
    ("label", "value"),
    [
        ("__name__", "blk_bytes_total"),
        ("__name__", "vmm_rss_bytes"),
        ("direction", "read"),
        ("zone", "a"),
        ("zone", "b"),
        ("reason", "io"),
        ("instance", "after"),
        ("instance", "same"),
    ],
)
def test_a_selector_does_not_change_the_selected_series(lives: Path, label: str, value: str) -> None:
    """The ends of series, and the rows left out between two lives, depend on all series of the instance."""
    everything = read(lives, asked())
    some = {labels: samples for labels, samples in everything.items() if (label, value) in labels}
    assert some
    same(read(lives, asked(**{label: value})), some)


def test_a_stream_is_sorted_by_all_labels(tmp_path: Path) -> None:
    """One of two lives has an additional label, which sorts before rondo_tier."""
    path = tmp_path / "s"
    store_stream(path, life("vm", T0, 20, end="poweroff"))
    store_stream(path, life("vm", T0 + 60_000, 20, labels=(("owner", "me"),), end="poweroff"))
    for more in ({}, {"rondo_tier": "1"}, {"rondo_tier": "0", "rondo_aggregate": "max"}):
        found = streamed(path, asked(**more))
        assert found == sorted(found)
        assert len(found) == 6
        assert all(set(more.items()) <= set(labels) for labels in found)


def test_an_empty_matcher_selects_series_without_the_label(lives: Path) -> None:
    same(read(lives, asked(instance="nan", rondo_tier="")), read(lives, asked(instance="nan")))


@pytest.mark.parametrize("is_streamed", [False, True])
def test_the_queries_of_a_request_share_its_limit(lives: Path, is_streamed: bool) -> None:
    query = asked(instance="vm-1", __name__="vmm_rss_bytes")
    # 290 samples, in two files until the roll-up.
    assert request(lives, query, query, streamed=is_streamed, most=1300)
    with pytest.raises(HttpError, match="samples"):
        request(lives, query, query, streamed=is_streamed, most=1000)
    with pytest.raises(HttpError, match="at most 10 queries"):
        request(lives, *[query] * 11, streamed=is_streamed)


@pytest.mark.parametrize(
    ("start_ms", "end_ms"),
    [(NOW_MS, 0), (0, 0), (-5, -1), (NOW_MS * 2, NOW_MS * 3)],
    ids=["backwards", "none", "negative", "far ahead"],
)
def test_ranges_without_a_tick(lives: Path, start_ms: int, end_ms: int) -> None:
    for tier in "012":
        assert read(lives, asked(start_ms, end_ms, rondo_tier=tier)) == {}
        assert streamed(lives, asked(start_ms, end_ms, rondo_tier=tier)) == []


def test_the_longest_possible_range(lives: Path) -> None:
    """Prometheus' range for a request without start and end."""
    least, most = -(1 << 63), (1 << 63) - 1
    for tier in "012":
        same(read(lives, asked(least, most, rondo_tier=tier)), read(lives, asked(rondo_tier=tier)))
    labels = streamed(lives, asked(least, most, ReadHints(func="series")))
    assert labels == sorted(read(lives, asked()))


def test_coarser_tiers_precede_a_tier(tmp_path: Path) -> None:
    """Forty minutes of ticks, rolled up and removed by the store: no duplicate, no gap, in order."""
    path = tmp_path / "s"
    begin_ms = NOW_MS // 300_000 * 300_000 - 2_400_000
    for part in range(8):
        data = life("vm", begin_ms, 300, begin=1 + 300 * part)
        store_stream(path, data, None if part else parse_tiers("1s:5m,10s:15m,5m:7d"))
    for tier in "012":
        found = read(path, asked(__name__="vmm_rss_bytes", rondo_tier=tier))
        (samples,) = found.values()
        times = [t_ms for t_ms, _ in samples]
        assert times[-2:] == [begin_ms + 2_400_000, begin_ms + 2_400_001]  # the marker of the lost end
        assert max(after - before for before, after in pairwise(times)) <= 300_000
