"""Kill -9 at any moment: nothing wrong is ever served, nothing is lost or doubled.

A real rondo-store is fed through a pipe, killed, and fed again from the start, as a producer does
that never heard that its ticks arrived. Another gets the same stream in peace. In the end rondo-query
gives the same answers of both.
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

import numpy as np
import pytest

from rondo_tools import stream
from rondo_tools.catalog import Series
from rondo_tools.errors import EX_DATAERR
from rondo_tools.store.format.records import SessionKey
from rondo_tools.store.reader import Session, Store
from rondo_tools.stream import End
from tests.support.needs import PATIENCE_S
from tests.support.store.stream_model import COUNTS, LEVEL, header, tick

ROOT = Path(__file__).parents[2]
SCHEMAS = (
    (COUNTS, LEVEL),
    (COUNTS, LEVEL, Series("disk", (("dev", "vda"),), "gauge", "bytes", "A disk that was added.")),
    (LEVEL, COUNTS._replace(name="late_total")),
)


class Nursery:
    """Lives of rondo-store on one store, fed from one stream in a file; see store_nursery.py."""

    def __init__(self, host: subprocess.Popen[str], store: Path, stream_file: Path) -> None:
        self._host = host
        self._order = {"argv": ["-q", str(store)], "input": str(stream_file)}

    def killed(self, at_once: int, then: Sequence[int], pause_s: float, *, ends: bool) -> int:
        """Feed one so much, and kill it. Its exit status."""
        return self._live(at_once=at_once, then=list(then), pause_s=pause_s, ends=ends)

    def ended(self, size: int) -> int:
        """Feed one so much, and let it end by itself. Its exit status."""
        return self._live(at_once=size, then=[], pause_s=None, ends=True)

    def _live(self, **order: object) -> int:
        assert self._host.stdin is not None
        assert self._host.stdout is not None
        print(json.dumps(self._order | order), file=self._host.stdin, flush=True)
        return int(self._host.stdout.readline())


@contextmanager
def nursery(store: Path, stream_file: Path) -> Iterator[Nursery]:
    with subprocess.Popen(
        [sys.executable, ROOT / "tests" / "support" / "store" / "store_nursery.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as host:
        try:
            yield Nursery(host, store, stream_file)
        finally:
            assert host.stdin is not None
            host.stdin.close()
            host.wait(PATIENCE_S)


def answers(store: Path) -> dict[str, tuple[int, str, str]]:
    """All that rondo-query says of it."""
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "support" / "store" / "query_answers.py", store],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True, timeout=PATIENCE_S,
    )  # fmt: skip
    found: dict[str, tuple[int, str, str]] = json.loads(done.stdout)
    return found


class Stream:
    """What one connection may bring: lives of several VMs, long ones taken up again between short ones,
    series that come and go, a gap of an hour, and some that nobody ends."""

    def __init__(self, chance: random.Random, begin_ms: int) -> None:
        self._chance = chance
        self._at_ms: dict[tuple[str, int], int] = {}
        self._now_ms = begin_ms
        self.messages: list[bytes] = []
        long = [(f"long-{number}", begin_ms + number) for number in range(3)]
        for number in range(60):
            self._now_ms += 60_000 if number != 30 else 3_600_000
            if number % 3 == 0:
                self._some(chance.choice(long), chance.randrange(3), chance.randint(1, 90))
            else:
                short = f"short-{chance.randrange(8)}", self._now_ms
                self._some(short, chance.randrange(3), chance.randint(0, 9))
                if chance.random() < 0.7:
                    self._end(short, chance.choice(("poweroff", "reset")))
        for one in long[:2]:
            self._some(one, 0, 700)
            self._end(one, "poweroff")

    def _some(self, key: tuple[str, int], kind: int, count: int) -> None:
        series = SCHEMAS[kind]
        self.messages.append(stream.encode(header(series, *key)))
        t_ms = max(self._at_ms.get(key, 0), self._now_ms - 60_000)
        for _ in range(count):
            t_ms += self._chance.choice((1000, 1000, 1000, 999, 2500))
            values = [self._chance.choice((float("nan"), self._chance.uniform(-9, 9))) for _ in series]
            self.messages.append(stream.encode(tick(t_ms, *values)))
        self._at_ms[key] = t_ms

    def _end(self, key: tuple[str, int], reason: str) -> None:
        self.messages.append(stream.encode(End(reason, self._at_ms[key] + 5)))


def by_series(session: Session) -> tuple[list[int], dict[Series, bytes]]:
    """The times of a session's ticks, and the bits of each series; of one without a value, none."""
    rows = session.rows()
    columns = zip(session.header.series, rows.values.T, strict=True)
    return rows.t_ms.tolist(), {one: values.tobytes() for one, values in columns}


def check_prefix(sessions: list[Session], whole: dict[SessionKey, Session]) -> int:
    """Fails unless each session has the first ticks of what it will have; gives how many there are."""
    ticks, nothing = 0, np.full(5000, np.nan).tobytes()
    for session in sessions:
        (t_ms, values), (all_ms, all_values) = by_series(session), by_series(whole[session.key])
        assert session.ticks == len(t_ms)
        assert t_ms == all_ms[: len(t_ms)]
        for series, wanted in all_values.items():
            assert values.get(series, nothing)[: 8 * len(t_ms)] == wanted[: 8 * len(t_ms)]
        ticks += len(t_ms)
    return ticks


@pytest.mark.parametrize("kills", [30, pytest.param(100, marks=pytest.mark.long)])
@pytest.mark.parametrize("seed", [int(os.environ.get("RONDO_TEST_SEED", "1"))])
def test_killed_again_and_again_the_store_comes_out_the_same(tmp_path: Path, seed: int, kills: int) -> None:
    """Replay one with RONDO_TEST_SEED=<seed>; when within a moment a kill falls is up to the machine."""
    path, recorded, chance = tmp_path / "store", tmp_path / "stream", random.Random(seed)
    begin_ms = time.time_ns() // 1_000_000 - 10_000_000
    messages = Stream(chance, begin_ms).messages
    recorded.write_bytes(b"".join(messages))
    size = recorded.stat().st_size
    with nursery(tmp_path / "peace", recorded) as lives:
        assert lives.ended(size) == 0
    expected = answers(tmp_path / "peace")
    whole = {session.key: session for session in Store(tmp_path / "peace").sessions()}
    stored = [0]
    with nursery(path, recorded) as lives:
        for number in range(kills):
            # Further with each life, so that kills fall on all of the stream and not on its beginning.
            at_once = int(size * (number + chance.random()) / kills)
            # Some are killed in the midst of a bulk; some while they get a few bytes at a time; some
            # while the end of their input has them roll up.
            then = chance.choice([(), (40,) * chance.randrange(100), (chance.randrange(1, 500),) * 9])
            pause_s = chance.random() * chance.choice((0.004, 0.05))
            ends = chance.random() < 0.3
            assert lives.killed(at_once, then, pause_s, ends=ends) == -signal.SIGKILL or ends
            if number % 10 == 9:  # the stream breaks where it breaks, and what came before counts
                assert lives.ended(at_once) in (0, EX_DATAERR)
            if (path / "store.json").exists():
                stored.append(check_prefix(Store(path).sessions(), whole))
                assert stored[-1] >= stored[-2]
        assert lives.ended(size) == 0
    assert answers(path) == expected
