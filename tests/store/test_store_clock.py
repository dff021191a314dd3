"""Set clocks, of the store or of producers: refused ticks, reports, and the store's own ticks."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from rondo_tools import stream
from rondo_tools.catalog import SERIES
from rondo_tools.listeners import listen
from rondo_tools.signals import Signals
from rondo_tools.store.opened import OpenStore
from rondo_tools.store.reader import Session, Store
from rondo_tools.store.server import self_metrics
from rondo_tools.store.server.server import Server
from rondo_tools.store.watermarks import Watermarks
from rondo_tools.stream import End, Tick
from tests.support.store.store_host import Clock, connected, turns
from tests.support.store.stream_model import header


def test_its_own_ticks_follow_a_clock_that_is_set(path: Path, address: str, clock: Clock) -> None:
    now_ms = begin_ms = time.time_ns() // 1_000_000 // 10_000 * 10_000 + 500
    with Signals() as signals, OpenStore(path, now_ms=lambda: now_ms, clock=clock) as store:
        listener = listen(f"unix:{address}")
        server = Server(store, [listener], Watermarks(-1), signals, clock=clock)
        own = self_metrics.SelfMetrics(server, lambda: now_ms)

        def run(seconds: int) -> None:
            nonlocal now_ms
            for _ in range(seconds):
                clock.now += 1
                now_ms += 1000
                server.counts.stored += 1
                server.timers.run()

        run(10)  # the last at 10 s
        now_ms -= 3000
        run(5)  # 8, 9 and 10 s are skipped; then 11 and 12 s
        now_ms -= 3_600_000
        run(3)
        now_ms += 7_200_000
        run(2)
        own.close()
        server.finish()
        server.close()
        listener.close()

    def seen(session: Session) -> list[tuple[int, float]]:
        rows = session.rows()
        stored = [str(one) for one in session.header.series].index('store_ticks_total{result="stored"}')
        return [
            ((t - begin_ms) // 1000, row[stored])
            for t, row in zip(rows.t_ms.tolist(), rows.values, strict=True)
        ]

    second, first = Store(path).sessions()
    assert first.end is not None
    assert (first.end.reason, first.end.t_ms) == ("clock", begin_ms + 12_001)
    # Counts up to the step are in the first session, the rest in the second.
    assert seen(first) == [*((at, at) for at in range(1, 11)), (11, 14), (12, 15), (12, 16)]
    assert second.start_ms == begin_ms + 13_000 - 3_600_000
    assert seen(second) == [(13 - 3600, 0), (14 - 3600, 1), (15 - 3600, 2), (16 + 3600, 3), (17 + 3600, 4)]
    assert second.end is not None
    assert second.end.reason == "signal"


# --- refused ticks -------------------------------------------------------------------------------


def answer(address: str, message: bytes, server: Server) -> bytes:
    """The data from the server before the close that acknowledges."""
    with connected(address) as peer:
        peer.sendall(message)
        peer.shutdown(socket.SHUT_WR)
        turns(server)
        data = b""
        while piece := peer.recv(4096):
            data += piece
    return data


def stream_of(times: list[int], *, end: bool = True) -> bytes:
    parts = [stream.encode(header(SERIES, "vm-1", times[0] - 1))]
    parts += [stream.encode(Tick(t_ms, bytes(8 * len(SERIES)))) for t_ms in times]
    return b"".join([*parts, stream.encode(End("poweroff", times[-1]))][: None if end else -1])


@pytest.mark.parametrize("count", [3, 40])  # single ticks, and a block
def test_refused_ticks_are_reported_and_duplicates_are_not(serving: Server, address: str, count: int) -> None:
    now_ms = time.time_ns() // 1_000_000
    good = [now_ms - 1000 * (count - at) for at in range(count)]
    ahead = [now_ms + 3_600_000 + 1000 * at for at in range(count)]
    assert answer(address, stream_of(good), serving) == b""
    assert answer(address, stream_of(good), serving) == b""  # all late
    assert serving.counts.late == count
    refused = stream.decode_refused(answer(address, stream_of([*good, *ahead]), serving))
    assert refused == {"ahead": count}  # after the end of the session, too
    assert stream.decode_refused(answer(address, stream_of(ahead, end=False), serving)) == {"ahead": count}
    assert serving.counts.ahead == 2 * count
    assert serving.counts.stored == count


@pytest.mark.parametrize("count", [3, 40])
def test_ticks_ahead_are_accepted_for_an_hour_after_a_step_back(
    path: Path, address: str, clock: Clock, count: int
) -> None:
    """Ticks from before the step still arrive, also on new connections; stored ones are never refused."""
    now_ms = time.time_ns() // 1_000_000
    wall_ms = now_ms
    before = [now_ms - 1000 * (count - at) for at in range(count)]
    with Signals() as signals, OpenStore(path, now_ms=lambda: wall_ms, clock=clock) as store:
        listener = listen(f"unix:{address}")
        server = Server(store, [listener], Watermarks(-1), signals, clock=clock)
        server.open()
        wall_ms -= 86_400_000
        assert answer(address, stream_of(before[:-1], end=False), server) == b""
        clock.now += 3599
        wall_ms += 3_599_000
        assert answer(address, stream_of(before, end=False), server) == b""
        clock.now += 1
        wall_ms += 1000
        assert answer(address, stream_of(before, end=False), server) == b""
        late = [*before, now_ms]
        assert stream.decode_refused(answer(address, stream_of(late), server)) == {"ahead": 1}
        assert (server.counts.stored, server.counts.ahead) == (count, 1)
        server.close()
        listener.close()
