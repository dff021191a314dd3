"""The cost of rondo-feed: 4,000 series once a second, from an exporter's page and from standard input.

    scripts/bench.py feed [--seconds 20]    duration of each

Strategy: the page is like a node-exporter's: names with labels, a third of its values changes each second.
rondo-feed sends to a real rondo-store; its CPU time is its process's own. The peer is the parser of
prometheus_client for the same page.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from bench.measure import least, process_cpu_s, program, serving
from bench.report import Peer, Report, run_part
from devtools.http_server import Reply, http_server
from rondo_tools.store.reader import Store

SERIES, NAMES = 4_000, 40
BAR = 5.0  # % of a core
SETTLE_S = 3.0  # imports, the first page, the first header


def main(report: Report, arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench.py feed", description="Measure rondo-feed.")
    parser.add_argument("--seconds", type=float, default=20.0, help="duration of each (default: 20)")
    seconds = parser.parse_args(arguments).seconds
    page = Page()
    text = page.text()
    peer = Peer("prometheus_client's parser alone", 100 * least(3, lambda: parse_s(text)))
    with tempfile.TemporaryDirectory(prefix="rondo-bench-feed-") as folder:
        socket = f"{folder}/store.sock"
        with serving(Path(folder, "store"), socket, "--no-health"):
            output = ("--output", f"unix:{socket}", "--instance")
            with served(page) as url:
                scraped = share(program("rondo-feed", "--url", url, *output, "scraped"), None, seconds)
            read = share(program("rondo-feed", *output, "read"), page, seconds)
        late = failed(Path(folder, "store"))
    what = f"{SERIES:,} series at 1 Hz"
    report.row(f"{what}, from a page", scraped, "% of a core", peer=peer, at_most=BAR)
    report.row(f"{what}, from standard input", read, "% of a core", peer=peer, at_most=BAR)
    report.row(f"{what}, from a page: scrapes that came to nothing", late)


class Page:
    """A page that changes: `text` returns the next one."""

    def __init__(self) -> None:
        self._random = random.Random(1)
        self._heads = [
            f'exporter_{name}_bytes_total{{device="disk{number}",mode="read",zone="eu-west-1a"}}'
            for name in range(NAMES)
            for number in range(SERIES // NAMES)
        ]
        self._values = [self._random.uniform(0, 1e9) for _ in self._heads]

    def text(self) -> str:
        for place in range(self._random.randrange(3), SERIES, 3):
            self._values[place] += self._random.randrange(1_000)
        lines = []
        for place, (head, value) in enumerate(zip(self._heads, self._values, strict=True)):
            if place % (SERIES // NAMES) == 0:
                name = head.partition("{")[0]
                lines += [f"# HELP {name} Bytes that were read.", f"# TYPE {name} counter"]
            lines.append(f"{head} {value!r}")
        return "\n".join(lines) + "\n"


@contextmanager
def served(page: Page) -> Iterator[str]:
    """An exporter with `page`; yields its URL."""

    def answer(_request: BaseHTTPRequestHandler, _body: bytes) -> Reply:
        return 200, {"Content-Type": "text/plain; version=0.0.4"}, page.text().encode()

    with http_server(answer, path="/metrics") as url:
        yield url


def share(command: list[str], page: Page | None, seconds: float) -> float:
    """CPU time of a rondo-feed in percent of a core; without a URL it gets `page` each second."""
    pipe = subprocess.DEVNULL if page is None else subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe) as process:
        try:
            say(process, page, SETTLE_S)
            before, began = process_cpu_s(process.pid), time.monotonic()
            say(process, page, seconds)
            used_s, lasted_s = process_cpu_s(process.pid) - before, time.monotonic() - began
            if process.poll() is not None:
                raise RuntimeError(f"rondo-feed ended with {process.returncode}")
        finally:
            process.kill()
    return 100 * used_s / lasted_s


def failed(store: Path) -> int:
    """The number of scrapes without a page."""
    (session,) = (one for one in Store(store).sessions() if one.instance == "scraped")
    place = [series.name for series in session.header.series].index("up")
    return int((session.rows().values[:, place] == 0).sum())


def say(process: subprocess.Popen[bytes], page: Page | None, seconds: float) -> None:
    """Let `seconds` pass, with a page in each second."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if page is not None:
            assert process.stdin is not None
            process.stdin.write(page.text().encode())
            process.stdin.flush()
        time.sleep(min(1.0, max(0.0, until - time.monotonic())))


def parse_s(text: str) -> float:
    before = time.process_time()
    for _ in text_string_to_metric_families(text):
        pass
    return time.process_time() - before


if __name__ == "__main__":
    sys.exit(run_part(main))
