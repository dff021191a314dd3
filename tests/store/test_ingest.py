"""One stream into the store: what is stored when, what is counted, what is told."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest
from ring_model import COUNTS, LEVEL, T0, header, slabs, tick, ticks

from rondo_tools import stream
from rondo_tools.errors import StoreError, StreamError
from rondo_tools.store.ingest import MAX_AHEAD_MS, Ingest
from rondo_tools.store.reader import Store
from rondo_tools.store.sync import Syncer, parse_policy
from rondo_tools.store.tiers import parse_tiers
from rondo_tools.store.writer import StoreWriter
from rondo_tools.stream import End, Event, Tick

PAIR = (COUNTS, LEVEL)
TIERS = parse_tiers("1s:40s,5s:2m,20s:10m")
NOW = T0 + 3_600_000
HEADER = header(PAIR)


def encoded(*events: Event) -> bytes:
    return b"".join(map(stream.encode, events))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StoreWriter]:
    with StoreWriter(tmp_path / "store", TIERS) as made:
        yield made


@pytest.fixture
def ingest(store: StoreWriter) -> Iterator[Ingest]:
    made = Ingest(store, now_ms=lambda: NOW)
    yield made
    made.close()


def check(
    store: StoreWriter, session: stream.Header, all_ticks: Iterable[Tick], *, finished: bool = False
) -> None:
    folder = store.path / "instances" / session.instance / str(session.start_ms)
    assert not store.catch_up(60)
    found = [(folder / f"tier_{number}.slab").read_bytes() for number in range(len(TIERS))]
    assert found == slabs(session.series, TIERS, all_ticks, finished=finished)


def test_a_whole_stream_however_torn(tmp_path: Path) -> None:
    everything = ticks(130, width=2)
    data = encoded(HEADER, *everything, End("poweroff", T0 + 130_000))
    rng = random.Random(1)
    for most in (1, 7, 100, 1 << 16):
        with StoreWriter(tmp_path / str(most), TIERS) as store:
            ingest, at = Ingest(store, now_ms=lambda: NOW), 0
            while at < len(data):
                size = rng.randint(1, most)
                ingest.feed(data[at : at + size])
                at += size
            ingest.end_of_input()
            ingest.close()
            assert (
                ingest.counts.sessions,
                ingest.counts.stored,
                ingest.counts.late,
                ingest.counts.ahead,
            ) == (1, 130, 0, 0)
            check(store, HEADER, everything, finished=True)
            assert [one.end for one in Store(store.path).sessions()] == [End("poweroff", T0 + 130_000)]


def test_what_is_closed_is_told(store: StoreWriter, ingest: Ingest) -> None:
    path = str(store.path / "instances" / "vm-1" / str(T0 - 1))
    for event, closed in [
        (HEADER, None),
        (tick(T0, 1, 2), None),
        (tick(T0 + 500, 1, 2), None),
        (tick(T0 + 1000, 1, 2), 500),
        (tick(T0 + 1000, 1, 2), None),  # late
        (tick(T0 + 1400, 1, 2), None),  # the same slot
        (tick(T0 + 9000, 1, 2), 1400),
        (End("reset", T0 + 9500), 9000),
        (HEADER, None),
    ]:
        ingest.closed.clear()
        ingest.feed(encoded(event))
        assert ingest.closed == ({} if closed is None else {path: T0 + closed})


def test_the_end_of_input_and_a_next_header_close_the_last_slot(store: StoreWriter, ingest: Ingest) -> None:
    second = header(PAIR, "vm-2")
    ingest.feed(encoded(HEADER, *ticks(3, width=2), second))
    assert ingest.closed == {str(store.path / "instances" / "vm-1" / str(T0 - 1)): T0 + 2000}
    ingest.closed.clear()
    ingest.end_of_input()
    assert ingest.closed == {}  # nothing came for the second
    ingest.feed(encoded(tick(T0, 1, 2)))
    ingest.end_of_input()
    assert ingest.closed == {str(store.path / "instances" / "vm-2" / str(T0 - 1)): T0}
    assert [one.end for one in Store(store.path).sessions()] == [None, None]  # which is not their end


def test_an_end_without_a_tick_closes_nothing(ingest: Ingest, store: StoreWriter) -> None:
    ingest.feed(encoded(HEADER, End("error", T0)))
    assert ingest.closed == {}
    assert [one.end for one in Store(store.path).sessions()] == [End("error", T0)]


def test_a_stream_that_is_sent_again(store: StoreWriter) -> None:
    everything = ticks(60, width=2)
    end = End("signal", T0 + 60_000)
    for count, stored, late in [(20, 20, 0), (45, 25, 20), (60, 15, 45), (60, 0, 60)]:
        ingest = Ingest(store, now_ms=lambda: NOW)
        ingest.feed(encoded(HEADER, *everything[:count]))
        if count == 60:
            ingest.feed(encoded(end))
        ingest.end_of_input()
        ingest.close()
        assert (ingest.counts.stored, ingest.counts.late) == (stored, late)
    check(store, HEADER, everything, finished=True)


def test_what_an_end_rolls_up_is_synced_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last tick may have been synced long before."""
    marked: list[str] = []
    monkeypatch.setattr(Syncer, "mark", lambda _syncer, folder: marked.append(folder))
    with StoreWriter(tmp_path, TIERS, sync=parse_policy("1h")) as store:
        ingest = Ingest(store, now_ms=lambda: NOW)
        ingest.feed(encoded(HEADER, *ticks(3, width=2)))
        marked.clear()
        ingest.feed(encoded(End("poweroff", T0 + 3000)))
        assert ingest.session is not None
        assert marked == [ingest.session.folder]
        ingest.close()


