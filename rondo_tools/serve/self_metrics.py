"""rondo-serve's own metrics, for /metrics."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path

from rondo_tools.catalog import COUNTER, GAUGE, Series
from rondo_tools.selector import NAME
from rondo_tools.serve.timelines import Sample

_PAGE = os.sysconf("SC_PAGE_SIZE")


def _series(name: str, kind: str, unit: str, help: str) -> Series:
    return Series(name, (), kind, unit, help)


REQUESTS = _series("serve_requests_total", COUNTER, "requests", "Requests, by path and status.")
SECONDS = _series("serve_request_seconds_total", COUNTER, "seconds", "Time spent on making answers.")
SAMPLES = _series("serve_read_samples_total", COUNTER, "samples", "Samples in answers to remote-read.")
CONNECTIONS = _series("serve_connections", GAUGE, "connections", "Connections that are open.")
CPU = _series("serve_cpu_seconds_total", COUNTER, "seconds", "CPU time of rondo-serve.")
RSS = _series("serve_rss_bytes", GAUGE, "bytes", "Memory of rondo-serve.")


class SelfMetrics:
    """Counts of all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._samples = 0

    def answered(self, route: str, status: int, seconds: float) -> None:
        with self._lock:
            self._requests[route, status] += 1
            self._seconds[route] += seconds

    def read(self, samples: int) -> None:
        with self._lock:
            self._samples += samples

    def samples(self, now_ms: int, connections: int) -> list[Sample]:
        with self._lock:
            requests, seconds, read = dict(self._requests), dict(self._seconds), self._samples
        found = [
            _sample(REQUESTS, now_ms, count, route=route, status=str(status))
            for (route, status), count in sorted(requests.items())
        ]
        found += [_sample(SECONDS, now_ms, spent, route=route) for route, spent in sorted(seconds.items())]
        return [
            *found,
            _sample(SAMPLES, now_ms, read),
            _sample(CONNECTIONS, now_ms, connections),
            _sample(CPU, now_ms, time.process_time()),
            _sample(RSS, now_ms, int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE),
        ]


def _sample(series: Series, t_ms: int, value: float, **labels: str) -> Sample:
    return Sample(series, ((NAME, series.name), *sorted(labels.items())), t_ms, float(value))
