#!/usr/bin/env python3
"""Read a whole store in a tight loop while rondo-store writes to it as fast as it can: does a reader
ever get a wrong row, or miss one?

For a minute (or as many seconds as the first argument says) four producers send all they can over
one socket, and all tiers of all sessions are read and held against what was sent: the values of a
tick, and so of every roll-up, follow from its time. Nothing that rondo-store has told to be closed
may be missing, unless the ring has gone round since.
"""

from __future__ import annotations

import random
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rondo_tools import stream  # noqa: E402
from rondo_tools.catalog import SERIES  # noqa: E402
from rondo_tools.store.reader import Rows, Session, Store, Tier  # noqa: E402

PRODUCERS = 4
MAX_AT_ONCE = 400  # ticks in a message of a producer
BEGIN_MS = 1_000_000_200_000  # long ago, for all that a minute can hold; on a multiple of all windows
WIDTH = len(SERIES)
OFFSETS = np.arange(WIDTH) / 16  # exact in a float64, and so are all sums of a window
MARGIN = 2  # rows: one that is just being written is neither the old one nor the new one

Times = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


@dataclass
class Counts:
    """What came of it; `wrong` and `missed` are rows."""

    passes: int = 0  # over the whole store
    served: int = 0
    skipped: int = 0  # rows that a reader was told are not whole
    wrong: int = 0
    missed: int = 0
    ticks: int = 0  # that were written meanwhile, of all producers


def main() -> int:
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    with tempfile.TemporaryDirectory(prefix="rondo-bench-") as folder:
        counts = race(Path(folder), seconds)
    print(f"{PRODUCERS} producers at full speed for {seconds} s: {counts.ticks:,} ticks written;")
    print(f"the store read {counts.passes:,} times meanwhile, {counts.served:,} rows of all tiers:")
    print(f"{counts.wrong} wrong, {counts.missed} that were closed missed, {counts.skipped} said to be torn")
    held = counts.passes > 0 and not counts.wrong and not counts.missed
    print(f"bar: none wrong, none missed: {'held' if held else 'MISSED'}")
    return 0 if held else 1


def race(folder: Path, seconds: float, ticks_each: int = 0, passes: int = 0) -> Counts:
    """Run it in `folder` for so long, and on until so much is written and the store was read so often."""
    counts, told = Counts(), dict[str, int]()
    address, path = f"{folder}/sock", folder / "store"
    with (
        serving(path, address, told),
        subprocess.Popen(
            [sys.executable, __file__, address, str(seconds), str(ticks_each)], stdin=subprocess.PIPE
        ) as feeder,
    ):
        try:
            while feeder.poll() is None:
                sessions = Store(path).sessions() if (path / "store.json").exists() else []
                for session in sessions:
                    look(session, told.get(str(session.path), 0), counts)
                counts.passes += len(sessions) == PRODUCERS
                if counts.passes > passes and feeder.stdin is not None:
                    feeder.stdin.close()  # it may end now
                    feeder.stdin = None
        finally:
            feeder.terminate()
        assert feeder.returncode == 0, "the producers were not heard to their end"
        for session in Store(path).sessions():
            counts.ticks += (int(session.rows().t_ms[-1]) - BEGIN_MS) // 1000 + 1
            look(session, int(session.rows().t_ms[-1]), counts)
    return counts


@contextmanager
def serving(path: Path, address: str, told: dict[str, int]) -> Iterator[None]:
    """rondo-store at `address`; `told` is kept up to its lines."""

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            name, closed_ms = line.rstrip("\n").split("\t")
            told[name] = int(closed_ms)

    command: list[str | Path] = [
        sys.executable,
        ROOT / "bin" / "rondo-store",
        path,
        "-q",
        "--no-health",
        "--listen",
        f"unix:{address}",
    ]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        listener = threading.Thread(target=listen)
        listener.start()
        try:
            while not Path(address).exists() and process.poll() is None:
                time.sleep(0.01)
            yield
        finally:
            process.terminate()
            listener.join()


# --- the producers, a process of their own ---------------------------------------------------------


def produce(address: str, seconds: float, ticks_each: int) -> None:
    """Send all that is taken, in messages of any size; return when all is acknowledged.

    Ends after so long, when so much is sent and standard input is closed, whatever comes last.
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
    while time.monotonic() < until or min(sent) < ticks_each or not select.select([0], [], [], 0)[0]:
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


def look(session: Session, closed_ms: int, counts: Counts) -> None:
    """Read all tiers of a session of which all up to `closed_ms` was closed before."""
    found = [session.rows(tier) for tier in range(len(session.tiers))]
    newest_ms = int(session.rows().t_ms[-1:].max(initial=0))  # what may have been overwritten meanwhile
    for tier, rows in enumerate(found):
        counts.served += rows.t_ms.size
        counts.skipped += rows.skipped
        counts.wrong += _wrong(session, tier, rows)
        counts.missed += _missed(session.tiers[tier], rows, closed_ms, newest_ms)
    if closed_ms:
        # And as a push reads it: a stretch of what is closed, all of it or the word that it is not.
        tier = counts.passes % len(session.tiers)
        window_ms = session.tiers[tier].interval_ms
        coarsest_ms = session.tiers[-1].interval_ms
        # The newest window that has closed may be rolled up only a moment later.
        until_ms = closed_ms // coarsest_ms * coarsest_ms - (coarsest_ms if tier else 0)
        after_ms = max(BEGIN_MS, until_ms - session.tiers[tier].span_ms // 4) // window_ms * window_ms - 1
        rows, is_whole = session.stored(tier, after_ms, until_ms)
        counts.wrong += _wrong(session, tier, rows)
        counts.served += rows.t_ms.size
        if is_whole:
            counts.missed += max(0, (until_ms - after_ms) // window_ms) - rows.t_ms.size


def _missed(tier: Tier, rows: Rows, closed_ms: int, newest_ms: int) -> int:
    """How many closed rows are not there, or not to the end of their window."""
    interval_ms, slots = tier
    first = max(BEGIN_MS // interval_ms, newest_ms // interval_ms - slots + 1 + MARGIN)
    last = (closed_ms + 1000) // interval_ms - 1  # the last window that is closed
    windows = rows.t_ms // interval_ms
    whole = (windows >= first) & (windows <= last) & (rows.t_ms == (windows + 1) * interval_ms - 1000)
    return max(0, last - first + 1) - int(whole.sum()) if closed_ms else 0


def _wrong(session: Session, tier: int, rows: Rows) -> int:
    """How many rows are not what their time says."""
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
    if len(sys.argv) == 4:
        produce(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
    else:
        sys.exit(main())
