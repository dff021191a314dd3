"""Bytes on the wire for each sample: rondo-push beside vmagent, which forwards the same samples.

    scripts/bench.py wire [--sessions 200]

rondo-push delivers a store twice: to a receiver that counts, and to a vmagent that forwards to another one.
Both must get the same samples. Bytes are those of the bodies. Without a vmagent, a note is printed instead.
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

from bench.measure import program
from bench.push import blocks, store_of
from bench.report import Peer, Report, run_part
from devtools.programs import fetch
from devtools.receivers.prometheus import free_port
from devtools.receivers.sink import Sink
from rondo_tools.push.encoding.v1 import decode

PATIENCE_S = 60.0  # time for vmagent to start, and to forward everything

Sample = tuple[str, int, bytes]


@contextmanager
def vmagent(path: Path, folder: Path, to: str) -> Iterator[str]:
    """A vmagent that forwards to a URL; yields its own URL for samples."""
    address = f"127.0.0.1:{free_port()}"
    command = [
        str(path),
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
    subprocess.run(program("rondo-push", store, *command), check=True)


def samples(sink: Sink) -> list[Sample]:
    """All samples received, sorted."""
    found = []
    for encoding, body in sink.bodies:
        if encoding != "snappy":
            raise RuntimeError(f"a body in {encoding!r}: only snappy is supported")
        for series in decode(body).timeseries:
            labels = str(sorted((label.name, label.value) for label in series.labels))
            found += [(labels, one.timestamp, struct.pack("<d", one.value)) for one in series.samples]
    return sorted(found)


def measure(report: Report, path: Path, sessions: int, rows: int) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="rondo-bench-") as name,
        Sink(keep=True) as ours,
        Sink(keep=True) as theirs,
        vmagent(path, Path(name) / "vmagent", theirs.write_url) as forwarded,
    ):
        store = Path(name) / "store"
        store_of(store, blocks(sessions, rows), time.time_ns() // 1_000_000 - 10_000)
        push(store, ours.write_url, "ours")
        push(store, forwarded, "theirs")
        wanted = samples(ours)
        deadline = time.monotonic() + PATIENCE_S
        while (got := samples(theirs)) != wanted:
            if len(got) > len(wanted) or time.monotonic() > deadline:
                raise RuntimeError(f"vmagent delivered {len(got)} samples, not the same {len(wanted)}")
            time.sleep(0.2)
    each, other = ours.bytes / len(wanted), theirs.bytes / len(wanted)
    what = f"a sample on the wire, {rows} rows of {sessions} VMs, remote-write 1.0 and snappy"
    report.row(what, each, "bytes", peer=Peer("vmagent, which forwards the same samples", other))


def main(report: Report, arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench.py wire", description="Measure bytes on the wire.")
    parser.add_argument("--sessions", type=int, default=200, help="VMs (default: 200)")
    own = parser.parse_args(arguments)
    try:
        path = fetch("vmagent")
    except LookupError as exc:
        report.note(f"no vmagent to compare with: {exc}")
        return
    for rows in (10, 60):
        measure(report, path, own.sessions, rows)


if __name__ == "__main__":
    sys.exit(run_part(main))
