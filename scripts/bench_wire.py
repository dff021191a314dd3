#!/usr/bin/env python3
"""Measure bytes on the wire, a sample: rondo-push beside vmagent, which forwards the very same ones.

    scripts/bench_wire.py [--sessions 200]

rondo-push delivers a store twice: to a receiver that counts, and to a vmagent that forwards to
another one; both arrive with the same samples, or nothing is printed. Bytes are those of the bodies.
Where no vmagent can be had, it says so.
"""

from __future__ import annotations

import argparse
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench_push import blocks, fill
from fetch import fetch
from prometheus import free_port
from sink import Sink

from rondo_tools.push.encoding.v1 import decode

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 60.0  # for vmagent to start, and to hand on what it has

Sample = tuple[str, int, bytes]


@contextmanager
def vmagent(program: Path, folder: Path, to: str) -> Iterator[str]:
    """A vmagent that forwards to a URL; yields the URL that it takes samples at."""
    address = f"127.0.0.1:{free_port()}"
    command = [
        program,
        f"-httpListenAddr={address}",
        f"-remoteWrite.url={to}",
        f"-remoteWrite.tmpDataPath={folder}",
    ]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                with urllib.request.urlopen(f"http://{address}/health", timeout=5):
                    break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("vmagent does not start") from None
                time.sleep(0.05)
        yield f"http://{address}/api/v1/write"
    finally:
        process.kill()
        process.wait()


def push(store: Path, url: str, cursor: str) -> None:
    command = ["--remote-write", url, "--cursor", cursor, "--no-health"]
    subprocess.run([sys.executable, ROOT / "bin" / "rondo-push", store, *command], check=True)


def samples(sink: Sink) -> list[Sample]:
    """All that came, in an order that does not depend on how it came."""
    found = []
    for encoding, body in sink.bodies:
        if encoding != "snappy":
            raise RuntimeError(f"a body in {encoding!r}: this only knows snappy")
        for series in decode(body).timeseries:
            labels = str(sorted((label.name, label.value) for label in series.labels))
            found += [(labels, one.timestamp, struct.pack("<d", one.value)) for one in series.samples]
    return sorted(found)


def measure(program: Path, sessions: int, rows: int) -> bool:
    """A row of the table; whether both delivered the same."""
    with (
        tempfile.TemporaryDirectory(prefix="rondo-bench-") as name,
        Sink(keep=True) as ours,
        Sink(keep=True) as theirs,
        vmagent(program, Path(name) / "vmagent", theirs.write_url) as forwarded,
    ):
        store = Path(name) / "store"
        fill(store, blocks(sessions, rows), time.time_ns() // 1_000_000 - 10_000)
        push(store, ours.write_url, "ours")
        push(store, forwarded, "theirs")
        wanted = samples(ours)
        deadline = time.monotonic() + PATIENCE_S
        while (got := samples(theirs)) != wanted:
            if len(got) > len(wanted) or time.monotonic() > deadline:
                print(f"vmagent delivered {len(got)} samples, not the {len(wanted)} alike", file=sys.stderr)
                return False
            time.sleep(0.2)
    each, other = ours.bytes / len(wanted), theirs.bytes / len(wanted)
    figures = (str(rows), str(len(wanted)), f"{each:.2f}", f"{other:.2f}", f"{other / each:.2f}")
    requests = (f"{ours.requests}", f"{theirs.requests}")
    print(" ".join(f"{figure:>12}" for figure in (*figures, *requests)))
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure bytes on the wire beside vmagent.")
    parser.add_argument("--sessions", type=int, default=200, help="VMs (default: 200)")
    arguments = parser.parse_args()
    try:
        program = fetch("vmagent")
    except LookupError as exc:
        print(f"no vmagent to compare with: {exc}", file=sys.stderr)
        return 0
    print("bytes a sample on the wire, remote-write 1.0 and snappy both, the same samples")
    names = ("rows a VM", "samples", "rondo-push", "vmagent", "vmagent/ours", "requests", "vmagent's")
    print(" ".join(f"{name:>12}" for name in names))
    return 0 if all(measure(program, arguments.sessions, rows) for rows in (10, 60)) else 1


if __name__ == "__main__":
    sys.exit(main())
