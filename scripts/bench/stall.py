"""A tick's wait while a thousand other producers load rondo-store at once.

One producer sends a tick, waits until rondo-store has taken it from the socket, which happens after the
write, and sends the next; the time between is the tick's wait. Meanwhile a thousand others connect and begin
their sessions; then each sends five minutes of ticks, in journals of five seconds with roll-ups; then all
end. Each part lasts two seconds longer than the others need.
"""

from __future__ import annotations

import argparse
import fcntl
import multiprocessing
import socket
import struct
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path

from bench.measure import serving
from bench.report import Report, run_part
from rondo_tools import stream
from rondo_tools.catalog import SERIES
from rondo_tools.files import raise_descriptor_limit

PRODUCERS = 1000
BEGIN_MS = (time.time_ns() // 1_000_000 - 7_200_000) // 300_000 * 300_000
WINDOW = 300  # ticks in five minutes
PAUSE_S = 0.002  # of the one producer, between its ticks
PACK = struct.Struct(f"<{len(SERIES)}d").pack


def main(report: Report, arguments: list[str]) -> None:
    argparse.ArgumentParser(prog="bench.py stall", description=__doc__).parse_args(arguments)
    raise_descriptor_limit()
    with (
        tempfile.TemporaryDirectory(prefix="rondo-bench-") as name,
        serving(Path(name) / "store", f"{name}/sock", "--no-health", "--tiers", "1s:10m,5s:6h"),
    ):
        measure(report, f"{name}/sock")


def measure(report: Report, address: str) -> None:
    barrier = multiprocessing.Barrier(2)
    others = multiprocessing.Process(target=be_many, args=(address, barrier), daemon=True)
    others.start()
    one = Watched(address)
    one.tick_for(1.0)
    one.report(report, "a tick's wait, alone")
    for what in (
        "while 1,000 sessions begin at once",
        "while 1,000 sessions send five minutes each, 42 MB in all, rolled up meanwhile",
        "while 1,000 sessions end at once",
    ):
        barrier.wait()
        begin = time.monotonic()
        one.tick_until(lambda: barrier.n_waiting > 0)
        heard = time.monotonic() - begin
        one.tick_for(2.0)
        one.report(report, what, heard)
        barrier.wait()
    others.join(60)


class Watched:
    """A producer that waits for each of its ticks."""

    def __init__(self, address: str) -> None:
        self._peer = socket.socket(socket.AF_UNIX)
        self._peer.connect(address)
        self._peer.sendall(header("watched"))
        self._sent = 0
        self._waits: list[float] = []

    def tick_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self.tick_until(lambda: time.monotonic() > until)

    def tick_until(self, is_over: Callable[[], bool]) -> None:
        while not is_over():
            begin = time.monotonic()
            self._tick()
            wait_for([self._peer])
            self._waits.append(time.monotonic() - begin)
            time.sleep(PAUSE_S)

    def waits(self) -> list[float]:
        """The waits of all ticks since the last call, in seconds, sorted."""
        waits, self._waits = sorted(self._waits), []
        return waits

    def report(self, report: Report, what: str, heard_s: float | None = None) -> None:
        waits = self.waits()
        report.row(f"{what}: worst", waits[-1] * 1e3, "ms")
        report.row(f"{what}: median", waits[len(waits) // 2] * 1e3, "ms")
        if heard_s is not None:
            report.row(f"{what}: until all were heard", heard_s, "s")

    def _tick(self) -> int:
        t_ms = BEGIN_MS + self._sent * 1000
        self._peer.sendall(ticks(self._sent, self._sent + 1))
        self._sent += 1
        return t_ms


def be_many(address: str, barrier: Barrier) -> None:
    """The thousand producers, in a process that meets the other at a barrier before and after each part."""
    peers = [socket.socket(socket.AF_UNIX) for _ in range(PRODUCERS)]
    barrier.wait()
    for number, peer in enumerate(peers):
        peer.connect(address)
        peer.sendall(header(f"vm-{number}") + ticks(0, 1))
    wait_for(peers)
    barrier.wait()
    window = ticks(1, WINDOW + 1)
    barrier.wait()
    for peer in peers:
        peer.sendall(window)
    wait_for(peers)
    barrier.wait()
    end = stream.encode(stream.End("poweroff", BEGIN_MS + WINDOW * 1000 + 1))
    barrier.wait()
    for peer in peers:
        peer.sendall(end)
    wait_for(peers)
    barrier.wait()


def wait_for(peers: Sequence[socket.socket]) -> None:
    """Wait until the sockets are empty: then everything is stored."""
    left = bytearray(4)
    for peer in peers:
        while fcntl.ioctl(peer, termios.TIOCOUTQ, left) or any(left):
            time.sleep(0.001)


def header(instance: str) -> bytes:
    return stream.encode(stream.Header(instance, BEGIN_MS, (), 1000, SERIES))


def ticks(first: int, stop: int) -> bytes:
    return b"".join(
        stream.encode(stream.Tick(BEGIN_MS + n * 1000, PACK(*range(n, n + len(SERIES)))))
        for n in range(first, stop)
    )


if __name__ == "__main__":
    sys.exit(run_part(main))
