"""The cost of rondo-serve's remote-read, beside a Prometheus with the same samples and the same request.

    scripts/bench.py remote_read [--vms 1000]

All exits of ten minutes, as samples and as streamed chunks; then a week of one VM, with the request of a
dashboard's panel, and with that of the page. CPU time is that of the answering process, the least of some
rounds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import snappy

from bench.history import DAYS, WINDOW_S, Week, no_waits
from bench.measure import cpu_ns, least, program, serving_http
from bench.report import Peer, Report, run_part
from devtools.filled_store import Life, fill
from devtools.programs import fetch
from devtools.receivers.prometheus import Prometheus
from rondo_tools.catalog import SERIES
from rondo_tools.prom.proto.remote_read_pb2 import LabelMatcher, Query, ReadHints, ReadRequest
from rondo_tools.prom.proto.remote_write_v1_pb2 import WriteRequest
from rondo_tools.prom.wire import varint
from rondo_tools.stream import Header

SECONDS = 600
RANGE_MS = SECONDS * 1000
ROUNDS = 5
SAMPLES_BAR, WEEK_BAR_S = 3e6, 0.1
EXITS = tuple(place for place, series in enumerate(SERIES) if series.name == "vcpu_exits_total")
CPU_UNIT = "M samples a CPU-second"


def main(report: Report, arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench.py remote_read", description="Measure remote-read.")
    parser.add_argument("--vms", type=int, default=1000, help="(default: 1000)")
    vms = parser.parse_args(arguments).vms
    ten_minutes(report, vms)
    a_week(report, vms)


# --- ten minutes ---------------------------------------------------------------------------------------


def ten_minutes(report: Report, vms: int) -> None:
    end_ms = time.time_ns() // 1_000_000_000 * 1000
    asked = end_ms - RANGE_MS, end_ms
    of = f"vcpu_exits_total of {vms:,} VMs, {SECONDS // 60} min"
    with tempfile.TemporaryDirectory(prefix="rondo-bench-") as name, Prometheus(fetch("prometheus")) as peer:
        whole, exits = Path(name, "whole"), Path(name, "exits")
        fill(whole, lives(vms, end_ms, tuple(range(len(SERIES)))))
        fill(exits, lives(vms, end_ms, EXITS))  # the peer gets only the series of the request
        command = program("rondo-push", exits, "-q", "--no-health", "--backfill")
        command += ["--remote-write", peer.write_url]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        with serving_http(whole) as (port, pid):
            for kind, what, bar in (
                (ReadRequest.SAMPLES, "as samples", SAMPLES_BAR / 1e6),
                (ReadRequest.STREAMED_XOR_CHUNKS, "as streamed chunks", None),
            ):
                body = request(*asked, kind, __name__="vcpu_exits_total")
                if kind == ReadRequest.SAMPLES:
                    samples = vms * SECONDS * len(EXITS)
                    came = [count_samples(read(one, body)) for one in (port, peer.port)]
                    if came != [samples, samples]:
                        raise RuntimeError(f"of {samples} samples came {came}")
                ours = least(ROUNDS, partial(cpu_s, pid, partial(read, port, body)))
                theirs = least(ROUNDS, partial(cpu_s, peer.process.pid, partial(read, peer.port, body)))
                prometheus = Peer(f"Prometheus {version(peer)}", samples / theirs / 1e6)
                report.row(f"{of}: {what}", samples / ours / 1e6, CPU_UNIT, peer=prometheus, at_least=bar,
                           more_is_better=True)  # fmt: skip
                report.row(f"{of}: {what}, the answer", len(read(port, body)) / 1e6, "MB",
                           peer=Peer(prometheus.name, len(read(peer.port, body)) / 1e6))  # fmt: skip


def lives(vms: int, end_ms: int, places: tuple[int, ...]) -> Iterator[Life]:
    """VMs that all run for the whole time, with these of the series."""
    random = np.random.default_rng(1)
    t_ms = end_ms - RANGE_MS + 1000 * np.arange(1, SECONDS + 1)
    series = tuple(SERIES[place] for place in places)
    for number in range(vms):
        values = np.cumsum(random.integers(0, 5000, (SECONDS, len(SERIES))), axis=0, dtype=np.float64)
        yield Life(Header(f"vm-{number}", end_ms - RANGE_MS, (), 1000, series), t_ms, values[:, places])


def version(prometheus: Prometheus) -> str:
    with urlopen(f"{prometheus.url}/api/v1/status/buildinfo", timeout=60) as answer:
        return str(json.load(answer)["data"]["version"]).partition("+")[0]


# --- a week --------------------------------------------------------------------------------------------


def a_week(report: Report, vms: int) -> None:
    with tempfile.TemporaryDirectory(prefix="rondo-bench-") as name:
        with no_waits():
            Week(Path(name), vms).live(tick_s=lambda _: WINDOW_S)
        now_ms = time.time_ns() // 1_000_000
        instance, start_ms = f"vm-{vms // 2}", now_ms - DAYS * 86_400_000
        hints = ReadHints(start_ms=start_ms, end_ms=now_ms, step_ms=WINDOW_S * 1000 * 2)
        body = request(start_ms, now_ms, hints=hints, instance=instance)
        page = f"/api/v1/range?instance={instance}&start={start_ms}&end={now_ms}"
        with serving_http(Path(name)) as (port, pid):
            samples = count_samples(read(port, body))
            if samples < (DAYS * 86_400 // WINDOW_S - 2) * len(SERIES):
                raise RuntimeError(f"a week has only {samples} samples")
            of = f"all series of one VM of {vms:,}, {DAYS} days"
            for what, work in (
                ("by remote-read", lambda: read(port, body)),
                ("for the page", lambda: ask(port, "GET", page)),
            ):
                report.row(f"{of}, {what}", least(ROUNDS, partial(cpu_s, pid, work)), "s of CPU",
                           at_most=WEEK_BAR_S)  # fmt: skip


# --- requests ------------------------------------------------------------------------------------------


def request(
    start_ms: int,
    end_ms: int,
    kind: ReadRequest.ResponseType = ReadRequest.SAMPLES,
    hints: ReadHints | None = None,
    **labels: str,
) -> bytes:
    """The body of a remote-read for series with these labels."""
    matchers = [LabelMatcher(name=name, value=value) for name, value in labels.items()]
    query = Query(start_timestamp_ms=start_ms, end_timestamp_ms=end_ms, matchers=matchers, hints=hints)
    asked = ReadRequest(queries=[query], accepted_response_types=[kind])
    return bytes(snappy.compress(asked.SerializeToString()))


def read(port: int, body: bytes) -> bytes:
    return ask(port, "POST", "/api/v1/read", body)


def ask(port: int, method: str, path: str, body: bytes | None = None) -> bytes:
    connection = HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        data = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise RuntimeError(f"{path}: {answer.status} {data.decode(errors='replace')}")
    return data


def count_samples(body: bytes) -> int:
    """The samples in the answer to one query: its field 1, a result, is encoded like a WriteRequest."""
    answer = snappy.decompress(body)
    head = next(1 + n for n in range(1, 6) if answer[1 : 1 + n] == varint(len(answer) - 1 - n))
    return sum(len(one.samples) for one in WriteRequest.FromString(answer[head:]).timeseries)


def cpu_s(pid: int, work: Callable[[], object]) -> float:
    before_ns = cpu_ns(pid)
    work()
    return (cpu_ns(pid) - before_ns) / 1e9


if __name__ == "__main__":
    sys.exit(run_part(main))
