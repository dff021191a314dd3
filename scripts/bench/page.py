"""The cost of rondo-serve's page for a store of many VMs, a tick a second each: without viewers, one, twenty.

    scripts/bench.py page [--vms 1000] [--seconds 20]

A serving rondo-store has ten minutes of the VMs, and gets their ticks on a connection each, spread over the
second. A viewer requests the changes once a second, like the page. CPU time is rondo-serve's own. A redraw is
measured in a real Chromium: from the answer's text to the end of the frame that shows it. Finally rondo-serve
answers requests at full speed, while one more producer sends a tick, waits until it is stored, and sends the
next.
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import re
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from bench.measure import cpu_ns, resident_bytes, serving, serving_http
from bench.remote_read import RANGE_MS, read, request
from bench.report import Peer, Report, run_part
from bench.stall import Watched
from bench.top import A_TURN, Host
from devtools.programs import fetch
from rondo_tools import stream
from rondo_tools.files import raise_descriptor_limit
from rondo_tools.store.opened import OpenStore

PAST_S = 600
MANY = 20
START_BAR_S, ONE_BAR_S, MANY_BAR_TIMES, MEMORY_BAR_MB, REDRAW_BAR_MS = 0.5, 0.1, 1.3, 100, 100
TIME_REDRAWS = """
const redraws = (window.redraws = []), ask = window.fetch;
window.fetch = async (...asked) => {
  const answer = await ask(...asked);
  if (String(asked[0]).includes("api/v1/live")) {
    answer.json = async () => {
      const text = await answer.text(), began = performance.now();
      requestAnimationFrame(() => setTimeout(() => redraws.push(performance.now() - began)));
      return JSON.parse(text);
    };
  }
  return answer;
};
"""


def main(report: Report, arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench.py page", description="Measure rondo-serve's page.")
    parser.add_argument("--vms", type=int, default=1000, help="(default: 1000)")
    parser.add_argument("--seconds", type=int, default=20, help="for each figure (default: 20)")
    given = parser.parse_args(arguments)
    raise_descriptor_limit()
    with tempfile.TemporaryDirectory(prefix="rondo-bench-") as name:
        path, address, of = Path(name, "store"), f"{name}/sock", f"{given.vms:,} VMs"
        with OpenStore(path) as store:
            host = Host(store, given.vms, PAST_S)
        with serving(path, address, "--no-health"), fed(address, host):
            with serving_http(path) as (port, pid):
                viewers(report, port, pid, given.seconds, of)
                in_chromium(report, port, given.seconds, of)
            waits(report, path, address, given.seconds)


# --- the store -----------------------------------------------------------------------------------------


@contextmanager
def fed(address: str, host: Host) -> Iterator[None]:
    """Continue the VMs meanwhile, in a process of their own."""
    joined, over = multiprocessing.Event(), multiprocessing.Event()
    process = multiprocessing.Process(target=feed, args=(address, host, joined, over), daemon=True)
    process.start()
    try:
        while not joined.wait(1):
            if not process.is_alive():
                raise RuntimeError("the VMs could not join")
        yield
    finally:
        over.set()
        process.join()


def feed(address: str, host: Host, joined: Event, over: Event) -> None:
    peers = []
    for header in host.headers:
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(address)
        peer.sendall(stream.encode(header))
        peers.append(peer)
    begin_s = time.monotonic()
    for second in range(1 << 30):
        rows = host.grown()
        for at in range(0, len(peers), A_TURN):
            if over.wait(max(0.0, begin_s + second + at / len(peers) - time.monotonic())):
                return
            t_ms = time.time_ns() // 1_000_000
            for peer, row in zip(peers[at : at + A_TURN], rows[at : at + A_TURN], strict=True):
                peer.sendall(stream.encode(stream.Tick(t_ms, row)))
        if second == 1:
            joined.set()


# --- viewers -------------------------------------------------------------------------------------------


class Viewer:
    """Makes the same requests as the page."""

    def __init__(self, port: int) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=300)
        self._seen = 0

    def ask(self) -> int:
        """The compressed size of the answer."""
        path = f"/api/v1/live?since={self._seen}"
        self._connection.request("GET", path, headers={"Accept-Encoding": "gzip"})
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {body.decode()}")
        message = json.loads(gzip.decompress(body))
        for part in (message, *message.get("deltas", ())):
            self._seen = part.get("seq", self._seen)
        return len(body)

    def close(self) -> None:
        self._connection.close()


def viewers(report: Report, port: int, pid: int, seconds: int, of: str) -> None:
    probe = HTTPConnection("127.0.0.1", port, timeout=300)
    probe.request("GET", "/health")
    probe.getresponse().read()
    probe.close()
    report.row("start, until it answers", cpu_ns(pid) / 1e9, "s of CPU", at_most=START_BAR_S)
    time.sleep(1)  # the connection's end
    report.row(f"{of}, nobody looks: a second", cpu_s_a_second(pid, [], seconds), "s of CPU", at_most=0)
    one, before_ns = Viewer(port), cpu_ns(pid)
    size = one.ask()
    report.row(f"{of}: the first answer, ten minutes back", (cpu_ns(pid) - before_ns) / 1e9, "s of CPU")
    report.row("the first answer, compressed", size / 1e3, "kB")
    sizes: list[int] = []
    alone_s = cpu_s_a_second(pid, [one], seconds, sizes)
    report.row(f"{of}, one viewer: a second", alone_s, "s of CPU", at_most=ONE_BAR_S)
    report.row("what has changed in a second, compressed", statistics.median(sizes) / 1e3, "kB")
    report.row(f"{of}, one viewer: memory", resident_bytes(pid) / 1e6, "MB", at_most=MEMORY_BAR_MB)
    report.row(f"{of}, one viewer: memory at its peak", peak_bytes(pid) / 1e6, "MB")
    many = [one, *(Viewer(port) for _ in range(MANY - 1))]
    for viewer in many:
        viewer.ask()
    together_s = cpu_s_a_second(pid, many, seconds)
    report.row(f"{of}, {MANY} viewers: a second", together_s, "s of CPU", peer=Peer("one viewer", alone_s))
    report.row(f"{MANY} viewers, beside one", together_s / alone_s, "times as much", at_most=MANY_BAR_TIMES)
    for viewer in many:
        viewer.close()


def cpu_s_a_second(pid: int, some: list[Viewer], seconds: int, sizes: list[int] | None = None) -> float:
    """CPU time of rondo-serve a second, while each viewer asks once a second, one after another."""
    begin_s, before_ns = time.monotonic(), cpu_ns(pid)
    for second in range(seconds):
        for number, viewer in enumerate(some):
            time.sleep(max(0.0, begin_s + second + number / len(some) - time.monotonic()))
            size = viewer.ask()
            if sizes is not None:
                sizes.append(size)
    time.sleep(max(0.0, begin_s + seconds - time.monotonic()))
    return (cpu_ns(pid) - before_ns) / 1e9 / (time.monotonic() - begin_s)


def peak_bytes(pid: int) -> int:
    """VmHWM of proc(5)."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


