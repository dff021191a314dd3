"""The cost of lives of five ticks over the Unix socket, a connection each, acknowledged, beside steady VMs.

    scripts/bench.py churn [--seconds 60] [--rate 200] [--steady 200]

`--rate` lives begin each second. In the first run each sends all its ticks at once, in the second a tick a
second. CPU time is the store's own, less that for the steady VMs alone.
"""

from __future__ import annotations

import argparse
import heapq
import selectors
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from bench.measure import process_cpu_s, serving
from bench.report import Report, run_part
from rondo_tools import stream
from rondo_tools.catalog import SERIES
from rondo_tools.files import raise_descriptor_limit
from rondo_tools.store.reader import Store

TICKS = 5
ALONE_S = 15  # time for the steady VMs alone
VALUES = bytes(8 * len(SERIES))
BAR_AT_ONCE_MS, BAR_SPREAD_MS = 0.3, 0.6


class Message(NamedTuple):
    """`at_s` is its due time since the beginning; `number` its place among the VM's messages."""

    at_s: float
    vm: str
    number: int


class Producers:
    """Sends due messages, each VM on its own connection, and waits for acknowledgements."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._peers: dict[str, socket.socket] = {}
        self._unacknowledged = selectors.DefaultSelector()
        self.acknowledged = 0

    def begin(self, vm: str, start_ms: int) -> None:
        peer = self._peers[vm] = socket.socket(socket.AF_UNIX)
        peer.connect(self._address)
        peer.sendall(stream.encode(stream.Header(vm, start_ms, (), 1000, SERIES)))

    def send(self, vm: str, data: bytes, *, is_last: bool) -> None:
        peer = self._peers[vm]
        peer.sendall(data)
        if is_last:
            peer.shutdown(socket.SHUT_WR)
            self._unacknowledged.register(peer, selectors.EVENT_READ)
            del self._peers[vm]

    def wait(self, seconds: float) -> None:
        """Take acknowledgements for `seconds`."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if not self._unacknowledged.get_map():
                time.sleep(left)
                continue
            for key, _ in self._unacknowledged.select(left):
                peer = key.fileobj
                assert isinstance(peer, socket.socket)
                self._unacknowledged.unregister(peer)
                self.acknowledged += peer.recv(1) == b""
                peer.close()

    def finish(self, vms: list[str]) -> None:
        """Close the steady VMs' connections, and wait for all acknowledgements."""
        for vm in vms:
            self.send(vm, b"", is_last=True)
        while self._unacknowledged.get_map():
            self.wait(0.05)


def main(report: Report, arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="bench.py churn", description="Measure short lives over the socket."
    )
    parser.add_argument("--seconds", type=int, default=60, help="duration (default: 60)")
    parser.add_argument("--rate", type=int, default=200, help="lives that begin each second (default: 200)")
    parser.add_argument("--steady", type=int, default=200, help="VMs that do not end (default: 200)")
    own = parser.parse_args(arguments)
    raise_descriptor_limit()
    for what, spread, bar in (("sent at once", 0, BAR_AT_ONCE_MS), ("a tick a second", 1, BAR_SPREAD_MS)):
        with tempfile.TemporaryDirectory(prefix="rondo-bench-") as name:
            lives, cpu_s, lost = churn(Path(name), own.seconds, own.rate, own.steady, spread)
        of = f"a life of {TICKS} ticks over the Unix socket, {what}"
        report.row(of, cpu_s / lives * 1000, "ms of CPU", at_most=bar)
        report.row(f"{of}: ticks lost, of {lives:,} lives and {own.steady} steady VMs", lost, at_most=0)


def churn(folder: Path, seconds: int, rate: int, steady: int, spread_s: float) -> tuple[int, float, int]:
    """(lives, their CPU seconds, ticks lost)."""
    address, store = f"{folder}/sock", folder / "store"
    with serving(store, address, "--no-health") as pid:
        producers = Producers(address)
        start_ms = time.time_ns() // 1_000_000 - TICKS * 1000
        names = [f"vm-{number:04d}" for number in range(steady)]
        for vm in names:
            producers.begin(vm, start_ms)
        before = process_cpu_s(pid)
        run_all(producers, steady_messages(names, 0, ALONE_S), start_ms)
        alone = (process_cpu_s(pid) - before) / ALONE_S
        jobs = [f"job-{number:06d}" for number in range(seconds * rate)]
        due = steady_messages(names, ALONE_S, seconds)
        for number, vm in enumerate(jobs):
            if spread_s:
                due += [Message((number / rate) + index * spread_s, vm, index) for index in range(TICKS + 1)]
            else:
                due.append(Message(number / rate, vm, -1))
        before, begin = process_cpu_s(pid), time.monotonic()
        run_all(producers, due, start_ms)
        cpu_s = process_cpu_s(pid) - before - alone * (time.monotonic() - begin)
        producers.finish(names)
    there = sum(session.ticks for session in Store(store).sessions())
    wanted = len(jobs) * TICKS + steady * (ALONE_S + seconds)
    assert producers.acknowledged == len(jobs) + steady
    return len(jobs), cpu_s, wanted - there


def steady_messages(names: list[str], first: int, seconds: int) -> list[Message]:
    """A tick a second of each VM, spread over the second; `first` is the number of ticks sent before."""
    return [
        Message(second + number / len(names), vm, first + second + 1)
        for second in range(seconds)
        for number, vm in enumerate(names)
    ]


def run_all(producers: Producers, due: list[Message], start_ms: int) -> None:
    """Send each message at its time; a message's number is its tick, 0 its header, -1 all of it."""
    heapq.heapify(due)
    begin = time.monotonic()
    while due:
        message = heapq.heappop(due)
        producers.wait(begin + message.at_s - time.monotonic())
        vm, index = message.vm, message.number
        if vm.startswith("vm-"):
            producers.send(vm, tick(start_ms, index), is_last=False)
            continue
        if index <= 0:
            producers.begin(vm, start_ms)
        ticks = range(1, TICKS + 1) if index < 0 else range(index, index + 1) if index else ()
        data = b"".join(tick(start_ms, number) for number in ticks)
        is_last = index in (-1, TICKS)
        if is_last:
            data += stream.encode(stream.End("poweroff", start_ms + TICKS * 1000 + 1))
        producers.send(vm, data, is_last=is_last)


def tick(start_ms: int, number: int) -> bytes:
    return stream.encode(stream.Tick(start_ms + number * 1000, VALUES))


if __name__ == "__main__":
    sys.exit(run_part(main))
