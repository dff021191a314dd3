"""rondo-serve as a process, stores with lives of all kinds, and clients."""

from __future__ import annotations

import math
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import NamedTuple

from rondo_tools import stream
from rondo_tools.catalog import ALL, COUNTER, GAUGE, Series
from rondo_tools.store.format.tiers import Tier
from rondo_tools.store.intake import Intake
from rondo_tools.store.opened import OpenStore
from rondo_tools.store.reader import Store
from tests.support.needs import PATIENCE_S

ROOT = Path(__file__).resolve().parents[3]
EXITS = (
    Series("vcpu_exits_total", (("reason", "io"),), COUNTER, "exits", "Exits."),
    Series("vcpu_exits_total", (("reason", "hlt"),), COUNTER, "exits", "Exits."),
    Series("vmm_rss_bytes", (), GAUGE, "bytes", "Memory."),
)
DISK = (Series("blk_bytes_total", (("direction", "read"),), COUNTER, "bytes", "Bytes."),)


class Served(NamedTuple):
    """A running rondo-serve: its listeners and its process."""

    address: str
    process: subprocess.Popen[str]

    @property
    def url(self) -> str:
        return self.address.replace("tcp:", "http://")

    def connect(self) -> socket.socket:
        kind, _, rest = self.address.partition(":")
        if kind == "unix":
            peer = socket.socket(socket.AF_UNIX)
            peer.settimeout(PATIENCE_S)
            peer.connect(rest)
            return peer
        host, _, port = rest.rpartition(":")
        return socket.create_connection((host, int(port)), timeout=PATIENCE_S)

    def ask(self, path: str, method: str = "GET", body: bytes = b"", **headers: str) -> Answer:
        """Send one request on a new connection; `headers` with _ for -."""
        connection = HTTPConnection("localhost", timeout=PATIENCE_S)
        connection.sock = self.connect()
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body or None, named)
            answer: HTTPResponse = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def rss(self) -> int:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


@contextmanager
def serving(store: Path, *flags: str, listen: str = "tcp:127.0.0.1:0") -> Iterator[Served]:
    """A rondo-serve of a store; it ends by SIGTERM, with status 0."""
    command: list[str | Path] = [sys.executable, ROOT / "bin" / "rondo-serve", store]
    command += ["--listen", listen, *flags]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            while " at " not in line:
                assert line, f"it ended with {process.wait()}"
                line = process.stderr.readline()
            yield Served(line.strip().rpartition(" at ")[2], process)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0, process.stderr.read()
        finally:
            process.kill()


def store_stream(path: Path, data: bytes, tiers: tuple[Tier, ...] | None = None) -> None:
    """Store a stream, as a run of rondo-store that gets it from a pipe."""
    with OpenStore(path, tiers) as store:
        store.keep_house()
        intake = Intake(store.keeper)
        intake.feed(data)
        intake.close(give_up=True)
        store.keeper.end_journal()
        store.keep_house()


@contextmanager
def being_stored(
    path: Path, *streams: bytes, ticks: int, health: bool = False
) -> Iterator[list[socket.socket]]:
    """Give streams to a rondo-store that serves, each on a connection that stays open, and wait until their
    ticks are stored."""
    address = path.with_name("store.sock")
    command: list[str | Path] = [sys.executable, ROOT / "bin" / "rondo-store", path]
    command += ["--listen", f"unix:{address}"]
    command += [] if health else ["--no-health"]
    with ExitStack() as opened:
        process = opened.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        opened.callback(process.kill)
        until(address.exists)
        peers = []
        for data in streams:
            peer = opened.enter_context(socket.socket(socket.AF_UNIX))
            peer.settimeout(PATIENCE_S)
            peer.connect(os.fspath(address))
            peer.sendall(data)
            peers.append(peer)
        until(lambda: sum(one.ticks for one in Store(path).sessions()) >= ticks)
        yield peers


def until(is_so: Callable[[], object]) -> None:
    """Wait until `is_so` returns something true."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def life(
    instance: str,
    start_ms: int,
    ticks: int,
    *,
    end: str | None = None,
    series: tuple[Series, ...] = EXITS,
    labels: tuple[tuple[str, str], ...] = (),
    nan_every: int = 0,
    seed: int = 1,
    begin: int = 1,
) -> bytes:
    """A session as a stream: a tick a second, with distinct values."""
    data = stream.encode(stream.Header(instance, start_ms, labels, 1000, series))
    for number in range(begin, begin + ticks):
        values = [
            float(number * number * (place + seed) % 9973 + 10_000 * number) for place in range(len(series))
        ]
        if nan_every and number % nan_every == 0:
            values[-1] = math.nan
        data += stream.encode(stream.Tick(start_ms + 1000 * number, struct.pack(f"<{len(values)}d", *values)))
    if end is not None:
        data += stream.encode(stream.End(end, start_ms + 1000 * (begin + ticks - 1)))
    return data


def fill_with_lives(path: Path, now_ms: int) -> None:
    """Lives of all kinds within the last five minutes, in several journals."""
    t0 = now_ms // 1000 * 1000 - 300_000
    store_stream(path, life("vm-1", t0 - 400, 290))
    store_stream(path, life("full", t0, 280, series=ALL, seed=3))
    store_stream(path, life("vm-2", t0, 60, end="poweroff") + life("vm-2", t0 + 90_000, 60, end="reset"))
    # The clock was set back by a minute: the second life has times of the first.
    store_stream(path, life("clock", t0, 100, end="clock"))
    store_stream(path, life("clock", t0 + 40_000, 100, end="poweroff", seed=5))
    store_stream(path, life("nan", t0, 120, nan_every=7, end="gone"))
    store_stream(path, life("own", t0, 50, labels=(("job", "mine"), ("zone", "a")), end="signal"))
    # A disk was added, and another life has none.
    store_stream(
        path,
        life("disk", t0, 40)
        + life("disk", t0, 40, series=EXITS + DISK, begin=41)
        + life("disk", t0 + 100_000, 40, end="poweroff"),
    )
    store_stream(path, life('odd "\\ <img src=x onerror=alert(1)> \u202e', t0, 30, end="poweroff"))


def fill_with_changes(path: Path, now_ms: int) -> None:
    """Lives whose series go away, and overlapping lives."""
    t0 = now_ms // 1000 * 1000 - 200_000
    # A disk goes away, and a life with other labels begins while the previous one has no end.
    store_stream(path, life("goes", t0, 20, series=EXITS + DISK) + life("goes", t0, 20, begin=21))
    store_stream(path, life("moves", t0, 20, labels=(("zone", "a"),)))
    store_stream(path, life("moves", t0 + 30_000, 20, labels=(("zone", "b"),), end="poweroff"))
    # The clock was set back to before the first life's start; its last tick, and the moment after that, are
    # ticks of the second life.
    for name, off_ms in (("same", 0), ("after", 1)):
        store_stream(path, life(name, t0, 20, end="clock"))
        store_stream(path, life(name, t0 - 10_000 + off_ms, 60, end="poweroff", seed=3))
