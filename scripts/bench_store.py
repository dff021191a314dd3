#!/usr/bin/env python3
"""What rondo-store costs, beside rrdtool with the same tiers, in one run.

CPU time, user and system, of the process that does the work; the median of five runs. A sample is
one value of one series; a tick has the catalogue's sixteen.
"""

from __future__ import annotations

import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from fetch import fetch  # noqa: E402

from rondo_tools import stream  # noqa: E402
from rondo_tools.catalog import SERIES  # noqa: E402
from rondo_tools.store.format.tiers import DEFAULT_TIERS  # noqa: E402
from rondo_tools.store.intake import Intake  # noqa: E402
from rondo_tools.store.opened import OpenStore  # noqa: E402
from rondo_tools.store.reader import Store  # noqa: E402
from rondo_tools.store.watermarks import Watermarks  # noqa: E402

RUNS = 5
WIDTH = len(SERIES)
RECORDED = 600_000  # ticks in a file: a week
LIVE = 20_000
RRD = 20_000
SESSIONS = 1000
WINDOW = 300  # ticks of a journal
BAR_FILE, BAR_READ = 5.0, 25.0  # million samples a CPU-second
BAR_LIVE = 20.0  # microseconds a tick
BAR_LIVE_RATIO, BAR_FILE_RATIO = 1.5, 2.5  # beside rrdtool


def main() -> int:
    begin_ms = time.time_ns() // 1_000_000_000 * 1000 - RECORDED * 1000
    with tempfile.TemporaryDirectory(prefix="rondo-bench-") as name:
        folder = Path(name)
        recorded = folder / "recorded.stream"
        messages = record(begin_ms, RECORDED)
        recorded.write_bytes(b"".join(messages))
        print(f"{'':44} {'µs/tick':>8} {'M samples/CPU-s':>16}")
        file = row("rondo-store < file, start-up included", RECORDED, median(lambda: from_file(recorded)))
        live = row("one message at a time, in process", LIVE, median(lambda: one_at_a_time(messages)))
        row("the same, after a week of ticks", LIVE, median(lambda: one_at_a_time(messages, RECORDED - LIVE)))
        row("with a roll-up every 300 ticks", LIVE, median(lambda: one_at_a_time(messages, rolls_up=True)))
        read = row(
            f"reading tier 0, {SESSIONS} sessions of 600 rows",
            SESSIONS * 600,
            median(reading(folder, begin_ms)),
        )
        bars = [
            bar(WIDTH / file >= BAR_FILE, f"{BAR_FILE} M samples/CPU-s from a file"),
            bar(live <= BAR_LIVE, f"{BAR_LIVE} µs a live tick"),
            bar(WIDTH / read >= BAR_READ, f"{BAR_READ} M samples/CPU-s read"),
        ]
        try:
            rrdtool = fetch("rrdtool")
        except LookupError as exc:
            print(f"no rrdtool to compare with: {exc}")
        else:
            single = row("rrdtool update, one tick a call", RRD, median(lambda: rrd(rrdtool, begin_ms, 1)))
            bulk = row("rrdtool update, 60 ticks a call", RRD, median(lambda: rrd(rrdtool, begin_ms, 60)))
            print(f"rondo : rrdtool   one at a time {single / live:.1f} x, in bulk {bulk / file:.1f} x")
            bars.append(bar(single / live >= BAR_LIVE_RATIO, f"{BAR_LIVE_RATIO} x rrdtool one at a time"))
            bars.append(bar(bulk / file >= BAR_FILE_RATIO, f"{BAR_FILE_RATIO} x rrdtool in bulk"))
    return 0 if all(bars) else 1


def bar(is_held: bool, what: str) -> bool:
    print(f"bar: {what}: {'held' if is_held else 'MISSED'}")
    return is_held


def record(begin_ms: int, count: int) -> list[bytes]:
    """A stream of one session, message by message, of values that move."""
    header = stream.Header("bench", begin_ms, (), 1000, SERIES)
    pack = struct.Struct(f"<{WIDTH}d").pack
    return [stream.encode(header)] + [
        stream.encode(stream.Tick(begin_ms + i * 1000, pack(*(i * 1.25 + column for column in range(WIDTH)))))
        for i in range(1, count + 1)
    ]


