"""What a stream costs from its bytes to the journal: decoding, sessions, and the write of each turn."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

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
    """The least of several rounds: what else the machine does only ever adds."""
    return min(cpu_of(partial(work, number)) for number in range(rounds))


def feed(kept: Keeper, data: bytes) -> None:
    intake = Intake(kept)
    for at in range(0, len(data), READ):
        intake.feed(data[at : at + READ])
        kept.flush()
    intake.close()


def lives(count: int = 4000, rounds: int = 5) -> None:
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
        print(f"a life of 5 ticks from a file: {seconds / count * 1e6:.1f} us")


def live(sessions: int, a_turn: int, seconds: int) -> None:
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
        print(f"a live tick, {sessions} sessions, {a_turn} a turn: {cost * 1e6:.2f} us")


def week() -> None:
    width = len(SERIES)
    ticks = np.zeros(WEEK_S, [("head", "u1", 2), ("t_ms", ">u8"), ("bin", "u1", 2), ("values", "<f8", width)])
    ticks["head"], ticks["bin"] = (0x92, 0xCF), (0xC4, 8 * width)
    ticks["t_ms"] = START_MS + 1000 * np.arange(1, WEEK_S + 1)
    ticks["values"] = np.random.default_rng(2).random((WEEK_S, width))
    data = header("vm-1") + ticks.tobytes()
    with keeper(START_MS + 1000 * WEEK_S) as kept:
        seconds = cpu_of(lambda: feed(kept, data))
        print(f"a recorded week: {WEEK_S * width / seconds / 1e6:.0f} M samples a CPU-second")


def memory(sessions: int = 10_000) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    with keeper(START_MS + 100_000) as kept:
        before = resident()
        intakes = [Intake(kept) for _ in range(sessions)]
        for number, intake in enumerate(intakes):
            intake.feed(header(f"vm-{number:05d}") + tick(1))
        kept.flush()
        print(f"a live session: {(resident() - before) / sessions:.0f} bytes of memory")


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    memory()
    lives()
    live(1, 1, 50_000)
    live(1000, 20, 50)
    live(1000, 1, 50)
    week()


if __name__ == "__main__":
    main()
