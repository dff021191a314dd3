"""A remote-write receiver in memory, for tests, and for the demo without a Prometheus."""

from __future__ import annotations

import math
import re
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from types import TracebackType

from devtools.http_server import Reply, http_server
from rondo_tools.prom.proto.remote_write_v1_pb2 import WriteRequest
from rondo_tools.prom.samples import STALE_NAN
from rondo_tools.push.encoding.v1 import decode
from rondo_tools.push.self_metrics import INSTANCE

HOUR_MS = 3_600_000

OWN = ("instance", INSTANCE)

Key = tuple[tuple[str, str], ...]
Samples = dict[Key, dict[int, int]]
"""The bits of each value, by the series' labels and time."""


def bits(value: float) -> int:
    return STALE_NAN if math.isnan(value) else struct.unpack("<Q", struct.pack("<d", value))[0]


class Receiver:
    """Prometheus' rules, as a sender sees them, in memory.

    A request is committed whole or not at all. Refused are samples for which `refuses` returns a reason,
    samples older than their series' newest, another value at the same time, and samples over an hour behind
    the newest of any series. A sample that does not ascend within its request is dropped silently.
    """

    def __init__(self, refuses: Callable[[Key, int], str | None] = lambda _labels, _t_ms: None) -> None:
        self.everything: Samples = {}
        self.refuses = refuses
        self.requests: list[WriteRequest] = []
        self.twice = 0  # exact duplicates that were accepted

    @property
    def samples(self) -> Samples:
        """The samples of the store, without rondo-push's own."""
        return {labels: mine for labels, mine in self.everything.items() if OWN not in labels}

    @property
    def health(self) -> Samples:
        return {labels: mine for labels, mine in self.everything.items() if OWN in labels}

    def take(self, body: bytes) -> str | None:
        """Commit the request and return None, or refuse it and return the reason."""
        return self.take_request(decode(body))

    def take_request(self, request: WriteRequest) -> str | None:
        """The same for a parsed request."""
        self.requests.append(request)
        newest_ms = max((max(series) for series in self.everything.values()), default=0)
        taken: list[tuple[Key, int, int]] = []
        for series in request.timeseries:
            labels = tuple((label.name, label.value) for label in series.labels)
            mine = self.everything.get(labels, {})
            last_ms = max(mine, default=0)
            for sample in series.samples:
                t_ms, value = sample.timestamp, bits(sample.value)
                if (words := self.refuses(labels, t_ms)) is not None:
                    return words
                if t_ms < last_ms:
                    return "out of order sample"
                if t_ms == last_ms and mine[t_ms] != value:
                    return "duplicate sample for timestamp"
                if t_ms < newest_ms - HOUR_MS:
                    return "out of bounds"
                taken.append((labels, t_ms, value))
        for labels, t_ms, value in taken:
            mine = self.everything.setdefault(labels, {})
            last_ms = max(mine, default=0)
            assert t_ms >= last_ms, "a sample would be lost despite a 204"
            self.twice += t_ms == last_ms
            mine[t_ms] = value
        return None


class StandIn:
    """A Receiver on a loopback port, in place of a Prometheus; `write_url` is its URL for writing."""

    def __init__(self) -> None:
        self._receiver = Receiver()
        self._lock = threading.Lock()

    def samples(self, selector: str) -> dict[Key, list[tuple[int, str]]]:
        """One instance's samples, as in Prometheus: ``{instance="NAME"}``, without stale markers."""
        match = re.fullmatch(r'\{instance="([^"]*)"\}', selector)
        if match is None:
            raise ValueError(f"this receiver does not support the selector {selector}")
        with self._lock:
            return {
                labels: [
                    (t_ms, repr(struct.unpack("<d", struct.pack("<Q", value))[0]))
                    for t_ms, value in series.items()
                    if value != STALE_NAN
                ]
                for labels, series in self._receiver.everything.items()
                if ("instance", match[1]) in labels
            }

    def _answer(self, _request: BaseHTTPRequestHandler, body: bytes) -> Reply:
        try:
            with self._lock:
                refusal = self._receiver.take(body)
        except ValueError as exc:
            refusal = str(exc)
        return (204, {}, b"") if refusal is None else (400, {}, refusal.encode())

    def __enter__(self) -> StandIn:
        self._server = http_server(self._answer, path="/api/v1/write")
        self.write_url = self._server.__enter__()
        return self

    def __exit__(
        self, type_: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.__exit__(type_, value, trace)
