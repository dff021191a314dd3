"""rondo beside scraping: the cost of one-second metrics of 10 to 10,000 VMs on the host, and the seconds
caught.

    scripts/bench.py scale [--seconds 30] [--vms 10 100 1000 10000]

The same VMs in four runs, each into its own Prometheus: by rondo-store and rondo-push; as one page of an
exporter that Prometheus scrapes every second, and every 15 s; and that page scraped by vmagent every second
and forwarded by remote-write. Each run also has twenty VMs that live five seconds. The host's CPU and memory
are those of rondo-store and rondo-push, or of the exporter and vmagent if there is one; not those of the VMs,
and not the exporter's cost to collect values.
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import NamedTuple

from bench.measure import process_cpu_s, program, resident_bytes, serving
from bench.report import Peer, Report, Row, run_part
from bench.vms import LIFE_S, SHORT, Fleet
from devtools.http_server import Reply, http_server
from devtools.programs import fetch
from devtools.receivers.prometheus import Prometheus, free_port
from rondo_tools import stream
from rondo_tools.catalog import SERIES
from rondo_tools.files import raise_descriptor_limit

RONDO, EVERY_SECOND = "rondo", "scraped every 1 s"
EVERY_15_S, VMAGENT = "scraped every 15 s", "vmagent, every 1 s"
CPU_EACH, CPU, MEMORY = "CPU of the host, a sample", "CPU of the host", "memory on the host"
BYTES, CAUGHT = "bytes on the wire, a sample", f"seconds caught of a VM that lives {LIFE_S} s"
SAMPLES, RECEIVER = "samples that arrived", "CPU of Prometheus, a sample"
PATIENCE_S = 120.0  # bounds a hang
SETTLE_MS = 9_000  # Prometheus begins to scrape five seconds after its start
_TARGET = """
scrape_configs:
  - job_name: vms
    honor_labels: true
    scrape_interval: {interval}
    scrape_timeout: {interval}
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


class Outcome(NamedTuple):
    """The result of one way; `receiver_s` is Prometheus' CPU time, `caught` the seconds of all short VMs."""

    cpu_s: float
    receiver_s: float
    bytes: int
    memory: int
    samples: int
    caught: int
    seconds: float