def test_after_its_end_a_session_takes_nothing(store: StoreWriter, ingest: Ingest) -> None:
    ingest.feed(encoded(HEADER, *ticks(5, width=2), End("signal", T0)))
    ingest.feed(encoded(HEADER, *ticks(9, T0 + 60_000, width=2), End("reset", T0)))
    assert (ingest.counts.stored, ingest.counts.late) == (5, 9)
    check(store, HEADER, ticks(5, width=2), finished=True)


def test_ticks_ahead_of_the_clock_are_refused_and_said_once(
    store: StoreWriter, ingest: Ingest, caplog: pytest.LogCaptureFixture
) -> None:
    good = [tick(NOW + at, 1, 2) for at in (0, MAX_AHEAD_MS - 1, MAX_AHEAD_MS)]
    bad = [tick(NOW + MAX_AHEAD_MS + 1, 1, 2), tick(stream.MAX_T_MS, 1, 2)]
    ingest.feed(encoded(HEADER, good[0], bad[0], good[1], bad[1]))
    ingest.feed(encoded(bad[0], good[2]))
    assert (ingest.counts.stored, ingest.counts.ahead, ingest.counts.late) == (3, 3, 0)
    check(store, HEADER, good)
    assert caplog.text.count("over 10 min ahead of this clock, refused") == 1


@pytest.mark.parametrize(
    "junk", [b"\xc1", b"\x92\x01\x02", encoded(HEADER).replace(b"rondo\x01", b"rondo\x02"), b"\xc0" * 70_000]
)
def test_all_before_a_break_is_stored(store: StoreWriter, ingest: Ingest, junk: bytes) -> None:
    good = encoded(HEADER, *ticks(30, width=2))
    with pytest.raises(StreamError) as caught:
        ingest.feed(good + junk)
    assert caught.value.offset == len(good)
    assert ingest.counts.stored == 30
    assert list(ingest.closed.values()) == [T0 + 28_000]
    check(store, HEADER, ticks(30, width=2))


def test_a_stream_that_stops_inside_a_message(store: StoreWriter, ingest: Ingest) -> None:
    good = encoded(HEADER, *ticks(30, width=2))
    ingest.feed(good + encoded(tick(T0 + 30_000, 1, 2))[:-1])
    with pytest.raises(StreamError, match="ends inside a message") as caught:
        ingest.end_of_input()
    assert caught.value.offset == len(good)
    assert list(ingest.closed.values()) == [T0 + 29_000]
    check(store, HEADER, ticks(30, width=2))


def test_two_headers_for_one_session(ingest: Ingest) -> None:
    with pytest.raises(StoreError, match="with another header"):
        ingest.feed(encoded(HEADER, *ticks(3, width=2), header((LEVEL,))))
    assert ingest.counts.stored == 3


def moody_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """pwrite and fsync fail every other time, pwrite in the middle. Returns how often they did."""
    rng, failures = random.Random(1), 0

    def sometimes(call: Callable[..., int]) -> Callable[..., int]:
        def wrapped(fd: int, *arguments: object) -> int:
            nonlocal failures
            if rng.random() < 0.5:
                failures += 1
                if arguments:
                    data, at = arguments
                    assert isinstance(data, bytes | memoryview)
                    call(fd, bytes(data)[: rng.randrange(len(data))], at)
                raise OSError(28, "No space left on device")
            return call(fd, *arguments)

        return wrapped

    monkeypatch.setattr(os, "pwrite", sometimes(os.pwrite))
    monkeypatch.setattr(os, "fsync", sometimes(os.fsync))
    return lambda: failures


def test_a_full_disk_anywhere_loses_nothing(
    store: StoreWriter, ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = [*ticks(70, width=2), *ticks(10, T0 + 60_000, width=2), *ticks(60, T0 + 90_000, width=2)]
    end = End("poweroff", T0 + 150_000)
    data = encoded(HEADER, *everything, End("poweroff", T0 + 150_000))
    failures = moody_disk(monkeypatch)
    for at in range(0, len(data), 500):
        call: Callable[[], None] = partial(ingest.feed, data[at : at + 500])
        while True:
            try:
                call()
                break
            except OSError:
                call = ingest.store
    monkeypatch.undo()
    assert failures() > 20
    assert (ingest.counts.stored, ingest.counts.late, ingest.counts.sessions) == (130, 10, 1)
    check(store, HEADER, everything, finished=True)
    assert [one.end for one in Store(store.path).sessions()] == [end]


def test_a_break_after_a_full_disk_is_not_forgotten(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    data = encoded(HEADER, *ticks(3, width=2))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space"):
            ingest.feed(data + b"\xc1")
    with pytest.raises(StreamError) as caught:
        ingest.store()
    assert caught.value.offset == len(data)
    assert ingest.counts.stored == 3
