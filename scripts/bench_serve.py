#!/usr/bin/env python3
"""What a thousand producers at one tick a second cost a rondo-store that serves them.

They are spread over the second, sixteen series each, on one Unix socket, for a minute (or as many
seconds as the first argument says). CPU time is the store's own, user and system; memory is what
`statm` shows, with ten producers and with all.
"""

from __future__ import annotations

import os
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rondo_tools import stream  # noqa: E402
from rondo_tools.catalog import SERIES  # noqa: E402
from rondo_tools.store.reader import Store  # noqa: E402

PRODUCERS = 1000
BASE = 10
PACK = struct.Struct(f"<{len(SERIES)}d").pack
BAR_CORE, BAR_BYTES = 0.06, 2048


def main() -> int:
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="rondo-bench-") as name:
        store, address = Path(name) / "store", f"{name}/sock"
        command = [sys.executable, ROOT / "bin" / "rondo-store", store, "-q", "--listen", f"unix:{address}"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL) as process:
            try:
                while not Path(address).exists():
                    time.sleep(0.01)
                core, each, lost = serve(process.pid, address, store, seconds)
            finally:
                process.terminate()
    print(f"{PRODUCERS} producers at 1 Hz for {seconds} s: {core:.2%} of a core,", end=" ")
    print(f"{core / PRODUCERS * 1e6:.1f} µs a tick")
    print(f"memory: {each:.0f} bytes a producer; ticks lost: {lost}")
    held = core <= BAR_CORE and each <= BAR_BYTES and not lost
    bars = f"{BAR_CORE:.0%} of a core, {BAR_BYTES} bytes a producer, none lost"
    print(f"bar: {bars}: {'held' if held else 'MISSED'}")
    return 0 if held else 1


def serve(pid: int, address: str, store: Path, seconds: int) -> tuple[float, float, int]:
    """(share of a core, bytes a producer, ticks lost)."""
    peers = [join(address, number) for number in range(BASE)]
    base = resident(pid)
    peers += [join(address, number) for number in range(BASE, PRODUCERS)]
    for peer in peers:
        peer.sendall(tick(0))
    while sum(one.instance != "rondo-store" for one in Store(store).sessions()) < PRODUCERS:
        time.sleep(0.5)
    time.sleep(1)
    each = (resident(pid) - base) / (PRODUCERS - BASE)
    begin, cpu = time.monotonic(), cpu_seconds(pid)
    for second in range(seconds):
        for number, peer in enumerate(peers):
            pause = begin + second + number / PRODUCERS - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            peer.sendall(tick(second + 1))
    core = (cpu_seconds(pid) - cpu) / (time.monotonic() - begin)
    for peer in peers:
        peer.shutdown(socket.SHUT_WR)
        assert peer.recv(1) == b""
        peer.close()
    sessions = [session for session in Store(store).sessions() if session.instance != "rondo-store"]
    there = sum(session.ticks for session in sessions)
    return core, each, PRODUCERS * (seconds + 1) - there


BEGIN_MS = time.time_ns() // 1_000_000_000 * 1000


def join(address: str, number: int) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(address)
    peer.sendall(stream.encode(stream.Header(f"vm-{number}", BEGIN_MS, (), 1000, SERIES)))
    return peer


def tick(second: int) -> bytes:
    return stream.encode(stream.Tick(BEGIN_MS + second * 1000, PACK(*range(second, second + len(SERIES)))))


def resident(pid: int) -> int:
    time.sleep(0.5)
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
