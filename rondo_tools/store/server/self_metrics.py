"""rondo-store's own metrics, stored like those of a VM, as the instance `rondo-store`.

Each server begins a session, which gets a tick a second, and an end. A full disk stops the ticks. When the
clock is set back, it does as every producer does (`clock`): it skips a few ticks, or continues in another
session, whose counters begin at zero.
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
        _counter("store_ticks_total", "ticks", "Ticks received, by result.", ("result", result))
        for result in ("stored", "late", "ahead", "expired")
    ),
    _counter("store_samples_total", "samples", "Values stored."),
    _counter("store_sessions_total", "sessions", "Sessions begun or continued."),
    *(_counter("store_errors_total", "errors", "Errors, by kind.", ("kind", kind)) for kind in ERRORS),
    _counter("store_evicted_files_total", "files", "Files evicted to free disk space."),
    Series("store_connections", (), GAUGE, "connections", "Producers connected."),
    Series("store_live_sessions", (), GAUGE, "sessions", "Sessions whose end is not rolled up yet."),
    Series("store_ended_sessions", (), GAUGE, "sessions", "Ended sessions that the store remembers."),
    Series("store_waiting_journals", (), GAUGE, "journals", "Closed journals that are not rolled up yet."),
    Series("store_used_bytes", (), GAUGE, "bytes", "Disk space used by the store."),
    Series("store_max_bytes", (), GAUGE, "bytes", "Disk space that the store may use."),
    Series("store_loop_lag_ns", (), GAUGE, "ns", "Longest turn of the loop since the last tick."),
)
_PACK = struct.Struct(f"<{len(SERIES)}d").pack
_COUNTERS = sum(series.kind == COUNTER for series in SERIES)  # the first ones


class SelfMetrics:
    """Stores a server's own metrics, driven by its timers. The owner closes it before the store."""

    def __init__(self, server: Server, now_ms: Callable[[], int] = clock.now_ms) -> None:
        self._server = server
        self._now_ms = now_ms
        self._session: Session | None = None
        self._base = (0,) * _COUNTERS  # the counts of earlier sessions
        self._begin(now_ms())
        server.timers.every(1.0, self.tick, first_s=(1500 - now_ms() % 1000) % 1000 / 1000)

    def tick(self) -> None:
        """Gather the server's counts; the next turn writes them."""
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
        self.tick()  # the last counts; a short-lived server has no others
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
        """Gather a tick, unless the clock was set back before the last one."""
        if t_ms <= self._last_ms:
            return
        server, keeper = self._server, self._server.keeper
        if self._session is None:
            try:
                self._session = keeper.begin(self._header, self)
            except (OSError, StoreError) as exc:  # another session has our instance and start
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
