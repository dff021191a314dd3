"""The routes of rondo-serve, and access to them.

Strategy: a route is a name and a function from a request to a response. One thread at a time reads the store,
because its open files and caches are shared; a request that waits longer than BUSY_S gets an error.
"""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus

from rondo_tools import __version__, clock
from rondo_tools.errors import StoreError
from rondo_tools.selector import Selector, parse_selector
from rondo_tools.serve import exposition, ranges, remote_read, static
from rondo_tools.serve.access import Access
from rondo_tools.serve.health import HealthWatch
from rondo_tools.serve.http import JSON, HttpError, Request, Response, as_json, text
from rondo_tools.serve.live import Live
from rondo_tools.serve.opened import Opened
from rondo_tools.serve.patterns import MATCHING_S, matcher
from rondo_tools.serve.self_metrics import SelfMetrics
from rondo_tools.serve.timelines import Asked, Naming, Timelines
from rondo_tools.store.reader import Store
from rondo_tools.view.state import running_or_silent

BUSY_S = 10.0
ANSWERS = 4  # to remote-read in memory at once: one may have many megabytes and a slow client
RECENT_MS = 30_000  # the last tick of a running VM, and the store's own, are not older
STORE_INSTANCE = "rondo-store"  # the instance of the store's own metrics

NO_PROMQL = """\
rondo-serve has no PromQL. To query this store with PromQL, or from Grafana, run a Prometheus that reads it:

  remote_read:
    - url: http://ADDRESS/api/v1/read
      read_recent: true

deploy/prometheus-local/ has a complete configuration; docs/serve.md explains it.
"""


