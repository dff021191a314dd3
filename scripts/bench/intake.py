"""The cost of a stream from its bytes to the journal: decoding, sessions, and the write of each turn."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from bench.measure import least, resident_bytes
from bench.report import Report, run_part
from rondo_tools import stream
from rondo_tools.catalog import SERIES
from rondo_tools.store.folder import Folder
from rondo_tools.store.intake import Intake
from rondo_tools.store.keeper import Keeper

START_MS = 1_732_300_000_000
WEEK_S = 604_800
READ = 1 << 18  # bytes at once, as from a pipe
VALUES = [row.tobytes() for row in np.random.default_rng(1).random((1000, len(SERIES)))]


@contextmanager
def keeper(now_ms: int) -> Iterator[Keeper]:
    folder = tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    try:
        with Keeper(Folder(f"{folder}/store"), now_ms=lambda: now_ms) as made:
            yield made
    finally:
        shutil.rmtree(folder)


def header(instance: str, start_ms: int = START_MS) -> bytes:
    return stream.encode(stream.Header(instance, start_ms, (("zone", "a"),), 1000, SERIES))


def tick(second: int, start_ms: int = START_MS) -> bytes:
    return stream.encode(stream.Tick(start_ms + 1000 * second, VALUES[second % 1000]))


def cpu_of(work: Callable[[], None]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def best_of(rounds: int, work: Callable[[int], None]) -> float:
    """CPU seconds of the cheapest round; `work` gets the round's number."""
    numbers = iter(range(rounds))
    return least(rounds, lambda: cpu_of(partial(work, next(numbers))))


def feed(kept: Keeper, data: bytes) -> None:
    intake = Intake(kept)
    for at in range(0, len(data), READ):
        intake.feed(data[at : at + READ])
        kept.flush()
    intake.close()


def lives(report: Report, count: int = 4000, rounds: int = 5) -> None:
    def life(number: int) -> bytes:
        start_ms = START_MS + 50 * number
        ticks = b"".join(tick(second, start_ms) for second in range(1, 6))
        return (
            header(f"job-{number:06d}", start_ms)
            + ticks
            + stream.encode(stream.End("poweroff", start_ms + 5001))
        )

    data = [b"".join(map(life, range(count * n, count * (n + 1)))) for n in range(rounds)]
    with keeper(START_MS + 50 * count * rounds + 6000) as kept:
        seconds = best_of(rounds, lambda number: feed(kept, data[number]))
        report.row("a life of 5 ticks, decoded and written", seconds / count * 1e6, "µs of CPU")


def live(report: Report, sessions: int, a_turn: int, seconds: int) -> None:
    with keeper(START_MS + 1000 * seconds) as kept:
        intakes = [Intake(kept) for _ in range(sessions)]
        for number, intake in enumerate(intakes):
            intake.feed(header(f"vm-{number:05d}"))
        ticks = [tick(second) for second in range(1, seconds + 1)]
        part = seconds // 10

        def work(number: int) -> None:
            count = 0
            for one in ticks[number * part : (number + 1) * part]:
                for intake in intakes:
                    intake.feed(one)
                    count += 1
                    if count % a_turn == 0:
                        kept.flush()
            kept.flush()

        cost = best_of(10, work) / (part * sessions)
        report.row(f"a live tick: {sessions:,} sessions, {a_turn} ticks a turn", cost * 1e6, "µs of CPU")


def week(report: Report) -> None:
    width = len(SERIES)
    ticks = np.zeros(WEEK_S, [("head", "u1", 2), ("t_ms", ">u8"), ("bin", "u1", 2), ("values", "<f8", width)])
    ticks["head"], ticks["bin"] = (0x92, 0xCF), (0xC4, 8 * width)
    ticks["t_ms"] = START_MS + 1000 * np.arange(1, WEEK_S + 1)
    ticks["values"] = np.random.default_rng(2).random((WEEK_S, width))
    data = header("vm-1") + ticks.tobytes()
    with keeper(START_MS + 1000 * WEEK_S) as kept:
        seconds = cpu_of(lambda: feed(kept, data))
        report.row("a recorded week", WEEK_S * width / seconds / 1e6, "M samples a CPU-second")


def memory(report: Report, sessions: int = 10_000) -> None:
    with keeper(START_MS + 100_000) as kept:
        before = resident_bytes(os.getpid())
        intakes = [Intake(kept) for _ in range(sessions)]
        for number, intake in enumerate(intakes):
            intake.feed(header(f"vm-{number:05d}") + tick(1))
        kept.flush()
        report.row("a live session", (resident_bytes(os.getpid()) - before) / sessions, "bytes of memory")


def main(report: Report, _: list[str]) -> None:
    memory(report)
    lives(report)
    live(report, 1, 1, 50_000)
    live(report, 1000, 20, 50)
    live(report, 1000, 1, 50)
    week(report)


if __name__ == "__main__":
    sys.exit(run_part(main))
