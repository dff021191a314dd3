"""The peer that is scraped: the series of many VMs as the page of one exporter, with prometheus_client.

    python -m bench.fleet_page VMS BEGIN_MS      prints its port; GET /metrics, and GET /bytes sent so far

Each request makes a page from existing values: an exporter's cost to collect them is not included.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import make_wsgi_app

from bench.vms import Fleet
from rondo_tools.catalog import COUNTER, SERIES


class Collector:
    def __init__(self, fleet: Fleet, begin_ms: int) -> None:
        self._fleet, self._begin_ms = fleet, begin_ms

    def collect(self) -> Iterator[Metric]:
        second = max(0, (time.time_ns() // 1_000_000 - self._begin_ms) // 1000)
        names, values = self._fleet.at(second)
        families: dict[str, Any] = {}
        for column, series in zip(values.T.tolist(), SERIES, strict=True):
            family = families.get(series.name)
            if family is None:
                make = CounterMetricFamily if series.kind == COUNTER else GaugeMetricFamily
                labels = ["instance", *(name for name, _ in series.labels)]
                family = families[series.name] = make(series.name, series.help, labels=labels)
            own = [value for _, value in series.labels]
            for name, value in zip(names, column, strict=True):
                family.add_metric([name, *own], value)
        yield from families.values()


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    registry = CollectorRegistry()
    registry.register(Collector(Fleet(int(sys.argv[1])), int(sys.argv[2])))
    page, sent = make_wsgi_app(registry), 0

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        nonlocal sent
        if environ["PATH_INFO"] == "/bytes":
            start_response("200 OK", [])
            return [str(sent).encode()]
        body: list[bytes] = page(environ, start_response)
        sent += sum(map(len, body))
        return body

    server = make_server("127.0.0.1", 0, app, Server, Quiet)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
