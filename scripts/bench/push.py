"""The cost of rondo-push: its encoder, one push of many VMs, and the delay until an exit can be queried.

    scripts/bench.py push [--sessions 1000] [--rounds 5]

The samples are those of VMs with the 16 series of the catalogue: growing counters, fluctuating gauges, some
without a value. CPU time is the least of the rounds, because the machine may be busy. The peer of the encoder
is protobuf's `add`, in the same run; both results are decoded and compared.

The way from the store to the bodies is measured like a daemon's at each interval: it knows the sessions from
the last time, looks for changes, reads the new data since the cursor, and makes the bodies. A push from cron,
which has no state in memory, is measured as a whole, with the programs on both sides.

Figures that need a Prometheus are left out, with a note, if none is available.
"""

from __future__ import annotations

import argparse
import math
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from bench.measure import command_cpu_s, least, process_cpu_s, program
from bench.report import Peer, Report, run_part
from devtools.filled_store import Life, fill
from devtools.programs import fetch
from devtools.receivers.prometheus import Prometheus
from rondo_tools.catalog import COUNTER, SERIES
from rondo_tools.prom.labels import sent_labels
from rondo_tools.prom.proto.remote_write_v1_pb2 import WriteRequest
from rondo_tools.prom.samples import STALE_NAN, Block, SeriesSet
from rondo_tools.push.drain import Drain
from rondo_tools.push.encoding.v1 import compress, decode, encode
from rondo_tools.store.format.cursor import Progress
from rondo_tools.store.format.opened import open_store
from rondo_tools.stream import Header

STALE = struct.unpack("<d", struct.pack("<Q", STALE_NAN))[0]
MAX_SAMPLES = 10_000  # rondo-push's own default for one request
PUSHED_ROWS = 10
LIFE_S = 15  # of the VM whose exits are queried


def blocks(sessions: int, rows: int) -> list[Block]:
    """The blocks of `rows` seconds of `sessions` VMs."""
    random = np.random.default_rng(1)
    made = []
    for number in range(sessions):
        header = Header(f"vm-{number}", 1_732_300_000_000, (("zone", "a"),), 1000, SERIES)
        values = np.empty((rows, len(SERIES)))
        for at, series in enumerate(SERIES):
            if series.kind == COUNTER:
                values[:, at] = np.cumsum(random.integers(0, 5000, rows))
            else:
                values[:, at] = random.normal(5000, 300, rows).round(3)
        values[random.random(rows) < 0.2, 5] = np.nan
        t_ms = header.start_ms + 1000 * np.arange(1, rows + 1)
        made.append(Block(SeriesSet(SERIES, sent_labels(header, "rondo-vmm", {})), t_ms, values))
    return made


