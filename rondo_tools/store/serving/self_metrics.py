"""rondo-store's own metrics, stored as an instance of its own: they go the way of all metrics.

A session `rondo-store` begins with each server; it gets a tick a second, and an end. What it counts is
counted anyway. While nothing can be written it gets no tick: nobody waits for it.
"""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Callable

from rondo_tools.catalog import COUNTER, GAUGE, Series
from rondo_tools.store.live import Session
from rondo_tools.store.serving.server import ERRORS, Server
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
    Series("store_connections", (), GAUGE, "connections", "Producers connected."),
    Series("store_live_sessions", (), GAUGE, "sessions", "Sessions that are not over and rolled up."),
    Series("store_loop_lag_ns", (), GAUGE, "ns", "The longest turn of the loop, over the tick."),
)
_PACK = struct.Struct(f"<{len(SERIES)}d").pack


class SelfMetrics:
    """Stores a server's own metrics, driven by its timers. The owner closes it before the keeper."""

    def __init__(
        self, server: Server, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        self._server = server
        self._now_ms = now_ms
        self._header = Header(INSTANCE, now_ms(), (), INTERVAL_MS, SERIES)
        self._session: Session | None = None
        server.timers.every(1.0, self.tick, first_s=(1500 - now_ms() % 1000) % 1000 / 1000)

    def tick(self) -> None:
        """Gather what the server has come to; the next turn writes it."""
        server = self._server
        if server.is_blocked:
            return
        counts = server.counts
        if self._session is None:
            self._session = server.keeper.begin(self._header, self)
        values = _PACK(
            counts.stored, counts.late, counts.ahead, counts.expired, counts.samples, counts.sessions,
            *(server.errors[kind] for kind in ERRORS),
            server.connections, len(server.keeper.live), server.take_lag_ns(),
        )  # fmt: skip
        server.keeper.append(self._session, self._now_ms(), values)

    def close(self) -> None:
        self.tick()  # the last counts; of a server that lived for a moment, the only ones
        if self._session is not None:
            self._server.keeper.end(self._session, End("signal", self._now_ms()))
            self._server.keeper.release(self._session, self)
