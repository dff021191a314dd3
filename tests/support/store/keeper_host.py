"""A keeper to test, and the streams to feed it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rondo_tools import stream
from rondo_tools.store.folder import Folder
from rondo_tools.store.format.records import Labels
from rondo_tools.store.format.schema import Schema, schema_of
from rondo_tools.store.format.state import State
from rondo_tools.store.format.tiers import Tier
from rondo_tools.store.intake import Counts, Intake
from rondo_tools.store.keeper import Keeper
from rondo_tools.store.live import LeftOpen
from rondo_tools.store.remembered import Remembered
from rondo_tools.store.sync import NEVER, Policy
from tests.support.store.journal_truth import NOW_MS, SERIES, START_MS, read_journals

ALWAYS = Policy(True, 0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Carried(NamedTuple):
    """An open session in the carry."""

    instance: str
    start_ms: int
    interval_ms: int
    labels: Labels
    last_ms: int
    schema: Schema


def keeper(
    path: Path,
    clock: Clock | None = None,
    carried: Iterable[LeftOpen] = (),
    tiers: tuple[Tier, ...] | None = None,
    *,
    state: State | None = None,
    remembered: Remembered | None = None,
    sync: Policy = NEVER,
) -> Keeper:
    left = [
        Carried(one.instance, one.start_ms, one.interval_ms, one.labels, one.last_ms, schema_of(SERIES[0]))
        for one in carried
    ]
    return Keeper(
        Folder(path, tiers),
        carried=left,
        now_ms=lambda: NOW_MS,
        clock=clock or Clock(),
        state=state,
        remembered=remembered,
        sync=sync,
    )


def header(instance: str = "vm-1", start_ms: int = START_MS, kind: int = 0, interval_ms: int = 1000) -> bytes:
    return stream.encode(stream.Header(instance, start_ms, (("zone", "a"),), interval_ms, SERIES[kind]))


def ticks(begin: int, end: int, kind: int = 0, start_ms: int = START_MS) -> bytes:
    return b"".join(
        stream.encode(stream.Tick(start_ms + 1000 * n, np.full(len(SERIES[kind]), float(n)).tobytes()))
        for n in range(begin, end)
    )


def end(reason: str = "poweroff", t_ms: int = NOW_MS) -> bytes:
    return stream.encode(stream.End(reason, t_ms))


def times(path: Path, instance: str = "vm-1", start_ms: int = START_MS) -> list[int]:
    """The numbers of a session's ticks in the journals."""
    return [
        (t_ms - start_ms) // 1000 for t_ms, _, _ in read_journals(path).rows.get((instance, start_ms), [])
    ]


def store(kept: Keeper, data: bytes, counts: Counts | None = None) -> Intake:
    intake = Intake(kept, counts)
    intake.feed(data)
    kept.flush()
    return intake
