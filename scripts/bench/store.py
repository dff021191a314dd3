"""The cost of rondo-store, beside rrdtool with the same tiers, in one run.

CPU time, user and system, of the working process; the median of five runs. A sample is one value of one
series; a tick has the catalogue's sixteen.
"""

from __future__ import annotations

import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.measure import command_cpu_s, program
from bench.report import Peer, Report, run_part
from devtools.programs import fetch
from rondo_tools import stream
from rondo_tools.catalog import SERIES
from rondo_tools.store.format.tiers import DEFAULT_TIERS
from rondo_tools.store.intake import Intake
from rondo_tools.store.opened import OpenStore
from rondo_tools.store.reader import Store
from rondo_tools.store.watermarks import Watermarks

RUNS = 5
WIDTH = len(SERIES)
RECORDED = 600_000  # ticks in a file: a week
LIVE = 20_000
RRD = 20_000
SESSIONS = 1000
WINDOW = 300  # ticks of a journal
BAR_FILE_S, BAR_READ_S = 12.0, 25.0  # million samples a CPU-second
BAR_LIVE, BAR_FILE = 4.5, 5.0  # times rrdtool


def main(report: Report, _: list[str]) -> None:
    begin_ms = time.time_ns() // 1_000_000_000 * 1000 - RECORDED * 1000
    with tempfile.TemporaryDirectory(prefix="rondo-bench-") as name:
        folder = Path(name)
        recorded = folder / "recorded.stream"
        messages = record(begin_ms, RECORDED)
        recorded.write_bytes(b"".join(messages))
        single, bulk = peers(report, begin_ms)
        live = cost(LIVE, lambda: one_at_a_time(messages, rolls_up=True))
        report.row("a live tick, a roll-up of its one session each 300 ticks included", live, "µs",
                   peer=single, times=BAR_LIVE)  # fmt: skip
        live = cost(LIVE, lambda: one_at_a_time(messages))
        report.row("a live tick of one session, without roll-up", live, "µs", peer=single)
        late = cost(LIVE, lambda: one_at_a_time(messages, RECORDED - LIVE))
        report.row("the same, after a week of ticks", late, "µs", peer=single)
        file = cost(RECORDED, lambda: from_file(recorded))
        report.row("a tick of a recorded week from a file, start-up and roll-ups included", file, "µs",
                   peer=bulk, times=BAR_FILE)  # fmt: skip
        report.row("a recorded week from a file", WIDTH / file, "M samples a CPU-second", at_least=BAR_FILE_S)
        read = cost(SESSIONS * 600, reading(folder, begin_ms))
        report.row(f"reading ten minutes of {SESSIONS:,} sessions", WIDTH / read, "M samples a CPU-second",
                   at_least=BAR_READ_S)  # fmt: skip


def peers(report: Report, begin_ms: int) -> tuple[Peer | None, Peer | None]:
    """rrdtool with one tick a call, and with sixty."""
    try:
        rrdtool = fetch("rrdtool")
    except LookupError as exc:
        report.note(f"no rrdtool to compare with: {exc}")
        return None, None
    return (
        Peer("rrdtool, a tick a call", cost(RRD, lambda: rrd(rrdtool, begin_ms, 1))),
        Peer("rrdtool, 60 ticks a call", cost(RRD, lambda: rrd(rrdtool, begin_ms, 60))),
    )


def record(begin_ms: int, count: int) -> list[bytes]:
    """A stream of one session with changing values, message by message."""
    header = stream.Header("bench", begin_ms, (), 1000, SERIES)
    pack = struct.Struct(f"<{WIDTH}d").pack
    return [stream.encode(header)] + [
        stream.encode(stream.Tick(begin_ms + i * 1000, pack(*(i * 1.25 + column for column in range(WIDTH)))))
        for i in range(1, count + 1)
    ]


def cost(ticks: int, run: Callable[[], float]) -> float:
    """Microseconds a tick; the median of the runs."""
    return statistics.median(run() for _ in range(RUNS)) / ticks * 1e6


def from_file(recorded: Path) -> float:
    with tempfile.TemporaryDirectory() as store:
        return command_cpu_s(program("rondo-store", store, "-q"), recorded)


def one_at_a_time(messages: list[bytes], before: int = 0, *, rolls_up: bool = False) -> float:
    """The work of rondo-store for live ticks: feed, write, report; without the system call that reads.

    The session has `before` ticks already. With `rolls_up`, a journal ends every five minutes.
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
        seconds = command_cpu_s([str(rrdtool), "-"], calls)
        last = subprocess.run([rrdtool, "last", file], capture_output=True, check=True, text=True).stdout
        assert int(last) == begin_s + RRD, "rrdtool did not take all ticks"
        return seconds


if __name__ == "__main__":
    sys.exit(run_part(main))
