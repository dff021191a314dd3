"""Reads a whole store in a tight loop while rondo-store writes to it at full speed: does a reader ever get a
wrong row, or miss one?

For half a minute (--seconds) four producers send at full speed over one socket, and all tiers of all sessions
are read and compared with the sent data: the values of a tick, and so of every roll-up, follow from its time.
No row that a reader has listed before may be missing.
"""

from __future__ import annotations

import argparse
import random
import select
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench import measure
from bench.report import Report, run_part
from rondo_tools import stream
from rondo_tools.catalog import SERIES
from rondo_tools.store.format.records import SessionKey
from rondo_tools.store.reader import Rows, Session, Store

PRODUCERS = 4
MAX_AT_ONCE = 400  # ticks that a producer sends at once
BEGIN_MS = 1_000_000_200_000  # long enough ago for a minute's ticks; a multiple of all windows
WIDTH = len(SERIES)
OFFSETS = np.arange(WIDTH) / 16  # exact in a float64, and so are all sums of a window

Times = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


@dataclass
class Counts:
    """The results; `wrong` and `missed` are rows."""

    passes: int = 0  # over the whole store
    served: int = 0
    skipped: int = 0  # rows that the reader reported as incomplete
    wrong: int = 0
    missed: int = 0
    ticks: int = 0  # written meanwhile by all producers


def main(report: Report, arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench.py race", description="Read a store while it is written.")
    parser.add_argument("--seconds", type=float, default=30, help="duration (default: 30)")
    seconds = parser.parse_args(arguments).seconds
    with tempfile.TemporaryDirectory(prefix="rondo-bench-") as folder:
        counts = race(Path(folder), seconds)
    report.row(f"ticks written by {PRODUCERS} producers at full speed in {seconds:g} s", counts.ticks)
    report.row("times that the whole store was read meanwhile", counts.passes, at_least=1)
    report.row("rows served, of all tiers", counts.served)
    report.row("of these wrong", counts.wrong, at_most=0)
    report.row("rows missed that an earlier pass had listed", counts.missed, at_most=0)
    report.row("rows damaged", counts.skipped, at_most=0)


def race(folder: Path, seconds: float) -> Counts:
    """Run in `folder` for `seconds`, and until the whole store was read once."""
    counts = Counts()
    listed_ms: dict[SessionKey, int] = {}  # each session's newest tick that the last pass listed
    address, path = f"{folder}/sock", folder / "store"
    with (
        # Journals end every five seconds, so there are many roll-ups.
        measure.serving(path, address, "--no-health", "--tiers", "1s:10m,5s:6h,60s:10000d"),
        subprocess.Popen(
            [sys.executable, "-m", "bench.race", "produce", address, str(seconds)], stdin=subprocess.PIPE
        ) as feeder,
    ):
        try:
            while feeder.poll() is None:
                sessions = Store(path).sessions() if (path / "store.json").exists() else []
                for session in sessions:
                    look(session, listed_ms.get(session.key, 0), counts)
                    listed_ms[session.key] = session.last_ms
                counts.passes += len(sessions) == PRODUCERS
                if counts.passes and feeder.stdin is not None:
                    feeder.stdin.close()  # it may end now
                    feeder.stdin = None
        finally:
            feeder.terminate()
        assert feeder.returncode == 0, "the producers were not heard to their end"
        for session in Store(path).sessions():
            counts.ticks += session.ticks
            look(session, session.last_ms, counts)
    return counts


# --- the producers, a process of their own ---------------------------------------------------------


def produce(address: str, seconds: float) -> None:
    """Send at full speed, in pieces of different sizes; return when everything is acknowledged.

    Ends after `seconds` and at the end of standard input, whichever comes last.
    """
    chance = random.Random(1)
    peers = []
    for number in range(PRODUCERS):
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(address)
        peer.sendall(stream.encode(stream.Header(f"vm-{number}", BEGIN_MS, (), 1000, SERIES)))
        peers.append(peer)
    sent = [0] * PRODUCERS
    until = time.monotonic() + seconds
    while time.monotonic() < until or not select.select([0], [], [], 0)[0]:
        for number, peer in enumerate(peers):
            count = chance.choice((1, 2, chance.randint(1, MAX_AT_ONCE)))
            peer.sendall(messages(sent[number], count))
            sent[number] += count
    for number, peer in enumerate(peers):
        peer.sendall(stream.encode(stream.End("poweroff", BEGIN_MS + sent[number] * 1000)))
        peer.shutdown(socket.SHUT_WR)
        assert peer.recv(1) == b"", "not acknowledged"
        peer.close()


def messages(first: int, count: int) -> bytes:
    """Ticks `first` to `first + count`, encoded all at once."""
    one = stream.encode(stream.Tick(BEGIN_MS, bytes(8 * WIDTH)))
    head = one[10 : -8 * WIDTH]
    shape = [("array", "S2"), ("t_ms", ">u8"), ("bin", f"S{len(head)}"), ("values", "<f8", (WIDTH,))]
    block = np.empty(count, np.dtype(shape))
    numbers = np.arange(first, first + count)
    block["array"], block["bin"] = one[:2], head
    block["t_ms"] = BEGIN_MS + numbers * 1000
    block["values"] = numbers[:, np.newaxis] + OFFSETS
    return block.tobytes()


# --- the reader ------------------------------------------------------------------------------------


def look(session: Session, listed_until_ms: int, counts: Counts) -> None:
    """Read all tiers of a session; an earlier pass has listed all ticks up to `listed_until_ms`."""
    for tier in range(len(session.tiers)):
        rows = session.rows(tier)
        counts.served += rows.t_ms.size
        counts.skipped += rows.skipped
        counts.wrong += _wrong(session, tier, rows)
        counts.missed += _missed(session.tiers[tier].interval_ms, rows, listed_until_ms)


def _missed(interval_ms: int, rows: Rows, listed_until_ms: int) -> int:
    """The number of missing rows up to `listed_until_ms`; there is a tick every second from BEGIN_MS."""
    first, last = BEGIN_MS // interval_ms, listed_until_ms // interval_ms
    windows = rows.t_ms // interval_ms
    return last - first + 1 - int(((windows >= first) & (windows <= last)).sum()) if listed_until_ms else 0


def _wrong(session: Session, tier: int, rows: Rows) -> int:
    """The number of rows whose values do not match their time."""
    interval_ms = session.tiers[tier].interval_ms
    last = (rows.t_ms - BEGIN_MS) // 1000
    first = (rows.t_ms // interval_ms * interval_ms - BEGIN_MS) // 1000
    expected = np.empty_like(rows.values)
    for at, (series, aggregate) in enumerate(session.columns(tier)):
        if aggregate == "avg":
            count = last - first + 1
            expected[:, at] = (count * (first + last) / 2 + count * OFFSETS[series]) / count
        else:
            expected[:, at] = (first if aggregate == "min" else last) + OFFSETS[series]
    return int((rows.values != expected).any(axis=1).sum())


if __name__ == "__main__":
    if sys.argv[1:2] == ["produce"]:
        produce(sys.argv[2], float(sys.argv[3]))
    else:
        sys.exit(run_part(main))
