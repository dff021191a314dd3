"""Power cuts, from producers to a receiver: ticks acknowledged with --sync always arrive, and once.

A host of several VMs, its rondo-store and its rondo-push, in one process over a disk that records syncs.
Between any two steps one of them is killed, or all by a power cut; then the disk has all synced data, and
any part of the rest. Some producers are on other hosts: they keep running and resend. The cursor is kept.
The receiver counts duplicates and missing samples.

RONDO_TEST_SEED is the first history's seed: ``RONDO_TEST_SEED=17`` with ``-k 'cuts[17]'`` replays number 17.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from devtools.receivers.receiver import Key, Receiver, bits
from rondo_tools import stream
from rondo_tools.catalog import GAUGE, Series
from rondo_tools.errors import PushError
from rondo_tools.prom.samples import STALE_NAN
from rondo_tools.push.encoding.body import Body
from rondo_tools.push.model import Answer
from rondo_tools.store.format.tiers import parse_tiers
from rondo_tools.store.intake import Intake
from rondo_tools.store.opened import OpenStore
from rondo_tools.store.reader import Store
from rondo_tools.store.sync import NEVER, Policy
from rondo_tools.stream import End, Header, Tick
from tests.support.faulty_disk import FaultyDisk, KillError
from tests.support.push.receivers import T0, TWO_SERIES, Crash, Scripted, header, labels_of, push_once, ticks

FIRST = int(os.environ.get("RONDO_TEST_SEED", "0"))
CUTS, LONG_CUTS = 15, 200  # of `make test`; and of `make test-long`, the former among them
ALWAYS = Policy(True, 0)
TIERS = parse_tiers("1s:10m,10s:6h,5m:7d")
MORE_SERIES = (*TWO_SERIES, Series("load", (), GAUGE, "", "It came later."))

Sample = tuple[Key, int]


@dataclass
class Life:
    """A session and its producer: all messages, and how many of them are acknowledged."""

    instance: str
    start_ms: int
    is_remote: bool
    series: tuple[Series, ...] = ()
    messages: list[bytes] = field(default_factory=list)
    ticks: list[tuple[int, dict[Key, int]]] = field(default_factory=list)  # by message, its samples
    sent: int = 0
    acknowledged: int = 0
    is_over: bool = False  # it ended, or its producer died
    is_dead: bool = False


class CountingSender(Scripted):
    """Records the samples of requests whose answer the push may not have saved."""

    def __init__(self, receiver: Receiver, script: list[str], unclear: set[Sample]) -> None:
        super().__init__(receiver, script)
        self.open: set[Sample] = set()
        self.unclear = unclear

    def send(self, body: Body) -> Answer:
        self.open = {
            (tuple((label.name, label.value) for label in series.labels), sample.timestamp)
            for series in body.request().timeseries
            for sample in series.samples
        }
        answer = super().send(body)
        if answer.unclear:
            self.unclear |= self.open
        return answer


class CountingReceiver(Receiver):
    """Counts how often each sample was accepted."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: dict[Sample, int] = {}

    def take(self, body: bytes) -> str | None:
        words = super().take(body)
        request = self.requests.pop()
        if words is None:
            for series in request.timeseries:
                labels = tuple((label.name, label.value) for label in series.labels)
                for sample in series.samples:
                    self.taken[labels, sample.timestamp] = self.taken.get((labels, sample.timestamp), 0) + 1
        return words


