"""A reader beside rondo-store's own code, as two processes that nothing holds in step.

Journals end, are rolled up and go as fast as the writer can; what a look finds is of one moment, and
whole.
"""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

from rondo_tools.store.check import Checker
from rondo_tools.store.format.layout import JOURNALS, Layout
from rondo_tools.store.reader import Session, Store
from tests.support.store import race_keeper
from tests.support.store.race_keeper import CYCLE_S, LIFE, PAIR, VMS, one_tick
from tests.support.store.stream_model import T0, check

CYCLES = 150


def check_newest(sessions: list[Session], before_ms: int) -> int:
    """Fails unless the last two lives of each VM are whole up to one tick; gives the oldest such tick."""
    newest = []
    for name in VMS:
        lives = [one for one in sessions if one.instance == name and one.ticks][-2:]
        for session in lives:
            times = range(session.start_ms + 1000, session.last_ms + 1, 1000)
            check(session, map(one_tick, times), PAIR)
            assert (session.end is not None) <= (session.ticks == LIFE)
        for earlier, later in pairwise(lives):
            assert earlier.ticks == LIFE
            assert earlier.end is not None
            assert later.start_ms == earlier.start_ms + 1000 * (LIFE + 1)
        newest.append(lives[-1].last_ms if lives else 0)
    assert min(newest) >= before_ms
    return min(newest)


def test_a_reader_races_rondo_store(tmp_path: Path) -> None:
    path = tmp_path / "store"
    writer = subprocess.Popen(
        [sys.executable, race_keeper.__file__, path, str(CYCLES)],
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        while not (path / "store.json").exists():
            assert writer.poll() is None
        store, newest_ms, looks = Store(path), 0, 0
        while (status := writer.poll()) is None or looks == 0:
            since_ms = max(0, newest_ms - 2 * 1000 * LIFE)
            newest_ms = check_newest(store.sessions(since_ms=since_ms), newest_ms)
            looks += 1
        assert status == 0
        assert check_newest(store.sessions(), newest_ms) >= T0 + 1000 * (CYCLES * CYCLE_S - 1)
    finally:
        writer.kill()
        writer.wait()
    assert min(Layout(path).numbers(JOURNALS)) > 1, "some went"
    assert list(Checker(path).findings()) == []