def median(run: Callable[[], float]) -> float:
    return statistics.median(run() for _ in range(RUNS))


def row(what: str, ticks: int, seconds: float) -> float:
    """Print a row of the table; returns microseconds a tick."""
    cost = seconds / ticks * 1e6
    print(f"{what:44} {cost:8.2f} {WIDTH / cost:16.2f}", flush=True)
    return cost


def of_child(command: list[str | Path], **options: object) -> float:
    """CPU seconds of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def from_file(recorded: Path) -> float:
    with tempfile.TemporaryDirectory() as store, recorded.open("rb") as file:
        return of_child([sys.executable, ROOT / "bin" / "rondo-store", store], stdin=file)


def one_at_a_time(messages: list[bytes], before: int = 0, *, rolls_up: bool = False) -> float:
    """As rondo-store does it live: feed, write, tell; without the system call that reads.

    `before` are the ticks that the session has already. With `rolls_up`, a journal ends each five minutes.
    """
    with (
        subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as follower,
        tempfile.TemporaryDirectory() as path,
        OpenStore(path) as store,
    ):
        assert follower.stdin is not None
        keeper, intake = store.keeper, Intake(store.keeper)
        watermarks = Watermarks(follower.stdin.fileno())
        for at in range(0, before + 1, 400):
            intake.feed(b"".join(messages[at : min(at + 400, before + 1)]))
            keeper.flush()
        keeper.end_journal()
        keeper.roll_up()
        begin = time.process_time()
        for number, message in enumerate(messages[before + 1 : before + 1 + LIVE], 1):
            intake.feed(message)
            keeper.flush()
            watermarks.update(keeper.newest_position())
            if rolls_up and number % WINDOW == 0:
                keeper.end_journal()
                keeper.roll_up()
        seconds = time.process_time() - begin
        intake.close()
        follower.stdin.close()
        return seconds


def reading(folder: Path, begin_ms: int) -> Callable[[], float]:
    with OpenStore(folder / "many") as store:
        for number in range(SESSIONS):
            intake = Intake(store.keeper)
            intake.feed(stream.encode(stream.Header(f"vm-{number}", begin_ms, (), 1000, SERIES)))
            ticks = (stream.Tick(begin_ms + i * 1000, bytes(8 * WIDTH)) for i in range(1, 601))
            intake.feed(b"".join(map(stream.encode, ticks)))
            store.keeper.flush()
            intake.close()
    sessions = Store(folder / "many").sessions()

    def read() -> float:
        begin = time.process_time()
        rows = sum(session.rows().t_ms.size for session in sessions)
        assert rows == SESSIONS * 600
        return time.process_time() - begin

    return read


def rrd(rrdtool: Path, begin_ms: int, at_once: int) -> float:
    """rrdtool in its pipe mode, with the same sixteen series and tiers."""
    begin_s = begin_ms // 1000
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "bench.rrd"
        sources = [f"DS:s{number}:GAUGE:300:U:U" for number in range(WIDTH)]
        archives = [
            f"RRA:{function}:0.5:{tier.interval_ms // 1000}:{tier.span_ms // tier.interval_ms}"
            for number, tier in enumerate(DEFAULT_TIERS)
            for function in (("AVERAGE", "MIN", "MAX") if number else ("AVERAGE",))
        ]
        subprocess.run(
            [rrdtool, "create", file, "--start", str(begin_s), "--step", "1", *sources, *archives], check=True
        )
        ticks = [
            ":".join(map(str, (begin_s + i, *(i * 1.25 + column for column in range(WIDTH)))))
            for i in range(1, RRD + 1)
        ]
        calls = Path(name) / "calls"
        calls.write_text(
            "".join(f"update {file} {' '.join(ticks[at : at + at_once])}\n" for at in range(0, RRD, at_once))
        )
        with calls.open("rb") as lines:
            seconds = of_child([rrdtool, "-"], stdin=lines)
        last = subprocess.run([rrdtool, "last", file], capture_output=True, check=True, text=True).stdout
        assert int(last) == begin_s + RRD, "rrdtool did not take all ticks"
        return seconds


if __name__ == "__main__":
    sys.exit(main())
