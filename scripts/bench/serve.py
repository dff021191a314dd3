"""The cost of many producers at one tick a second for a serving rondo-store: a thousand, and ten thousand, or
as many as the limit of descriptors allows.

    scripts/bench.py serve [--seconds 60] [--beside CHECKOUT]

The ticks are spread over the second, sixteen series each, on one Unix socket. Meanwhile another producer
sends a tick, waits until it is stored, and repeats that. Journals end every half minute, so that all figures
include roll-ups. CPU time is the store's own, user and system; memory is that in `statm`, with ten producers
and with all. --beside measures another version's store with the same thousand.
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import struct
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import NamedTuple

from bench.measure import process_cpu_s, resident_bytes, serving
from bench.report import Peer, Report, run_part
from bench.stall import Watched
from devtools import ROOT
from rondo_tools import stream
from rondo_tools.catalog import SERIES
from rondo_tools.files import raise_descriptor_limit
from rondo_tools.store.reader import Session, Store

PRODUCERS, MANY = 1000, 10_000
BASE = 10
SPARE = 100  # descriptors for other uses on both sides
TIERS = "1s:10m,10s:6h,30s:7d"
WINDOW_MS = 10_000
PACK = struct.Struct(f"<{len(SERIES)}d").pack
BAR_BYTES, BAR_WAIT_MS, BAR_TIMES = 2500, 60, 2


class Served(NamedTuple):
    core: float  # the store's share of one CPU
    bytes_each: float
    waits: list[float]  # seconds, sorted
    begin_ms: int
    seconds: int


def main(report: Report, arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="bench.py serve", description="Measure a store with many producers."
    )
    parser.add_argument("--seconds", type=int, default=60, help="duration (default: 60)")
    parser.add_argument("--beside", type=Path, help="a checkout of another version, as the peer")
    own = parser.parse_args(arguments)
    many = min(MANY, raise_descriptor_limit() - SPARE)
    peer = None
    if own.beside is not None:
        with tempfile.TemporaryDirectory(prefix="rondo-bench-") as name:
            other = serve(Path(name), PRODUCERS, own.seconds, own.beside)
            peer = Peer("the store of format 1", other.core * 100)
    for producers in (PRODUCERS, many):
        with tempfile.TemporaryDirectory(prefix="rondo-bench-") as name:
            served = serve(Path(name), producers, own.seconds)
            of, has_bars = f"{producers:,} producers at 1 Hz", producers == PRODUCERS
            report.row(f"{of}: CPU", served.core * 100, "% of a core", peer=peer if has_bars else None,
                       times=BAR_TIMES if has_bars else None)  # fmt: skip
            report.row(f"{of}: a tick", served.core / producers * 1e6, "µs of CPU")
            report.row(f"{of}: memory of each", served.bytes_each, "bytes",
                       at_most=BAR_BYTES if has_bars else None)  # fmt: skip
            report.row(f"{of}: worst wait of a tick", served.waits[-1] * 1e3, "ms",
                       at_most=BAR_WAIT_MS if has_bars else None)  # fmt: skip
            report.row(f"{of}: median wait of a tick", served.waits[len(served.waits) // 2] * 1e3, "ms")
            lost, odd = look(Path(name) / "store", producers, served)
            report.row(f"{of}: ticks lost", lost, at_most=0)
            report.row(f"{of}: windows of 10 s that have not exactly one row", odd, at_most=0)


def serve(folder: Path, producers: int, seconds: int, checkout: Path = ROOT) -> Served:
    address, flags = f"{folder}/sock", ("--no-health", "--tiers", TIERS)
    with serving(folder / "store", address, *flags, checkout=checkout) as pid:
        begin_ms = time.time_ns() // 1_000_000_000 * 1000
        peers = [join(address, number, begin_ms) for number in range(BASE)]
        settle(pid)
        base = resident_bytes(pid)
        peers += [join(address, number, begin_ms) for number in range(BASE, producers)]
        for peer in peers:
            peer.sendall(tick(begin_ms, 0))
        settle(pid)
        each = (resident_bytes(pid) - base) / (producers - BASE)
        over, (waits, far) = multiprocessing.Event(), multiprocessing.Pipe(duplex=False)
        watcher = multiprocessing.Process(target=watch, args=(address, over, far), daemon=True)
        watcher.start()
        begin, cpu_s = time.monotonic(), process_cpu_s(pid)
        for second in range(seconds):
            message = tick(begin_ms, second + 1)
            for number, peer in enumerate(peers):
                pause = begin + second + number / producers - time.monotonic()
                if pause > 0:
                    time.sleep(pause)
                peer.sendall(message)
        core = (process_cpu_s(pid) - cpu_s) / (time.monotonic() - begin)
        over.set()
        waited: list[float] = waits.recv()
        watcher.join()
        for peer in peers:
            peer.shutdown(socket.SHUT_WR)
            assert peer.recv(1) == b"", "not acknowledged"
            peer.close()
    return Served(core, each, waited, begin_ms, seconds)


def watch(address: str, over: Event, result: Connection) -> None:
    """A producer in its own process, until `over` is set."""
    one = Watched(address)
    one.tick_until(over.is_set)
    result.send(one.waits())


def settle(pid: int) -> None:
    """Wait until the store is idle."""
    before = -1.0
    while process_cpu_s(pid) > before:
        before = process_cpu_s(pid)
        time.sleep(1)


def look(store: Path, producers: int, served: Served) -> tuple[int, int]:
    """(ticks lost, windows without exactly one row)."""
    sessions = [one for one in Store(store).sessions() if one.instance.startswith("vm-")]
    there = sum(session.ticks for session in sessions)
    return producers * (served.seconds + 1) - there, sum(odd_windows(one, served) for one in sessions)


def odd_windows(session: Session, served: Served) -> int:
    first, last = served.begin_ms // WINDOW_MS, (served.begin_ms + served.seconds * 1000) // WINDOW_MS
    windows = (session.rows(1).t_ms // WINDOW_MS).tolist()
    return sum(windows.count(window) != 1 for window in range(first, last + 1))


def join(address: str, number: int, begin_ms: int) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(address)
    peer.sendall(stream.encode(stream.Header(f"vm-{number}", begin_ms, (), 1000, SERIES)))
    return peer


def tick(begin_ms: int, second: int) -> bytes:
    return stream.encode(stream.Tick(begin_ms + second * 1000, PACK(*range(second, second + len(SERIES)))))


if __name__ == "__main__":
    sys.exit(run_part(main))
