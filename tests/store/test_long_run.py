"""A simulated week of a busy host: the costs of a store do not grow with the sessions that it remembers."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from statistics import median

import pytest

from rondo_tools.store.format.layout import Layout
from rondo_tools.store.intake import Intake
from rondo_tools.store.opened import OpenStore
from rondo_tools.stream import End
from tests.support.store.store_host import Clock
from tests.support.store.stream_model import COUNTS, LEVEL, T0, header, ticks
from tests.support.streams import encoded

PAIR = (COUNTS, LEVEL)
LIVES = 600_000  # one a second, for just under a week
STEP_S = 300  # between two roll-ups; a tier's interval
SECONDS = 5
OF_A_SESSION = 28  # bytes of memory for the index
SLACK = 32 << 20  # bytes that the allocator keeps after merging parts of the index


def life(number: int) -> bytes:
    begin_ms = T0 + 1000 * number
    return encoded(
        header(PAIR, f"sandbox-{number}", begin_ms),
        *ticks(SECONDS, begin_ms + 100, width=2),
        End("poweroff", begin_ms + 1000 * SECONDS),
    )


def resident() -> int:
    """The resident memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.long
def test_six_hundred_thousand_sessions(path: Path, no_waits: None) -> None:
    clock, layout = Clock(), Layout(path)
    now_ms = T0
    files, memory, cpu = [], [], []
    with OpenStore(path, now_ms=lambda: now_ms, clock=clock, max_bytes=1 << 40) as store:
        for first in range(0, LIVES, STEP_S):
            streams = [life(number) for number in range(first, min(first + STEP_S, LIVES))]
            now_ms = T0 + 1000 * (first + STEP_S + SECONDS)
            clock.now = (now_ms - T0) / 1000
            before = time.process_time()
            for one in streams:
                intake = Intake(store.keeper)
                intake.feed(one)
                intake.close()
                store.keeper.flush()
            store.keeper.end_journal()
            store.keep_house()
            cpu.append(time.process_time() - before)
            memory.append(resident())
            files.append(sum(1 for _ in path.rglob("*")))
    days = [slice(day * 288, (day + 1) * 288) for day in range(LIVES // 86_400)]
    assert store.keeper.sessions_begun == LIVES
    # Journals stay for ten minutes and two looks an hour apart, tier 1 for six hours, the rest for a week:
    # an interval adds a file to each of three folders at most.
    assert len(layout.numbers("tier_0")) < 40
    assert max(files[days[-1]]) - max(files[days[1]]) <= 3 * 288 * (len(days) - 2)
    grown = memory[-1] - memory[288]
    assert grown <= OF_A_SESSION * LIVES + SLACK, f"{grown / LIVES:.0f} bytes a session"
    first_day, last_day = median(cpu[days[0]]), median(cpu[days[-1]])
    assert last_day <= 2 * first_day, f"an interval takes {last_day:.3f} s, and took {first_day:.3f} s"
