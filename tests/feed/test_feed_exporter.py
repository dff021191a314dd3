"""A real node-exporter: samples by rondo-feed, store and push equal those that a real Prometheus has scraped.

Strategy: a recorder requests a page from the exporter each second, and serves the newest one to both
scrapers. Each page has a number, so samples are compared page by page, at whatever times they were scraped.
"""

from __future__ import annotations

import gzip
import signal
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from devtools.http_server import Reply, http_server
from devtools.receivers.prometheus import PORT_TAKEN, Labels, Prometheus, free_port
from rondo_tools.store.reader import Store
from tests.support.needs import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
PAGES = 5
NUMBER = "recorder_page_number"
# Series about the scrape, which both scrapers add.
OF_SCRAPES = {"up", "scrape_duration_seconds"}
NOT_ON_PAGES = OF_SCRAPES | {
    "scrape_samples_scraped", "scrape_samples_post_metric_relabeling", "scrape_series_added"
}  # fmt: skip


class Recorder:
    """Serves the newest page of an exporter, compressed on request."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.pages: list[bytes] = []
        self._record()
        self._served = ExitStack()
        address = self._served.enter_context(http_server(self._answer, path=""))
        self.address = address.removeprefix("http://")
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _answer(self, request: BaseHTTPRequestHandler, body: bytes) -> Reply:
        assert "gzip" in request.headers["Accept-Encoding"]
        headers = {"Content-Type": "text/plain; version=0.0.4", "Content-Encoding": "gzip"}
        return 200, headers, gzip.compress(self.pages[-1])

    def _record(self) -> None:
        with urllib.request.urlopen(self._url, timeout=PATIENCE_S) as answer:
            page = answer.read()
        self.pages.append(
            page + b"# TYPE %b counter\n%b %d\n" % (NUMBER.encode(), NUMBER.encode(), len(self.pages))
        )

    def _run(self) -> None:
        while not self._is_over.wait(1):
            self._record()

    def close(self) -> None:
        self._is_over.set()
        self._served.close()
        self._thread.join()


@contextmanager
def recording(program: Path) -> Iterator[Recorder]:
    """A node-exporter, and a recorder of it."""
    while True:
        port = free_port()
        with subprocess.Popen(
            [program, f"--web.listen-address=127.0.0.1:{port}"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                assert process.stderr is not None
                line = next(
                    (line for line in process.stderr if "Listening on" in line or PORT_TAKEN in line), ""
                )
                if PORT_TAKEN in line:
                    continue
                threading.Thread(target=process.stderr.read, daemon=True).start()
                recorder = Recorder(f"http://127.0.0.1:{port}/metrics")
                try:
                    yield recorder
                finally:
                    recorder.close()
                return
            finally:
                process.kill()


def by_page(samples: dict[Labels, list[tuple[int, str]]]) -> dict[int, dict[Labels, int]]:
    """The bits of the values, by page and by labels without job and instance."""
    page_at: dict[int, int] = {}
    for labels, pairs in samples.items():
        if dict(labels)["__name__"] == NUMBER:
            page_at.update((t_ms, int(value)) for t_ms, value in pairs)
    found: dict[int, dict[Labels, int]] = {page: {} for page in page_at.values()}
    for labels, pairs in samples.items():
        own = tuple(label for label in labels if label[0] not in ("job", "instance"))
        if dict(own)["__name__"] not in NOT_ON_PAGES:
            for t_ms, value in pairs:
                if value != "NaN":  # which means no value in a stream
                    found[page_at[t_ms]][own] = int.from_bytes(struct.pack(">d", float(value)))
    return found


def command(name: str) -> list[str]:
    return [sys.executable, str(ROOT / "bin" / name)]


def test_fed_samples_equal_scraped_ones(
    program: Callable[[str], Path], prometheus: Prometheus, tmp_path: Path
) -> None:
    store, socket = tmp_path / "vmm_metrics", tmp_path / "store.sock"
    output = f"unix:{socket}"
    with recording(program("prometheus-node-exporter")) as recorder:
        config = (
            "global: {scrape_interval: 1s, scrape_timeout: 1s}\n"
            f"scrape_configs: [{{job_name: scraped, static_configs: [targets: ['{recorder.address}']]}}]\n"
        )
        with (
            Prometheus(program("prometheus"), config=config) as scraper,
            subprocess.Popen(
                [*command("rondo-store"), store, "--listen", output, "--no-health", "-q"],
                stdin=subprocess.DEVNULL,
            ) as server,
        ):
            feed = None
            try:
                feed = subprocess.Popen(
                    [
                        *command("rondo-feed"),
                        "--url",
                        f"http://{recorder.address}/metrics",
                        "--output",
                        output,
                    ],
                    stdin=subprocess.DEVNULL,
                )
                fed: set[int] = set()
                scraped: set[int] = set()
                deadline = time.monotonic() + PATIENCE_S
                while len(fed & scraped) < PAGES:
                    assert time.monotonic() < deadline
                    time.sleep(0.5)
                    scraped = {int(value) for _, value in next(iter(scraper.samples(NUMBER).values()), ())}
                    fed = pages_in(store)
                feed.send_signal(signal.SIGTERM)
                assert feed.wait(PATIENCE_S) == 0
                there = by_page(scraper.samples('{job="scraped"}'))
            finally:
                if feed is not None:
                    feed.kill()
                    feed.wait()
                server.terminate()
        pushed = subprocess.run(
            [*command("rondo-push"), store, "--remote-write", prometheus.write_url, "--no-health"],
            capture_output=True,
            timeout=PATIENCE_S,
        )
        assert pushed.returncode == 0, pushed.stderr
        arrived = prometheus.samples('{job="rondo-vmm"}')
    here = by_page(arrived)
    both = here.keys() & there.keys()
    assert len(both) >= PAGES
    for page in both:
        assert here[page] == there[page]
        assert len(here[page]) > 300
    names = {dict(labels)["__name__"] for labels in arrived}
    assert names >= OF_SCRAPES | {"node_cpu_seconds_total", "node_load1", NUMBER}
    assert {dict(labels)["instance"] for labels in arrived} == {recorder.address}
    (session,) = Store(store).sessions()
    kinds = {one.name: one.kind for one in session.header.series}
    assert (kinds["node_cpu_seconds_total"], kinds["node_load1"]) == ("counter", "gauge")
    assert kinds["go_gc_duration_seconds_count"] == "counter"


def pages_in(store: Path) -> set[int]:
    """The numbers of the pages that are stored."""
    found: set[int] = set()
    if (store / "store.json").exists():
        for session in Store(store).sessions():
            numbers = [place for place, one in enumerate(session.header.series) if one.name == NUMBER]
            rows = session.rows()
            found |= {
                int(value) for place in numbers for value in rows.values[:, place].tolist() if value == value
            }
    return found