class Site:
    """Answers requests about the store at `path`."""

    def __init__(self, path: str, naming: Naming, access: Access, *, max_samples: int) -> None:
        self._opened = Opened(path)
        self._naming = naming
        self._access = access
        self._max_samples = max_samples
        self._reading = threading.Lock()
        self._answers = threading.BoundedSemaphore(ANSWERS)
        self.live = Live(Opened(path).store, HealthWatch(path).items)
        self.metrics = SelfMetrics()
        self.connections: Callable[[], int] = lambda: 0
        self._routes: dict[tuple[str, str], Callable[[Request], Response]] = {
            ("GET", "/api/v1/live"): self._live_page,
            ("GET", "/api/v1/range"): self._range,
            ("GET", "/api/v1/sessions"): self._sessions,
            ("GET", "/federate"): self._federate,
            ("GET", "/health"): self._health,
            ("GET", "/info"): self._info,
            ("GET", "/metrics"): self._metrics,
            ("POST", "/api/v1/read"): self._read,
        }
        self._paths = {path for _, path in self._routes}

    def handle(self, request: Request, is_tcp: bool) -> Response:
        """Answer a request. Raises HttpError, RondoError."""
        began_s = time.monotonic()
        route = request.path if request.path in self._paths else "other"
        status = HTTPStatus.INTERNAL_SERVER_ERROR
        try:
            response = self._route(request, is_tcp)
            status = response.status
        except HttpError as exc:
            status = exc.status
            raise
        finally:
            self.metrics.answered(route, status, time.monotonic() - began_s)
        return response

    def _route(self, request: Request, is_tcp: bool) -> Response:
        if is_tcp:
            self._access.check_host(request)
        if request.path != "/health":  # probes of a load balancer have no token; the answer reveals little
            self._access.check_token(request)
        if request.path.startswith("/api/v1/query"):
            return text(NO_PROMQL.rstrip(), HTTPStatus.NOT_FOUND)
        method = "GET" if request.method == "HEAD" else request.method
        found = self._routes.get((method, request.path))
        if found is not None:
            return found(request)
        page = static.page(request)
        if page is not None and method == "GET":
            return page
        allowed = ["GET"] if page else [one for one, path in self._routes if path == request.path]
        if allowed:
            raise HttpError(
                HTTPStatus.METHOD_NOT_ALLOWED,
                f"{request.path} accepts {' or '.join(allowed)}",
                {"Allow": ", ".join(allowed)},
            )
        raise HttpError(HTTPStatus.NOT_FOUND, "no such path; docs/serve.md lists all")

    @contextmanager
    def _reader(self) -> Iterator[Store]:
        """The store, locked for this thread. Raises HttpError."""
        _wait_for(self._reading)
        try:
            yield self._opened.store()
        finally:
            self._reading.release()

    def _read(self, request: Request) -> Response:
        _wait_for(self._answers)
        try:
            with self._reader() as store:
                timelines = Timelines(store, self._naming)
                answer = remote_read.answer(
                    request.body, timelines, store.tiers, self._max_samples, self.metrics.read
                )
        except BaseException:
            self._answers.release()
            raise
        return replace(answer, done=self._answers.release)

    def _federate(self, request: Request) -> Response:
        selectors = request.query.get("match[]", [])
        if not selectors:
            raise HttpError(HTTPStatus.BAD_REQUEST, "name the series: /federate?match[]=vmm_uptime_seconds")
        now_ms, until = clock.now_ms(), time.monotonic() + MATCHING_S
        found = {}
        with self._reader() as store:
            timelines = Timelines(store, self._naming)
            for selector in selectors:
                matchers = tuple(
                    matcher(one.label, one.operator, one.value, until)
                    for one in parse_selector(selector).matchers
                )
                asked = Asked(Selector(matchers), now_ms - RECENT_MS, now_ms, max_samples=self._max_samples)
                for sample in timelines.latest(asked):
                    found[sample.labels] = sample
        note = "The last tick of each running VM. A scrape gets one second of many: rondo-push delivers all."
        return Response(exposition.expose(found.values(), note).encode(), exposition.CONTENT_TYPE)

    def _live_page(self, request: Request) -> Response:
        data = self.live.answer(_integer(request, "since", 0))
        if request.takes_gzip:
            headers = {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
            return Response(data, JSON, headers=headers)
        return Response(gzip.decompress(data), JSON)

    def _sessions(self, request: Request) -> Response:
        """Sessions with a tick at or after `since` (Unix ms), and those that have not ended."""
        with self._reader() as store:
            sessions = store.sessions(since_ms=_integer(request, "since", 0))
        now_ms = clock.now_ms()
        return as_json(
            [
                {
                    "instance": one.instance,
                    "session_ms": one.start_ms,
                    "first_ms": one.first_ms,
                    "last_ms": one.last_ms,
                    "ticks": one.ticks,
                    "labels": dict(one.labels),
                    "state": one.reason
                    or running_or_silent(one.interval_ms, now_ms - (one.last_ms or one.start_ms)),
                }
                for one in sessions
            ]
        )

    def _range(self, request: Request) -> Response:
        instance = request.one("instance")
        now_ms = clock.now_ms()
        end_ms = _integer(request, "end", now_ms)
        start_ms = _integer(request, "start", end_ms - 600_000)
        points = min(_integer(request, "points", ranges.POINTS), ranges.POINTS)
        with self._reader() as store:
            lives = store.sessions(instance=instance)
            if not lives:
                raise HttpError(HTTPStatus.NOT_FOUND, f"the store has no instance {instance!r:.200}")
            wanted_ms = _integer(request, "session", lives[-1].start_ms)
            session = next((one for one in lives if one.start_ms == wanted_ms), None)
            if session is None:
                raise HttpError(
                    HTTPStatus.NOT_FOUND, f"{instance!r:.200} has no life that began at {wanted_ms}"
                )
            return as_json(ranges.answer(store, lives, session, start_ms, end_ms, points))

    def _metrics(self, _: Request) -> Response:
        """rondo-serve's own metrics, and the newest of the store's own."""
        now_ms = clock.now_ms()
        own = (matcher("instance", "=", STORE_INSTANCE),)
        with self._reader() as store:
            samples = Timelines(store, self._naming).latest(Asked(Selector(own), now_ms - RECENT_MS, now_ms))
        samples += self.metrics.samples(now_ms, self.connections())
        return Response(exposition.expose(samples).encode(), exposition.CONTENT_TYPE)

    def _health(self, _: Request) -> Response:
        try:
            with self._reader() as store:
                own = store.sessions(instance=STORE_INSTANCE, since_ms=1)
        except StoreError as exc:
            return text(f"the store cannot be read: {exc}", HTTPStatus.SERVICE_UNAVAILABLE)
        running = [one for one in own if one.end is None]
        age_ms = clock.now_ms() - max((one.last_ms for one in running), default=0)
        if running and age_ms > RECENT_MS:
            return text(
                f"the store's own last tick is {age_ms // 1000} s old: rondo-store hangs, or was killed",
                HTTPStatus.SERVICE_UNAVAILABLE,
            )
        return text("ok")

    def _info(self, _: Request) -> Response:
        with self._reader() as store:
            sessions = store.sessions()
            names: dict[str, str] = {}
            for schema in {one.header.series for one in sessions}:
                names |= {series.name: series.kind for series in schema}
        times = [(one.first_ms, one.last_ms) for one in sessions if one.ticks]
        return as_json(
            {
                "version": __version__,
                "store_format": 2,
                "tiers": [str(tier) for tier in store.tiers],
                "sessions": len(sessions),
                "running": sum(one.end is None for one in sessions),
                "series": [{"name": name, "kind": names[name]} for name in sorted(names)],
                "oldest_ms": min((first for first, _ in times), default=None),
                "newest_ms": max((last for _, last in times), default=None),
            }
        )


def _wait_for(place: threading.Lock | threading.BoundedSemaphore) -> None:
    """Raises HttpError if the place is not free within BUSY_S."""
    if not place.acquire(timeout=BUSY_S):
        raise HttpError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"busy with other requests for more than {BUSY_S:g} s: try again",
            {"Retry-After": "5"},
        )


def _integer(request: Request, name: str, default: int) -> int:
    """A parameter that is a number, as of Unix milliseconds. Raises HttpError."""
    text = request.one(name, str(default))
    if not (text.isascii() and text.isdigit()) or len(text) > 15:
        raise HttpError(
            HTTPStatus.BAD_REQUEST, f"{name}={text[:50]}: write a number, times in Unix milliseconds"
        )
    return int(text)