def main(report: Report, arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench.py scale", description="Measure rondo beside scraping.")
    parser.add_argument(
        "--seconds", type=int, default=30, help="duration of each run, at least 30 (default: 30)"
    )
    parser.add_argument("--vms", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    own = parser.parse_args(arguments)
    if own.seconds < 30:
        parser.error("--seconds: at least 30, so that all VMs of five seconds fit")
    raise_descriptor_limit()
    try:
        prometheus, vmagent = fetch("prometheus"), fetch("vmagent")
    except LookupError as exc:
        report.note(f"nothing to compare with: {exc}")
        return
    for vms in own.vms:
        peer = scraped(prometheus, vms, own.seconds, "1s")
        tell(report, vms, RONDO, rondo(prometheus, vms, own.seconds), peer)
        tell(report, vms, EVERY_SECOND, peer)
        tell(report, vms, EVERY_15_S, scraped(prometheus, vms, own.seconds, "15s"))
        tell(report, vms, VMAGENT, scraped(prometheus, vms, own.seconds, "1s", vmagent))


def tell(report: Report, vms: int, way: str, one: Outcome, peer: Outcome | None = None) -> None:
    """Add the rows of one way: `VMs; way; measure`. Figures per sample need samples that arrived."""

    def row(measure: str, unit: str, value: Callable[[Outcome], float], *, each: bool = False) -> None:
        if each and not one.samples:
            return
        beside = None
        if peer is not None and (peer.samples or not each):
            beside = Peer(EVERY_SECOND, value(peer))
        report.row(
            f"{vms:,} VMs; {way}; {measure}",
            value(one),
            unit,
            peer=beside,
            at_least=LIFE_S if measure == CAUGHT and way == RONDO else None,
            more_is_better=measure in (CAUGHT, SAMPLES),
        )

    row(CPU_EACH, "µs", lambda one: one.cpu_s / one.samples * 1e6, each=True)
    row(CPU, "% of a core", lambda one: one.cpu_s / one.seconds * 100)
    row(RECEIVER, "µs", lambda one: one.receiver_s / one.samples * 1e6, each=True)
    row(BYTES, "bytes", lambda one: one.bytes / one.samples, each=True)
    row(MEMORY, "MB", lambda one: one.memory / 1e6)
    row(SAMPLES, "a second", lambda one: one.samples / one.seconds)
    row(CAUGHT, "s", lambda one: one.caught / SHORT)


# --- the two ways ----------------------------------------------------------------------------------------


def rondo(prometheus: Path, vms: int, seconds: int) -> Outcome:
    fleet = Fleet(vms)
    with (
        tempfile.TemporaryDirectory(prefix="rondo-bench-") as name,
        Prometheus(prometheus) as receiver,
        relay(receiver.port) as (url, sent),
        serving(Path(name) / "store", f"{name}/sock", "--no-health") as store,
    ):
        start_ms = time.time_ns() // 1_000_000
        peers = {vm: join(f"{name}/sock", vm, start_ms) for vm in fleet.steady}
        for peer, row in zip(peers.values(), fleet.at(0)[1], strict=True):
            peer.sendall(stream.encode(stream.Tick(start_ms + 1, row.tobytes())))
        time.sleep(1)
        with pushing(Path(name) / "store", url) as push:
            deadline = time.monotonic() + PATIENCE_S
            while not sent:  # until rondo-push has started up
                if time.monotonic() > deadline:
                    raise RuntimeError("rondo-push delivers nothing")
                time.sleep(0.05)
            time.sleep(2)
            skipped, skipped_bytes = appended(receiver), sum(sent)
            cpu_s = -process_cpu_s(store) - process_cpu_s(push.pid)
            there_s, begin = process_cpu_s(receiver.process.pid), time.monotonic()
            send(fleet, f"{name}/sock", peers, seconds)
            took, memory = time.monotonic() - begin, resident_bytes(store) + resident_bytes(push.pid)
            cpu_s += process_cpu_s(store)
            arrived(receiver, vms * (seconds + 1) + SHORT * LIFE_S)
            push.send_signal(signal.SIGTERM)
            _, status, usage = os.wait4(push.pid, 0)
            push.returncode = os.waitstatus_to_exitcode(status)
            cpu_s += usage.ru_utime + usage.ru_stime
        there_s = process_cpu_s(receiver.process.pid) - there_s
        samples, wire = appended(receiver) - skipped, sum(sent) - skipped_bytes
        return Outcome(cpu_s, there_s, wire, memory, samples, caught(receiver), took)


@contextmanager
def pushing(store: Path, url: str) -> Iterator[subprocess.Popen[bytes]]:
    """A rondo-push every 10 s."""
    flags = ("--interval", "10s", "--no-health", "-q")
    process = subprocess.Popen(program("rondo-push", store, "--remote-write", url, *flags))
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            process.wait()


def scraped(prometheus: Path, vms: int, seconds: int, interval: str, vmagent: Path | None = None) -> Outcome:
    begin_ms = time.time_ns() // 1_000_000 + SETTLE_MS
    with (
        tempfile.TemporaryDirectory(prefix="rondo-bench-") as name,
        page(vms, begin_ms) as (exporter, port),
        Prometheus(prometheus, config="" if vmagent else target(interval, port)) as receiver,
        relay(receiver.port) as (through, sent),
        forwarding(vmagent, Path(name), target(interval, port), through) as agents,
    ):
        pids = [exporter, *agents]
        time.sleep(max(0.0, begin_ms / 1000 - time.time()))
        skipped, skipped_bytes = appended(receiver), sum(sent) if vmagent else page_bytes(port)
        cpu_s, begin = sum(map(process_cpu_s, pids)), time.monotonic()
        there_s = process_cpu_s(receiver.process.pid)
        time.sleep(seconds)
        cpu_s, took = sum(map(process_cpu_s, pids)) - cpu_s, time.monotonic() - begin
        there_s = process_cpu_s(receiver.process.pid) - there_s
        samples, memory = appended(receiver) - skipped, sum(map(resident_bytes, pids))
        wire = (sum(sent) if vmagent else page_bytes(port)) - skipped_bytes
        return Outcome(cpu_s, there_s, wire, memory, samples, caught(receiver), took)


def target(interval: str, port: int) -> str:
    return _TARGET.format(interval=interval, port=port)


@contextmanager
def page(vms: int, begin_ms: int) -> Iterator[tuple[int, int]]:
    """An exporter; yields its process id and its port."""
    command = [sys.executable, "-m", "bench.fleet_page", str(vms), str(begin_ms)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield process.pid, int(process.stdout.readline())
        finally:
            process.kill()


@contextmanager
def forwarding(vmagent: Path | None, folder: Path, config: str, url: str) -> Iterator[list[int]]:
    """A vmagent that scrapes and forwards; yields its process id, or nothing without a vmagent."""
    if vmagent is None:
        yield []
        return
    (folder / "scrape.yml").write_text(config)
    command = [
        str(vmagent),
        f"-httpListenAddr=127.0.0.1:{free_port()}", f"-promscrape.config={folder / 'scrape.yml'}",
        f"-remoteWrite.url={url}", "-promscrape.maxScrapeSize=256MB",
        f"-remoteWrite.tmpDataPath={folder / 'queue'}",
    ]  # fmt: skip
    # The wrapper of a fetched program executes that program in its own process.
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        try:
            yield [process.pid]
        finally:
            process.kill()


@contextmanager
def relay(port: int) -> Iterator[tuple[str, list[int]]]:
    """A relay of remote-write requests to a port; yields its own URL, and the sizes of the bodies."""
    sizes: list[int] = []

    def answer(request: BaseHTTPRequestHandler, body: bytes) -> Reply:
        sizes.append(len(body))
        there = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        there.request("POST", request.path, body, dict(request.headers))
        answered = there.getresponse()
        text = answered.read()
        there.close()
        return answered.status, {}, text

    with http_server(answer, path="/api/v1/write") as url:
        yield url, sizes


# --- what comes and what arrived ---------------------------------------------------------------------------


def join(address: str, vm: str, start_ms: int) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(address)
    peer.sendall(stream.encode(stream.Header(vm, start_ms, (), 1000, SERIES)))
    return peer


def send(fleet: Fleet, address: str, peers: dict[str, socket.socket], seconds: int) -> None:
    """Send a tick a second of each VM, spread over the second, in real time; wait for acknowledgements."""
    begin = time.time()
    done: list[socket.socket] = []
    for second in range(seconds):
        born = fleet.born(second)
        peers |= {vm: join(address, vm, round((begin + second) * 1000)) for vm in born}
        names, values = fleet.at(second)
        for number, (vm, row) in enumerate(zip(names, values, strict=True)):
            at = begin + second + number / len(names)
            if (pause := at - time.time()) > 0:
                time.sleep(pause)
            peers[vm].sendall(stream.encode(stream.Tick(round((begin + second) * 1000) + 500, row.tobytes())))
        for vm in set(peers) - set(names) - set(fleet.steady):
            end = stream.End("poweroff", round((begin + second) * 1000))
            peers[vm].sendall(stream.encode(end))
            done.append(peers.pop(vm))
            done[-1].shutdown(socket.SHUT_WR)
    for peer in peers.values():
        peer.shutdown(socket.SHUT_WR)
    for peer in [*done, *peers.values()]:
        assert peer.recv(1) == b"", "not acknowledged"
        peer.close()


def page_bytes(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/bytes", timeout=60) as answer:
        return int(answer.read())


def appended(receiver: Prometheus) -> int:
    """The number of VMs' samples in a Prometheus."""
    return sum(
        count(receiver, f'{name}{{instance=~"vm-.*|short-.*"}}') for name in {one.name for one in SERIES}
    )


def arrived(receiver: Prometheus, ticks: int) -> None:
    """Wait until `ticks` have arrived, or no more come."""
    deadline = time.monotonic() + PATIENCE_S
    while count(receiver, "vmm_uptime_seconds") < ticks and time.monotonic() < deadline:
        time.sleep(1)


def caught(receiver: Prometheus) -> int:
    """The seconds of the short VMs with a sample."""
    return count(receiver, 'vmm_uptime_seconds{instance=~"short-.*"}')


def count(receiver: Prometheus, selector: str) -> int:
    counts = receiver.query(f"sum(count_over_time({selector}[10m]))")
    return int(counts[0]["value"][1]) if counts else 0


# --- the picture -------------------------------------------------------------------------------------------


def draw(rows: Sequence[Row], picture: Path) -> None:
    """Draw the host's CPU, its memory, and the seconds caught, by the number of VMs."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    curves: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        vms, way, measure = row.name.split("; ")
        curves.setdefault((measure, way), {})[int(re.sub(r"\D", "", vms))] = row.value
    style = {"svg.fonttype": "none", "svg.hashsalt": "rondo", "font.size": 10}
    with mpl.rc_context(style):
        figure = Figure(figsize=(11, 3.6), layout="constrained")
        panels = ((CPU, "% of a core"), (MEMORY, "MB"), (CAUGHT, "s"))
        for axes, (measure, unit) in zip(figure.subplots(1, len(panels)), panels, strict=True):
            for way in (RONDO, EVERY_SECOND, EVERY_15_S, VMAGENT):
                curve = curves[measure, way]
                axes.plot(list(curve), list(curve.values()), marker="o", linewidth=1.5, label=way)
            axes.set(xscale="log", xlabel="VMs", ylabel=unit, title=measure)
            if measure == CAUGHT:
                axes.set_ylim(0, LIFE_S + 0.5)
            else:
                axes.set_yscale("log")
            axes.grid(axis="y", linewidth=0.4)
            axes.spines[["top", "right"]].set_visible(False)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
        figure.savefig(picture, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(run_part(main))