class Host:
    """The whole host, and the time."""

    def __init__(self, path: Path, seed: int, disk: FaultyDisk) -> None:
        self.path, self.disk = path, disk
        self.random = random.Random(seed)
        self.sync = self.random.choice((ALWAYS, ALWAYS, NEVER))
        self.now_ms = T0
        self.lives: list[Life] = []
        self.receiver = CountingReceiver()
        self.unclear: set[Sample] = set()
        self.may_be_lost: set[Sample] = set()
        self.store: OpenStore | None = None
        self.intakes: dict[int, Intake] = {}
        self.cuts = 0
        self.vms = [
            (f"vm-{number}", self.random.random() < 0.5) for number in range(self.random.randint(1, 4))
        ]

    # --- time

    def wait(self, some_ms: int) -> None:
        self.now_ms += some_ms

    def open(self) -> None:
        self.store = OpenStore(
            self.path, TIERS, sync=self.sync, now_ms=lambda: self.now_ms, clock=lambda: self.now_ms / 1000,
            max_bytes=1 << 30,
        )  # fmt: skip
        self.intakes = {}
        for life in self.lives:
            if not life.is_over:
                life.sent = 0

    def close(self) -> None:
        """End the process, wherever it is."""
        store, self.store = self.store, None
        if store is not None:
            with suppress(KillError):
                store.close()
        self.disk.kill_in = None

    # --- producers

    def begin(self, instance: str, is_remote: bool) -> Life:
        life = Life(instance, self.now_ms, is_remote)
        self.lives.append(life)
        self.header(life)
        return life

    def emit(self, life: Life, message: Header | Tick | End, samples: dict[Key, int] | None = None) -> None:
        life.messages.append(stream.encode(message))
        life.ticks.append((message.t_ms if isinstance(message, Tick) else 0, samples or {}))

    def end(self, life: Life) -> None:
        self.emit(life, End("poweroff", self.now_ms + 1))
        life.is_over = True

    def header(self, life: Life) -> None:
        life.series = self.random.choice((TWO_SERIES, MORE_SERIES))
        self.emit(life, header(life.instance, life.start_ms, life.series))

    def tick(self, life: Life, t_ms: int) -> None:
        values = [self.random.uniform(-1e6, 1e6) for _ in life.series]
        keys = labels_of(header(life.instance, life.start_ms, life.series))
        (one,) = ticks((t_ms, values))
        self.emit(life, one, dict(zip(keys, map(bits, values), strict=True)))

    def grow(self) -> None:
        """A few seconds of all VMs."""
        seconds = self.random.randint(1, 12)
        for instance, is_remote in self.vms:
            life = next((one for one in self.lives if one.instance == instance and not one.is_over), None)
            if life is None:
                life = self.begin(instance, is_remote)
            if len(life.messages) > 500 or self.random.random() < 0.1:
                self.end(life)
                continue
            if self.random.random() < 0.1:
                self.header(life)
            for second in range(1, seconds + 1):
                if self.random.random() < 0.95:
                    self.tick(life, self.now_ms + 1000 * second)
        self.wait(1000 * (seconds + 1))

    def deliver(self) -> None:
        """One turn of the store: each producer sends its backlog, or a part of it."""
        assert self.store is not None
        fed = []
        for number, life in enumerate(self.lives):
            if life.is_dead or (life.is_over and life.acknowledged == len(life.messages)):
                continue
            upto = len(life.messages)
            if not life.is_over and self.random.random() < 0.3:
                upto = self.random.randint(life.sent, upto)
            if number not in self.intakes:
                life.sent, self.intakes[number] = 0, Intake(self.store.keeper)
            self.intakes[number].feed(b"".join(life.messages[life.sent : upto]))
            life.sent = upto
            fed.append((life, upto))
        self.store.keeper.flush()
        for life, upto in fed:
            life.acknowledged = max(life.acknowledged, upto)

    # --- events

    def keep_house(self) -> None:
        assert self.store is not None
        self.store.keeper.end_journal()
        self.store.keep_house()

    def give_up(self) -> None:
        assert self.store is not None
        self.store.keeper.give_up_gone()
        self.store.keeper.flush()

    def push(self) -> None:
        words = ["ok", "ok", "refused", "lost", "unanswered", "crash", "crash-after"]
        script = self.random.choices(words, [20, 20, 1, 1, 1, 1, 1], k=30)
        self.push_with(script)

    def push_with(self, script: list[str]) -> None:
        sender = CountingSender(self.receiver, script, self.unclear)
        try:
            push_once(
                self.path, sender, now_ms=self.now_ms, max_samples=self.random.choice((10, 100, 10_000))
            )
        except PushError:
            pass
        except (Crash, KillError):
            self.unclear |= sender.open
            raise

    def cut(self) -> None:
        """A power cut ends all processes, and the producers on this host."""
        self.cuts += 1
        self.close()
        self.disk.cut_power()
        for life in self.lives:
            if not life.is_remote:
                life.is_over = life.is_dead = True
                kept = life.acknowledged if self.sync is ALWAYS else 0
                self.may_be_lost |= {(key, t) for t, some in life.ticks[kept:] for key in some}
            elif self.sync is not ALWAYS:
                self.may_be_lost |= {(key, t) for t, some in life.ticks for key in some}
        self.wait(20_000)

    def step(self) -> None:
        """An event, and perhaps a kill during it."""
        steps: list[tuple[Callable[[], object], float]] = [
            (self.grow, 6), (self.deliver, 8), (self.push, 4), (self.keep_house, 1),
            (self.give_up, 1), (lambda: self.wait(self.random.choice((30_000, 300_000))), 0.5),
        ]  # fmt: skip
        if self.random.random() < 0.25:
            self.disk.kill_in = self.random.choice((0, 1, 2, 3, 5, 8, 13, 30))
        what = self.random.choices([one for one, _ in steps], [weight for _, weight in steps])[0]
        try:
            if self.store is None:
                self.open()
            what()
        except Crash:
            pass
        except KillError:
            if self.random.random() < 0.6:
                self.cut()
            else:
                self.close()
        self.disk.kill_in = None

    def play(self) -> None:
        self.open()
        self.grow()
        self.deliver()
        self.push_with([])  # a first delivery passes over old ticks; the test is about later ones
        for _ in range(self.random.choice((40, 120))):
            before = self.cuts
            self.step()
            if self.random.random() < 0.03:
                self.cut()
            if self.cuts > before:
                self.check_served()
        if self.cuts == 0:
            self.cut()
        if self.store is None:
            self.open()
        for life in self.lives:
            if not life.is_over:
                self.end(life)
        self.deliver()
        for _ in range(3):
            self.push_with([])
        self.keep_house()
        self.push_with([])
        self.check_served()
        self.close()

    # --- checks

    def check_served(self) -> None:
        """A reader sees only ticks that were sent; and the store has the receiver's latest samples."""
        if not (self.path / "store.json").exists():
            return
        truth, found = self.truth(), set[Sample]()
        for session in Store(self.path).sessions():
            rows = session.rows()
            keys = labels_of(session.header)
            for t_ms, values in zip(rows.t_ms.tolist(), rows.values.tolist(), strict=True):
                for key, value in zip(keys, values, strict=True):
                    assert bits(value) in (STALE_NAN, truth.get((key, t_ms)))
                    found.add((key, t_ms))
        got = self.receiver.samples.items()
        late = {(key, t) for key, samples in got for t in samples if t > self.now_ms - TIERS[0].span_ms}
        assert late & truth.keys() <= found, "no sample leaves the host before its disk has it"

    def truth(self) -> dict[Sample, int]:
        return {
            (key, t): value for life in self.lives for t, some in life.ticks for key, value in some.items()
        }

    def check(self) -> None:
        truth = self.truth()
        got = {
            (key, t_ms): value
            for key, samples in self.receiver.samples.items()
            for t_ms, value in samples.items()
            if value != STALE_NAN
        }
        assert got.items() <= truth.items()
        missing = truth.keys() - got.keys()
        assert missing <= self.may_be_lost, sorted((t, key) for key, t in missing - self.may_be_lost)[:5]
        twice = {sample for sample, count in self.receiver.taken.items() if count > 1 and sample in truth}
        assert twice <= self.unclear, len(twice - self.unclear)


@pytest.mark.heavy
@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(seed, marks=[pytest.mark.long] if seed - FIRST >= CUTS else [])
        for seed in range(FIRST, FIRST + LONG_CUTS)
    ],
)
def test_power_cuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    disk = FaultyDisk(tmp_path / "store", seed, tears=True)
    with disk.installed(monkeypatch):
        host = Host(tmp_path / "store", seed, disk)
        host.play()
        host.check()
