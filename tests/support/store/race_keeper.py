"""Writes the store of `test_a_reader_races_rondo_store`: `python race_keeper.py FOLDER CYCLES`.

The store's own code, with a fake clock: a cycle is twenty seconds of three VMs, then the journal is closed
and rolled up, and expired files are removed. All files are made and removed many times.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from rondo_tools import stream
from rondo_tools.store.format.tiers import parse_tiers
from rondo_tools.store.intake import Intake
from rondo_tools.store.opened import OpenStore
from rondo_tools.stream import End, Tick
from tests.support.store.stream_model import COUNTS, LEVEL, T0, header, tick

TIERS = parse_tiers("1s:10m,10s:2h,5m:1d")
VMS, CYCLE_S, LIFE = ("vm-1", "vm-2", "vm-3"), 20, 90
PAIR = (COUNTS, LEVEL)


def one_tick(t_ms: int) -> Tick:
    """The values follow from the time alone, so a reader can check them."""
    second = t_ms // 1000
    return tick(t_ms, float(second), float(second % 7))


def messages(instance: str) -> Iterator[bytes]:
    """Sessions of LIFE ticks, one after another, for ever: their headers, a tick a second, and ends."""
    t_ms = T0 + 1000 * VMS.index(instance)
    while True:
        data = stream.encode(header(PAIR, instance, t_ms))
        for _ in range(LIFE):
            t_ms += 1000
            yield data + stream.encode(one_tick(t_ms))
            data = b""
        t_ms += 1000
        yield stream.encode(End("poweroff", t_ms))


def main(path: Path, cycles: int) -> None:
    os.fsync = os.fdatasync = lambda fd: None  # it is never killed, and should be fast
    now_ms = T0
    with OpenStore(
        path, TIERS, now_ms=lambda: now_ms, clock=lambda: now_ms / 1000, max_bytes=1 << 30
    ) as store:
        streams = [(Intake(store.keeper), messages(name)) for name in VMS]
        for _ in range(cycles):
            for _ in range(CYCLE_S):
                now_ms += 1000
                for intake, some in streams:
                    intake.feed(next(some))
                store.keeper.flush()
            store.keeper.end_journal()
            store.keep_house()
            now_ms += 60_000 - 1000 * CYCLE_S  # the producers' clock falls behind the store's


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