def requests(all_blocks: list[Block]) -> list[list[Block]]:
    """Groups of as many blocks as fit in one request."""
    each = max(1, MAX_SAMPLES // all_blocks[0].values.size)
    return [all_blocks[at : at + each] for at in range(0, len(all_blocks), each)]


def plain(batch: list[Block]) -> bytes:
    """The same request by protobuf's `add`, sample by sample."""
    request = WriteRequest()
    for block in batch:
        for labels, column in zip(block.series_set.labels, block.values.T.tolist(), strict=True):
            series = request.timeseries.add()
            for name, value in labels:
                series.labels.add(name=name, value=value)
            for t_ms, value in zip(block.t_ms.tolist(), column, strict=True):
                series.samples.add(value=STALE if math.isnan(value) else value, timestamp=t_ms)
    return compress(request)


def cpu_s(work: Callable[[], object], rounds: int) -> float:
    """CPU time of the cheapest round."""

    def once() -> float:
        before = time.process_time()
        work()
        return time.process_time() - before

    return least(rounds, once)


def store_of(path: Path, all_blocks: list[Block], end_ms: int) -> None:
    """Make a store of these sessions, with last ticks at `end_ms`; a VM a turn, like from sockets."""
    lives = []
    for number, block in enumerate(all_blocks):
        t_ms = block.t_ms - block.t_ms[-1] + end_ms
        header = Header(f"vm-{number}", int(t_ms[0]) - 1000, (("zone", "a"),), 1000, SERIES)
        lives.append(Life(header, t_ms, block.values))
    fill(path, lives)


def at_an_interval(path: Path) -> Callable[[], int]:
    """A daemon's work from the store to the bodies, if the whole store is new; it returns the samples."""
    store = open_store(path)

    def push() -> int:
        drain = Drain(
            store.layout, store.tiers, lambda header: sent_labels(header, "rondo-vmm", {}), MAX_SAMPLES
        )
        samples, progress = 0, Progress()
        stretch = drain.next(progress, 0, backfill=True)
        assert stretch is not None
        with stretch:
            batches = drain.batches(stretch, progress)
            for number in range(stretch.slices):
                for batch in batches.of(stretch.slice(number), 0):
                    encode(batch.blocks)
                    samples += batch.samples
        return samples

    push()  # fills the cache of labels
    return push


def each(make: Callable[[list[Block]], bytes], batches: list[list[Block]]) -> None:
    for batch in batches:
        make(batch)


def encoding(report: Report, sessions: int, rounds: int) -> None:
    """Measure the encoder beside protobuf, with equal results; and the way from the store to the bodies."""
    for rows, bar in ((10, 5.0), (60, 8.0)):
        made = blocks(sessions, rows)
        batches = requests(made)
        samples = sum(block.values.size for block in made)
        bodies = [encode(batch) for batch in batches]
        best = cpu_s(partial(each, encode, batches), rounds)
        some = batches[:10]
        share = sum(block.values.size for batch in some for block in batch) / samples
        slow = cpu_s(partial(each, plain, some), 2) / share
        for batch, body in zip(some, bodies, strict=False):
            if decode(plain(batch)).SerializeToString() != decode(body).SerializeToString():
                raise RuntimeError("the encoder and the plain way differ")
        size = sum(map(len, bodies)) / samples
        of, speed = f"{sessions:,} VMs, {rows} rows each", "M samples a CPU-second"
        report.row(
            f"{of}: rows to compressed bodies", samples / best / 1e6, speed, at_least=bar, times=6,
            peer=Peer("protobuf, sample by sample", samples / slow / 1e6), more_is_better=True,
        )  # fmt: skip
        del made, batches, bodies
        with tempfile.TemporaryDirectory(prefix="rondo-bench-") as folder:
            store_of(Path(folder), blocks(sessions, rows), time.time_ns() // 1_000_000 - 10_000)
            push = at_an_interval(Path(folder))
            if push() != samples:
                raise RuntimeError("the reader did not find what is new")
            read = cpu_s(push, rounds)
        report.row(f"{of}: the journal to compressed bodies", samples / read / 1e6, speed)
        report.row(f"{of}: a sample", size, "bytes")


def one_push(report: Report, prometheus: Prometheus, folder: Path, sessions: int) -> None:
    """Measure one push of `sessions` VMs: its cost here, and in Prometheus."""
    now_ms = time.time_ns() // 1_000_000
    store_of(folder / "full", blocks(sessions, PUSHED_ROWS), now_ms - 10_000)
    store_of(folder / "empty", [], now_ms)
    to = ("--remote-write", prometheus.write_url)
    start_up_s = command_cpu_s(program("rondo-push", folder / "empty", *to))
    there_s = process_cpu_s(prometheus.process.pid)
    push_s = command_cpu_s(program("rondo-push", folder / "full", *to))
    there_s = process_cpu_s(prometheus.process.pid) - there_s
    samples = f"{sessions * PUSHED_ROWS * len(SERIES):,} samples"
    report.row("a push as cron starts it: start-up", start_up_s, "s of CPU")
    report.row(f"a push of {samples}, start-up apart", push_s - start_up_s, "s of CPU", at_most=0.2)
    report.row("Prometheus, to take them", there_s, "s of CPU")


def latency(report: Report, prometheus: Prometheus, folder: Path) -> None:
    """Measure the time from a VM's tick to a query that returns it."""
    commands = (
        ["rondo-vmm", "--duration", f"{LIFE_S}s", "--instance", "bench", "--serial", "none"],
        ["rondo-store", str(folder / "live")],
        ["rondo-push", "--remote-write", prometheus.write_url, "--interval", "1s"],
    )
    running: list[subprocess.Popen[bytes]] = []
    seen: dict[int, float] = {}  # the time at which each tick was first returned
    try:
        for command in commands:
            stdin = running[-1].stdout if running else subprocess.DEVNULL
            stdout = subprocess.PIPE if command is not commands[-1] else None
            running.append(subprocess.Popen(program(*command), stdin=stdin, stdout=stdout))
            if len(running) > 1 and (handed_on := running[-2].stdout) is not None:
                handed_on.close()  # the next process has inherited it
        while running[0].poll() is None:  # not the last ticks, which are pushed at once
            for result in prometheus.query('timestamp(vmm_uptime_seconds{instance="bench"})'):
                seen.setdefault(round(float(result["value"][1]) * 1000), time.time())
            time.sleep(0.02)
    except BaseException:
        for process in running:
            process.kill()
        raise
    finally:
        for process in running:
            process.wait()
    waits = [now_s - t_ms / 1000 for t_ms, now_s in seen.items()]
    if not waits:
        raise RuntimeError("no tick of the VM was ever shown")
    median = statistics.median(waits)
    report.row("a tick of a VM can be queried, --interval 1s: median", median, "s")
    report.row("the same: longest", max(waits), "s")
    # An exit falls anywhere between two ticks.
    report.row("an exit can be queried, half a second before its tick in the mean", median + 0.5, "s",
               at_most=1.6)  # fmt: skip


def main(report: Report, arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench.py push", description="Measure rondo-push.")
    parser.add_argument("--sessions", type=int, default=1000, help="VMs (default: 1000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the best counts (default: 5)")
    own = parser.parse_args(arguments)
    encoding(report, own.sessions, own.rounds)
    try:
        found = fetch("prometheus")
    except LookupError as exc:
        report.note(f"no Prometheus to push into: {exc}")
        return
    with tempfile.TemporaryDirectory(prefix="rondo-bench-") as name, Prometheus(found) as prometheus:
        one_push(report, prometheus, Path(name), own.sessions)
        latency(report, prometheus, Path(name))


if __name__ == "__main__":
    sys.exit(run_part(main))
