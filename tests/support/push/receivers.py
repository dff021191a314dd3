"""Receivers for the tests of rondo-push, and stores to deliver."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from devtools.receivers.receiver import HOUR_MS, Key, Receiver, Samples, bits
from rondo_tools.catalog import GAUGE, Series
from rondo_tools.prom.labels import sent_labels
from rondo_tools.prom.samples import STALE_NAN
from rondo_tools.push.cursor import Cursor
from rondo_tools.push.drain import Drain
from rondo_tools.push.encoding.body import Body
from rondo_tools.push.model import Answer, Outcome
from rondo_tools.push.pusher import Pusher
from rondo_tools.push.self_metrics import SelfMetrics, Tally
from rondo_tools.store.folder import Folder
from rondo_tools.store.format import frames
from rondo_tools.store.format.frame_file import FrameFile
from rondo_tools.store.format.layout import JOURNALS, Layout
from rondo_tools.store.format.opened import open_store
from rondo_tools.store.format.records import SessionRecord, ends_in, sessions_in
from rondo_tools.store.format.schema import Schema
from rondo_tools.store.format.tiers import parse_tiers
from rondo_tools.store.keeper import Keeper
from rondo_tools.stream import End, Header, Tick

T0 = 1_732_300_000_000
TWO_SERIES = (
    Series("cpu_total", (("core", "0"),), "counter", "exits", "Of core 0."),
    Series("heat", (), GAUGE, "kelvin", "How hot it is."),
)


def of_bits(value: int) -> float:
    (number,) = struct.unpack("<d", struct.pack("<Q", value))
    return float(number)


def header(instance: str = "vm-1", start_ms: int = T0 - 500, series: Sequence[Series] = TWO_SERIES) -> Header:
    return Header(instance, start_ms, (("zone", "a"),), 1000, tuple(series))


def ticks(*rows: tuple[int, Sequence[float]]) -> list[Tick]:
    return [Tick(t_ms, struct.pack(f"<{len(values)}d", *values)) for t_ms, values in rows]


def seconds(count: int, start_ms: int = T0, width: int = 2) -> list[Tick]:
    """A tick a second; no two values are equal."""
    return ticks(*((start_ms + 1000 * i, [i + k / 100 for k in range(width)]) for i in range(count)))


def fill(
    path: Path, head: Header, rows: Iterable[Tick], end: str | None = None, tiers: str = "1s:1000h"
) -> None:
    """Write a session, or more of one, into a new journal of the store at `path`."""
    with Keeper(Folder(path, parse_tiers(tiers)), now_ms=lambda: T0 + 10 * HOUR_MS) as keeper:
        session = keeper.begin(head)
        rows = list(rows)
        for tick in rows:
            keeper.append(session, *tick)
        if end is not None:
            keeper.end(session, End(end, rows[-1].t_ms if rows else head.start_ms))
        keeper.flush()


def expected(path: Path, *, with_ends: bool = True) -> Samples:
    """The samples of a receiver after a whole store was delivered, for sessions apart in time."""
    samples: Samples = {}
    ends: dict[tuple[str, int], tuple[tuple[Key, ...], int]] = {}
    layout = Layout(path)
    for number in layout.numbers(JOURNALS):
        with FrameFile(layout.file(JOURNALS, number)) as file:
            sessions: dict[int, SessionRecord] = {}
            for _, head, payload in file.frames():
                if head.kind == frames.SESSION:
                    sessions.update((one.number, one) for one in sessions_in(payload))
                elif head.kind == frames.END:
                    for ended in ends_in(payload):
                        record = sessions[ended.number]
                        ends[record.key] = _labels(record, file.schemas[head.schema]), ended.last_ms
                elif head.kind == frames.ROWS:
                    rows, schema = file.rows(head, payload), file.schemas[head.schema]
                    assert rows is not None
                    for row in rows:
                        all_labels = _labels(sessions[row["session"]], schema)
                        for labels, value in zip(all_labels, row["values"].tolist(), strict=True):
                            samples.setdefault(labels, {})[int(row["t_ms"])] = bits(value)
    if with_ends:
        for all_labels, last_ms in ends.values():
            for labels in all_labels:
                samples[labels][last_ms + 1] = STALE_NAN
    return samples


def _labels(record: SessionRecord, schema: Schema) -> tuple[Key, ...]:
    return labels_of(
        Header(record.instance, record.start_ms, record.labels, record.interval_ms, schema.series)
    )


def drain_of(
    path: Path,
    labels: Callable[[Header], tuple[Key, ...]] | None = None,
    max_samples: int = 10_000,
) -> Drain:
    """The drain of a store, as rondo-push opens it."""
    store = open_store(path)
    return Drain(store.layout, store.tiers, labels or labels_of, max_samples)


def labels_of(head: Header) -> tuple[Key, ...]:
    return sent_labels(head, "rondo-vmm", {})


class Scripted:
    """A transport to a Receiver over a faulty network: one word of the script for each attempt.

    ok; refused (no connection); lost (never arrives, a time-out); unanswered (arrives, but the
    answer is lost); crash and crash-after (we die before, or after, it arrives). After the script
    everything is ok. `max_samples` is the receiver's limit for a request.
    """

    def __init__(self, receiver: Receiver, script: Iterable[str] = (), max_samples: int = 10**9) -> None:
        self.receiver = receiver
        self.script = iter(script)
        self.attempts = 0
        self.protocol = "1.0"
        self.max_samples = max_samples

    def send(self, body: Body) -> Answer:
        self.attempts += 1
        word = next(self.script, "ok")
        if word == "refused":
            return Answer(Outcome.RETRY, "connection refused")
        if word == "lost":
            return Answer(Outcome.RETRY, "time-out", unclear=True)
        if word == "crash":
            raise Crash
        if sum(len(series.samples) for series in body.request().timeseries) > self.max_samples:
            return Answer(Outcome.TOO_LARGE, "too large", status=413)
        words = self.receiver.take(body.data)
        if word == "unanswered":
            return Answer(Outcome.RETRY, "connection reset", unclear=True)
        if word == "crash-after":
            raise Crash
        if words is None:
            return Answer(Outcome.ACCEPTED, status=204)
        return Answer(Outcome.REFUSED, words, status=400)


class Crash(BaseException):
    """The process is killed here."""


def push_once(
    path: Path,
    sender: Scripted,
    *,
    now_ms: int = T0 + HOUR_MS,
    max_samples: int = 10_000,
    with_health: bool = False,
    tally: Tally | None = None,
    tier: int = 0,
) -> Tally:
    """One run of rondo-push, without its pauses."""
    tally = tally or Tally()
    with Cursor(path, "prometheus") as cursor:
        cursor.belongs_to(open_store(path).store_id, tier, "")
        Pusher(
            drain_of(path, max_samples=max_samples),
            cursor,
            sender,
            tally,
            pause=lambda seconds: True,
            now_ms=lambda: now_ms,
            jitter=random.Random(1).random,
            health=SelfMetrics(tally, "prometheus", "rondo-vmm", {}) if with_health else None,
        ).push()
    return tally
