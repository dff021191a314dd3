"""Kill -9 at any moment: nothing wrong is ever served, nothing is lost or doubled.

A real rondo-store is fed through a pipe, killed, and fed again from the start, as a producer does
that never heard that its ticks arrived.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from needs import PATIENCE_S
from stream_model import check, header, ticks

from rondo_tools import stream
from rondo_tools.store.reader import Store
from rondo_tools.stream import End

KILLS = 100


class Nursery:
    """Lives of rondo-store on one store, fed from one stream in a file; see store_nursery.py."""

    def __init__(self, host: subprocess.Popen[str], store: Path, stream_file: Path) -> None:
        self._host = host
        self._order = {"argv": ["-q", str(store)], "input": str(stream_file)}

    def life(self, at_once: int = 0, then: Sequence[int] = (), pause_s: float | None = None) -> int:
        """Feed one so much, then kill it; or with no pause, feed it all. Its exit status."""
        order = self._order | {"at_once": at_once, "then": list(then), "pause_s": pause_s}
        assert self._host.stdin is not None
        assert self._host.stdout is not None
        print(json.dumps(order), file=self._host.stdin, flush=True)
        return int(self._host.stdout.readline())


@contextmanager
def nursery(store: Path, stream_file: Path) -> Iterator[Nursery]:
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, root / "tests" / "store" / "store_nursery.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as host:
        try:
            yield Nursery(host, store, stream_file)
        finally:
            assert host.stdin is not None
            host.stdin.close()
            host.wait(PATIENCE_S)


@pytest.mark.parametrize("seed", [int(os.environ.get("RONDO_TEST_SEED", "1"))])
def test_killed_a_hundred_times_the_store_comes_out_the_same(tmp_path: Path, seed: int) -> None:
    """Replay one with RONDO_TEST_SEED=<seed>; when within a moment a kill falls is up to the machine."""
    path, recorded, chance = tmp_path / "store", tmp_path / "stream", random.Random(seed)
    begin_ms = time.time_ns() // 1_000_000 - 5_000_000
    everything = ticks(3000, begin_ms) + ticks(1000, begin_ms + 3_600_000)
    whole, end = header(start_ms=begin_ms), End("poweroff", begin_ms + 4_700_000)
    messages = [stream.encode(one) for one in (whole, *everything, end)]
    recorded.write_bytes(b"".join(messages))
    size, one_tick = recorded.stat().st_size, len(messages[1])
    stored = [0]
    with nursery(path, recorded) as lives:
        for number in range(KILLS):
            # Further with each life, so that kills fall on all of the stream and not on its beginning.
            at_once = int(size * (number + chance.random()) / KILLS)
            # Some are killed in the midst of a bulk; some while they get a tick at a time.
            then = chance.choice([(), (one_tick,) * chance.randrange(100), (chance.randrange(1, 500),) * 9])
            assert lives.life(at_once, then, chance.random() * 0.004) == -signal.SIGKILL
            for session in Store(path).sessions() if (path / "store.json").exists() else []:
                check(session, everything[: session.ticks])
                stored.append(session.ticks)
                assert stored[-1] >= stored[-2]
        assert len(set(stored)) > 5  # the kills fell on many places, however slow the machine
        assert lives.life() == 0
    (session,) = Store(path).sessions()
    assert session.end == end
    check(session, everything)
