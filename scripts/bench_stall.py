#!/usr/bin/env python3
"""How long a tick waits when a thousand other producers want something of rondo-store at once.

One producer sends a tick, waits until rondo-store has taken it from the socket, which it does once it
is written, and sends the next; the time between is the tick's. Meanwhile a thousand others connect and
begin their sessions; then each sends five minutes of ticks, in journals of five seconds that are rolled
up meanwhile; then all end. Each part is watched for two seconds more than the others need to be heard.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rondo_tools import stream  # noqa: E402
from rondo_tools.catalog import SERIES  # noqa: E402

PRODUCERS = 1000
BEGIN_MS = (time.time_ns() // 1_000_000 - 7_200_000) // 300_000 * 300_000
WINDOW = 300  # ticks in five minutes
PAUSE_S = 0.002  # of the one producer, between its ticks
PACK = struct.Struct(f"<{len(SERIES)}d").pack


def main() -> int:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="rondo-bench-") as name:
        store, address = Path(name) / "store", f"{name}/sock"
        command: list[str | Path] = [
            sys.executable,
            ROOT / "bin" / "rondo-store",
            store,
            "-q",
            "--no-health",
            "--tiers",
            "1s:10m,5s:6h",
        ]
        command += [*sys.argv[1:], "--listen", f"unix:{address}"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL) as process:
            try:
                while not Path(address).exists():
                    time.sleep(0.01)
                measure(address)
            finally:
                process.terminate()
    return 0


def measure(address: str) -> None:
    barrier = multiprocessing.Barrier(2)
    others = multiprocessing.Process(target=be_many, args=(address, barrier), daemon=True)
    others.start()
    one = Watched(address)
    print(f"{'how long a tick waits':44} {'worst':>9} {'median':>9} {'all heard':>10}")
    one.tick_for(1.0)
    one.report("alone")
    for what in (
        "1,000 sessions begin at once",
        "1,000 sessions send five minutes each",
        "1,000 sessions end at once",
    ):
        barrier.wait()
        begin = time.monotonic()
        one.tick_until(lambda: barrier.n_waiting > 0)
        heard = time.monotonic() - begin
        one.tick_for(2.0)
        one.report(what, heard)
        barrier.wait()
    others.join(60)


class Watched:
    """A producer whose every tick is waited for."""

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

    def report(self, what: str, seconds: float | None = None) -> None:
        waits, self._waits = sorted(self._waits), []
        took = "" if seconds is None else f"{seconds:8.2f} s"
        print(
            f"{what:44} {waits[-1] * 1e3:6.1f} ms {waits[len(waits) // 2] * 1e3:6.2f} ms {took:>10}",
            flush=True,
        )

    def _tick(self) -> int:
        t_ms = BEGIN_MS + self._sent * 1000
        self._peer.sendall(ticks(self._sent, self._sent + 1))
        self._sent += 1
        return t_ms


def be_many(address: str, barrier: Barrier) -> None:
    """The thousand, in a process of their own, which waits for the other before and after each part."""
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
    """Until all that was sent has been taken out of the sockets: then it is stored."""
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
    sys.exit(main())
