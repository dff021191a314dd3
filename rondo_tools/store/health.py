"""rondo-store's own health, stored as an instance of its own: it goes the way of all metrics.

A session `rondo-store` begins with each server; it gets a tick a second, in the same tiers, and an
end. What it counts is counted anyway. Where there is no room for it, it is left out until there is:
nobody waits for it. When the clock is set back it does as every producer does (`clock`): it skips a few
ticks, or goes on in another session, whose counters begin at zero.
"""

from __future__ import annotations

import logging
import operator
import struct
from collections.abc import Callable

from rondo_tools import clock
from rondo_tools.catalog import COUNTER, GAUGE, Series
from rondo_tools.errors import StoreError
from rondo_tools.store.server import ERRORS, Server
from rondo_tools.store.writer import SessionWriter
from rondo_tools.stream import End, Header, Tick

log = logging.getLogger(__name__)

INSTANCE = "rondo-store"
INTERVAL_MS = 1000


def _counter(name: str, unit: str, text: str, *labels: tuple[str, str]) -> Series:
    return Series(name, labels, COUNTER, unit, text)


SERIES = (
    *(
        _counter("store_ticks_total", "ticks", "Ticks received, by what became of them.", ("result", result))
        for result in ("stored", "late", "ahead")
    ),
    _counter("store_samples_total", "samples", "Values stored."),
    _counter("store_sessions_total", "sessions", "Sessions begun, or gone on with."),
    *(
        _counter("store_errors_total", "errors", "Connections that went wrong, by why.", ("kind", kind))
        for kind in ERRORS
    ),
    Series("store_connections", (), GAUGE, "connections", "Producers connected."),
    Series("store_instances", (), GAUGE, "instances", "Instances that are in the store."),
    Series("store_used_bytes", (), GAUGE, "bytes", "What the store takes on the disk."),
    Series("store_loop_lag_ns", (), GAUGE, "ns", "The longest turn of the loop, over the tick."),
)
_PACK = struct.Struct(f"<{len(SERIES)}d").pack
_COUNTERS = sum(series.kind == COUNTER for series in SERIES)  # they come first


class Health:
    """Stores the health of a server, told by its timers. The owner closes it."""

    def __init__(self, server: Server, now_ms: Callable[[], int] = clock.now_ms) -> None:
        self._server = server
        self._now_ms = now_ms
        self._session: SessionWriter | None = None
        self._base = (0,) * _COUNTERS  # what was counted in earlier sessions
        self._begin(now_ms())
        # In the middle of a second, where a clock that is set right by a bit changes no slot.
        server.timers.every(1.0, self.tick, first_s=(1500 - now_ms() % 1000) % 1000 / 1000)

    def tick(self) -> None:
        """Store what the server has come to."""
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
            counts.stored, counts.late, counts.ahead, counts.samples, counts.sessions,
            *(errors[kind] for kind in ERRORS),
        )  # fmt: skip

    def _store(self, t_ms: int, count: tuple[int, ...]) -> None:
        """Store a tick, unless the clock has not come to the one before again."""
        if t_ms <= self._last_ms:
            return
        room = self._server.store.room
        counters = map(operator.sub, count, self._base)
        gauges = (self._server.connections, room.instances, room.used_bytes, self._server.take_lag_ns())
        try:
            if self._session is None:
                self._session = self._server.store.open(self._header)
            self._session.ring.append([Tick(t_ms, _PACK(*counters, *gauges))])
        except (OSError, StoreError) as exc:
            log.debug("no tick of our own: %s", exc)
            return
        self._last_ms = t_ms
        self._server.store.wrote(self._session)
        if self._session.ring.closed_through_ms:
            self._server.tell(self._session.folder, self._session.ring.closed_through_ms)

    def _end(self, reason: str) -> None:
        if self._session is None:
            return
        try:
            self._session.finish(End(reason, self._last_ms))
            self._server.tell(self._session.folder, self._session.ring.last_ms)
        except OSError as exc:
            log.debug("no end of our own: %s", exc)
        finally:
            self._session.close()
            self._session = None
