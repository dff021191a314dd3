"""The cost of a tick by the age of its session, and by the number of sessions: is it flat?

CPU time, user and system, of a live tick of the catalogue's sixteen series in rondo-store: decode, write,
report, and roll up every five minutes; without the system call that reads. Time is simulated. All ages, and
all numbers of sessions, are measured alternately, five minutes of their time each, in several rounds: the
median. So other work of the machine affects all alike.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.race import BEGIN_MS, messages
from bench.report import Report, Row, run_part
from rondo_tools import stream
from rondo_tools.catalog import SERIES
from rondo_tools.store.format.tiers import parse_tiers
from rondo_tools.store.intake import Intake
from rondo_tools.store.opened import OpenStore
from rondo_tools.store.watermarks import Watermarks

HOUR, DAY = 3600, 86_400
AGES = {
    "1 h": HOUR,
    "6 h": 6 * HOUR,
    "1 d": DAY,
    "2 d": 2 * DAY,
    "4 d": 4 * DAY,
    "7 d": 7 * DAY,
    "14 d": 14 * DAY,
}
AGE_ROUNDS = 100
SESSIONS = (1, 10, 100, 1000)
SESSION_ROUNDS = 12
WINDOW = 300  # ticks of one measurement, which ends with the roll-up of all tiers
TOGETHER = 9000  # the least number of ticks of all sessions together
BULK = 4000  # ticks fed at once to reach an age
TICK = len(messages(0, 1))

AGE, AT_ONCE = "a live tick, age of its session: ", "a live tick, sessions at once: "

Figures = dict[str, float]
"""Microseconds a tick, by age, or by the number of sessions."""


def main(report: Report, arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="bench.py flat", description="Measure whether a tick's cost is flat."
    )
    parser.parse_args(arguments)
    by_age = aging()
    for name, cost in by_age.items():
        report.row(f"{AGE}{name}", cost, "µs of CPU")
    for name, cost in side_by_side().items():
        report.row(f"{AT_ONCE}{name}", cost, "µs of CPU")
    report.row(
        "a tick at 7 d, beside one at 1 h", by_age["7 d"] / by_age["1 h"], "times as much", at_most=1.1
    )


def aging() -> Figures:
    """Measure a session of each age: fed in bulk up to that age, then live."""
    with tempfile.TemporaryDirectory(prefix="rondo-bench-") as folder:
        stores = [_opened(f"{folder}/{age}") for age in AGES.values()]
        sessions = [_begin(store, name) for store, name in zip(stores, AGES, strict=True)]
        for store, session, age in zip(stores, sessions, AGES.values(), strict=True):
            for first in range(0, age, BULK):
                session.feed(messages(first, min(BULK, age - first)))
                store.keeper.flush()
                store.keeper.roll_up()
            store.keeper.end_journal()
            store.keeper.roll_up()
        costs: dict[str, list[float]] = {name: [] for name in AGES}
        for at in range(0, AGE_ROUNDS * WINDOW, WINDOW):
            for store, session, (name, age) in zip(stores, sessions, AGES.items(), strict=True):
                costs[name].append(_live(store, [session], age + at, WINDOW))
        for store, session in zip(stores, sessions, strict=True):
            session.close()
            store.close()
    return {name: statistics.median(some) for name, some in costs.items()}


def side_by_side() -> Figures:
    """Measure different numbers of sessions, a tick of each by turns, each number in its own store."""
    with tempfile.TemporaryDirectory(prefix="rondo-bench-") as folder:
        stores = {count: _opened(f"{folder}/{count}") for count in SESSIONS}
        groups = {
            count: [_begin(store, f"{count}-{one}") for one in range(count)]
            for count, store in stores.items()
        }
        first = dict.fromkeys(groups, 0)
        costs: dict[int, list[float]] = {count: [] for count in groups}
        for _ in range(SESSION_ROUNDS):
            for count, sessions in groups.items():
                length = max(WINDOW, TOGETHER // count)
                costs[count].append(_live(stores[count], sessions, first[count], length))
                first[count] += length
        for count, store in stores.items():
            for session in groups[count]:
                session.close()
            store.close()
    return {f"{count:,}": statistics.median(some) for count, some in costs.items()}


def _opened(path: str) -> OpenStore:
    return OpenStore(path, parse_tiers("1s:10m,10s:6h,5m:28d"), now_ms=lambda: BEGIN_MS + 16 * DAY * 1000)


def _begin(store: OpenStore, instance: str) -> Intake:
    intake = Intake(store.keeper)
    intake.feed(stream.encode(stream.Header(instance, BEGIN_MS, (), 1000, SERIES)))
    return intake


def _live(store: OpenStore, intakes: list[Intake], first: int, count: int) -> float:
    """µs a tick, for `count` ticks of each session; each turn has a tick of all, and one write."""
    data, keeper = messages(first, count), store.keeper
    read, write = os.pipe()
    watermarks = Watermarks(write)
    try:
        begin = time.process_time()
        for at in range(0, count * TICK, TICK):
            message = data[at : at + TICK]
            for intake in intakes:
                intake.feed(message)
            keeper.flush()
            watermarks.update(keeper.newest_position())
            os.read(read, 4096)
        keeper.end_journal()
        keeper.roll_up()
        return (time.process_time() - begin) / count / len(intakes) * 1e6
    finally:
        os.close(read)
        os.close(write)


def draw(rows: Sequence[Row], picture: Path) -> None:
    """Draw both curves in one picture, with scales from zero."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    by_age, by_count = (
        {row.name.removeprefix(what): row.value for row in rows if row.name.startswith(what)}
        for what in (AGE, AT_ONCE)
    )
    style = {"svg.fonttype": "none", "svg.hashsalt": "rondo", "font.size": 10}
    with mpl.rc_context(style):
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        top = 1.3 * max(*by_age.values(), *by_count.values())
        for axes, figures, what in zip(
            figure.subplots(1, 2), (by_age, by_count), ("age of the session", "sessions"), strict=True
        ):
            axes.plot(list(figures), list(figures.values()), marker="o", linewidth=1.5)
            axes.set(xlabel=what, ylabel="µs of CPU a tick", ylim=(0, top))
            axes.grid(axis="y", linewidth=0.4)
            axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(picture, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(run_part(main))
