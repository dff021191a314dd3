"""rondo-store's own metrics, stored as an instance of its own: they go the way of all metrics.

A session `rondo-store` begins with each server; it gets a tick a second, and an end. What it counts is
counted anyway. While nothing can be written it gets no tick: nobody waits for it. When the clock is
set back it does as every producer does (`clock`): it skips a few ticks, or goes on in another session,
whose counters begin at zero.
"""

from __future__ import annotations

import logging
import operator
import struct
from collections.abc import Callable

from rondo_tools import clock
from rondo_tools.catalog import COUNTER, GAUGE, Series
from rondo_tools.errors import StoreError
from rondo_tools.store.live import Session
from rondo_tools.store.server.server import ERRORS, Server
from rondo_tools.stream import End, Header

log = logging.getLogger(__name__)

INSTANCE = "rondo-store"
INTERVAL_MS = 1000


def _counter(name: str, unit: str, text: str, *labels: tuple[str, str]) -> Series:
    return Series(name, labels, COUNTER, unit, text)


SERIES = (
    *(
        _counter("store_ticks_total", "ticks", "Ticks received, by what became of them.", ("result", result))
        for result in ("stored", "late", "ahead", "expired")
    ),
    _counter("store_samples_total", "samples", "Values stored."),
    _counter("store_sessions_total", "sessions", "Sessions begun, or continued."),
    *(
        _counter("store_errors_total", "errors", "Connections that went wrong, by why.", ("kind", kind))
        for kind in ERRORS
    ),
    _counter("store_evicted_files_total", "files", "Files that went for want of room."),
    Series("store_connections", (), GAUGE, "connections", "Producers connected."),
    Series("store_live_sessions", (), GAUGE, "sessions", "Sessions that are not over and rolled up."),
    Series("store_ended_sessions", (), GAUGE, "sessions", "Sessions that are over and known."),
    Series("store_waiting_journals", (), GAUGE, "journals", "Journals that are over and not rolled up."),
    Series("store_used_bytes", (), GAUGE, "bytes", "What the store takes on the disk."),
    Series("store_max_bytes", (), GAUGE, "bytes", "What the store may take on the disk."),
    Series("store_loop_lag_ns", (), GAUGE, "ns", "The longest turn of the loop, over the tick."),
)
_PACK = struct.Struct(f"<{len(SERIES)}d").pack
_COUNTERS = sum(series.kind == COUNTER for series in SERIES)  # they come first


class SelfMetrics:
    """Stores a server's own metrics, driven by its timers. The owner closes it before the store."""

    def __init__(self, server: Server, now_ms: Callable[[], int] = clock.now_ms) -> None:
        self._server = server
        self._now_ms = now_ms
        self._session: Session | None = None
        self._base = (0,) * _COUNTERS  # what was counted in earlier sessions
        self._begin(now_ms())
        server.timers.every(1.0, self.tick, first_s=(1500 - now_ms() % 1000) % 1000 / 1000)

    def tick(self) -> None:
        """Gather what the server has come to; the next turn writes it."""
        if self._server.is_blocked:
            return
        now_ms, count = self._now_ms(), self._count()
        if clock.is_set_back(now_ms, self._last_ms, INTERVAL_MS):
            self._store(self._last_ms + 1, count)
            self._end("clock")
            self._base = count
            self._begin(now_ms)
        self._store(now_ms, count)

    def close(self) -> None:
        self.tick()  # the last counts; of a server that lived for a moment, the only ones
        self._end("signal")

    def _begin(self, now_ms: int) -> None:
        self._header = Header(INSTANCE, now_ms, (), INTERVAL_MS, SERIES)
        self._last_ms = now_ms - 1  # the session's last tick, or before its first

    def _count(self) -> tuple[int, ...]:
        counts, errors = self._server.counts, self._server.errors
        return (
            counts.stored, counts.late, counts.ahead, counts.expired, counts.samples, counts.sessions,
            *(errors[kind] for kind in ERRORS), self._server.store.upkeep.evicted_files,
        )  # fmt: skip

    def _store(self, t_ms: int, count: tuple[int, ...]) -> None:
        """Gather a tick, unless the clock has not come to the one before again."""
        if t_ms <= self._last_ms:
            return
        server, keeper = self._server, self._server.keeper
        if self._session is None:
            try:
                self._session = keeper.begin(self._header, self)
            except (OSError, StoreError) as exc:  # somebody's session has our name and start
                log.debug("no tick of our own: %s", exc)
                return
        gauges = (
            server.connections, len(keeper.live), server.store.upkeep.remembered, len(keeper.closed),
            server.store.upkeep.used_bytes, server.store.upkeep.max_bytes, server.take_lag_ns(),
        )  # fmt: skip
        values = _PACK(*map(operator.sub, count, self._base), *gauges)
        keeper.append(self._session, t_ms, values)
        self._last_ms = t_ms

    def _end(self, reason: str) -> None:
        if self._session is not None:
            self._server.keeper.end(self._session, End(reason, self._last_ms))
            self._server.keeper.release(self._session, self)
            self._session = None