# --- the browser ---------------------------------------------------------------------------------------


def in_chromium(report: Report, port: int, seconds: int, of: str) -> None:
    from playwright.sync_api import sync_playwright

    try:
        chromium = fetch("chromium")
    except LookupError as exc:
        report.note(f"without Chromium: {exc}")
        return
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.set_default_timeout(300_000)
            page.add_init_script(TIME_REDRAWS)
            page.goto(f"http://127.0.0.1:{port}/")
            while page.evaluate("redraws.length") < 3:
                page.wait_for_timeout(100)
            session = page.context.new_cdp_session(page)
            session.send("Performance.enable")
            page.evaluate("redraws.splice(0)")
            before_s = busy_s(session)
            page.wait_for_timeout(seconds * 1000)
            took_s, redraws_ms = busy_s(session) - before_s, sorted(page.evaluate("redraws"))
        finally:
            browser.close()
    what = f"a redraw of the page of {of} in Chromium"
    report.row(f"{what}: median", statistics.median(redraws_ms), "ms", at_most=REDRAW_BAR_MS)
    report.row(f"{what}: worst", redraws_ms[-1], "ms")
    report.row("the page's thread is busy in a second for", took_s / seconds * 1e3, "ms")


def busy_s(session: Any) -> float:
    metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    return float(metrics["TaskDuration"])


# --- the store beside it -------------------------------------------------------------------------------


def waits(report: Report, path: Path, address: str, seconds: int) -> None:
    """A tick's wait, without rondo-serve and beside one under full load."""
    one = Watched(address)
    one.tick_for(seconds)
    alone = one.waits()
    with serving_http(path) as (port, _):
        over = multiprocessing.Event()
        process = multiprocessing.Process(target=hammer, args=(port, over), daemon=True)
        process.start()
        one.tick_for(seconds)
        over.set()
        process.join()
        if process.exitcode:
            raise RuntimeError("rondo-serve did not answer all that it was asked")
    beside = one.waits()
    what = "a tick's wait for the store, beside a rondo-serve that has no rest"
    without = "without rondo-serve"
    report.row(f"{what}: worst", beside[-1] * 1e3, "ms", peer=Peer(without, alone[-1] * 1e3))
    report.row(f"{what}: median", statistics.median(beside) * 1e3, "ms",
               peer=Peer(without, statistics.median(alone) * 1e3))  # fmt: skip


def hammer(port: int, over: Event) -> None:
    """Request pages, their changes, and remote-reads of all VMs, without a pause."""
    while not over.is_set():
        viewer = Viewer(port)
        for _ in range(3):
            viewer.ask()
        viewer.close()
        now_ms = time.time_ns() // 1_000_000
        read(port, request(now_ms - RANGE_MS, now_ms, __name__="vcpu_exits_total"))


if __name__ == "__main__":
    sys.exit(run_part(main))
