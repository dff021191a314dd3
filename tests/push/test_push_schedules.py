"""Two hundred histories with all faults at once: each good sample arrives exactly once.

Lost answers, before and after the commit; interim answers (1xx); answers and bodies cut short at any
byte; rate limits; 503; a kill between any two steps; a full disk under the cursor; a cursor restored
from a copy; series, metrics, instances and single samples that are refused for good; samples too old
for the receiver; 1.0 and 2.0, and receivers of 2.0 that write the good samples of a request. All requests
go over loopback, by rondo's own transport, except those without a connection.

RONDO_TEST_SEED is the first history's seed: ``RONDO_TEST_SEED=17`` with ``-k 'once[17]'`` replays number 17.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from devtools.http_server import Reply, http_server
from devtools.receivers.receiver import HOUR_MS, Key, Receiver, Samples
from rondo_tools.catalog import Series
from rondo_tools.errors import PushError
from rondo_tools.prom.proto.remote_write_v1_pb2 import WriteRequest
from rondo_tools.push.cursor import Cursor
from rondo_tools.push.encoding import V1, V2
from rondo_tools.push.encoding.body import HEADERS, Body
from rondo_tools.push.http.negotiate import Negotiator
from rondo_tools.push.http.transport import WRITTEN, Transport
from rondo_tools.push.model import Answer, Outcome
from rondo_tools.push.pusher import Pusher
from rondo_tools.push.self_metrics import Tally
from tests.support.needs import PATIENCE_S
from tests.support.push.raw_server import Peer, RawServer
from tests.support.push.receivers import T0, Crash, drain_of, expected, fill, header, seconds

ROOT = Path(__file__).resolve().parents[2]
FIRST = int(os.environ.get("RONDO_TEST_SEED", "0"))
INTERIM = b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
CURSOR = "cursor_prometheus.json"
OTHER: Key = (("job", "other"),)  # another sender's series
SERIES = (
    *(Series("cpu_total", (("core", core),), "counter", "seconds", "Of a core.") for core in "01"),
    *(Series(name, (), "gauge", "", "") for name in ("heat", "load")),
)


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are killed here, but not the machine: syncs of thousands of saves are not needed."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


class Rules:
    """The series and samples that the receiver refuses for good, drawn from a seed."""

    def __init__(self, chance: random.Random, instances: list[str]) -> None:
        self.series: set[str] = set()
        self.samples: dict[str, tuple[int, int]] = {}  # of an instance, one series and second
        for _ in range(chance.choice([0, 1, 1, 2])):
            kind = chance.choice(["series", "metric", "instance", "samples"])
            instance, number = chance.choice(instances), chance.randrange(len(SERIES))
            if kind == "series":
                self.series.add(f"{instance} {SERIES[number]}")
            elif kind == "metric":
                self.series |= {f"{one} {SERIES[number]}" for one in instances}
            elif kind == "instance":
                self.series |= {f"{instance} {series}" for series in SERIES}
            else:
                self.samples[instance] = number, chance.randrange(30)

    def __call__(self, labels: Key, t_ms: int) -> str | None:
        named = dict(labels)
        instance = named["instance"]
        own = tuple((name, named[name]) for name in ("core",) if name in named)
        series = str(Series(named["__name__"], own, "", "", ""))
        if f"{instance} {series}" in self.series:
            return "refused for good"
        number, second = self.samples.get(instance, (0, -1))
        return "no such sample" if (str(SERIES[number]), (t_ms - T0) // 1000) == (series, second) else None


class Network:
    """A transport whose every attempt may fail, and the endpoint behind it."""

    def __init__(self, receiver: Receiver, chance: random.Random, *, in_part: bool) -> None:
        self.receiver = receiver
        self.chance = chance
        self.in_part = in_part  # the receiver writes the good samples of a request
        self.trouble = 0.0  # the probability that an attempt fails
        self.kills = False
        self.limit = 10**9  # requests, before it answers 429
        self.attempts = 0
        self.tried: set[tuple[Key, int]] = set()  # samples that were in a refused request
        self.transport: Transport | None = None  # of the running process
        self._word = "ok"
        self._cut = 0.0  # the part of the answer that arrives, if it is cut short

    def send(self, data: bytes, protocol: str) -> Answer:
        assert self.transport is not None
        self.attempts += 1
        self.limit -= 1
        words = ["connection refused", "503", "lost", "unanswered", "interim", "cut short", "cut short"]
        words += ["kill", "kill after"] if self.kills else []
        self._word = self.chance.choice(words) if self.chance.random() < self.trouble else "ok"
        self._cut = self.chance.random()
        if self.limit < 0:
            self._word = "429"
        if self._word == "kill":
            raise Crash
        if self._word == "connection refused":
            return Answer(Outcome.RETRY, self._word)
        answer = self.transport.send(data, protocol)
        if self._word == "kill after":
            raise Crash
        return answer

    def handle(self, peer: Peer) -> None:
        """The endpoint's side of a connection."""
        while (head := peer.head()) is not None:
            kind = head[1]["content-type"]
            (protocol,) = (one for one, headers in HEADERS.items() if headers["Content-Type"] == kind)
            body = Body(peer.body(head[1]), protocol)
            if self._word == "lost":
                return
            if self._word in ("429", "503"):
                answer = f"HTTP/1.1 {self._word} Busy\r\nContent-Length: 0\r\n\r\n".encode()
            else:
                answer = self._take(body)
            if self._word == "unanswered":
                return
            if self._word == "interim" or (self._word == "cut short" and self._cut * 100 % 2 < 1):
                answer = INTERIM + answer
            if self._word == "cut short":
                peer.send(answer[: int(self._cut * len(answer))])
                return
            peer.send(answer)

    def _take(self, body: Body) -> bytes:
        request = body.request()
        samples = [(series, sample) for series in request.timeseries for sample in series.samples]
        if self.in_part:
            words, written = None, 0
            for series, sample in samples:
                one = WriteRequest()
                one.timeseries.add(labels=series.labels, samples=[sample])
                refusal = self._commit(one)
                words, written = refusal or words, written + (refusal is None)
        else:
            words = self._commit(request)
            written = 0 if words else len(samples)
        text = (words or "thank you").encode()
        head = f"HTTP/1.1 {400 if words else 200} So\r\nContent-Length: {len(text)}\r\n"
        if body.protocol == V2:
            head += f"{WRITTEN}: {written}\r\n"
        return f"{head}\r\n".encode() + text

    def _commit(self, request: WriteRequest) -> str | None:
        words = self.receiver.take_request(request)
        self.receiver.requests.clear()
        if words is not None:
            for series in request.timeseries:
                labels = tuple((label.name, label.value) for label in series.labels)
                self.tried.update((labels, sample.timestamp) for sample in series.samples)
        return words


class History:
    """A growing store, and rondo-push processes."""

    def __init__(self, path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.url = ""  # of the endpoint, while it listens
        self.chance = chance = random.Random(seed)
        self.names = [f"vm-{at}" for at in range(chance.randint(1, 4))]
        self.rules = Rules(chance, self.names)
        self.is_old = chance.random() < 0.25
        self.oldest_ms = T0 + 1000 * chance.randint(0, 40) if self.is_old else 0
        self.now_ms = self.oldest_ms + HOUR_MS if self.is_old else T0 + 100_000
        self.receiver = Receiver(self.rules)
        if self.is_old:  # another sender has current samples
            self.receiver.everything[OTHER] = {self.now_ms: 0}
        self.protocol = chance.choice([V1, V1, V2])
        in_part = self.protocol == V2 and chance.random() < 0.5
        self.network = Network(self.receiver, chance, in_part=in_part)
        self.max_samples = chance.choice([8, 30, 10_000])
        self.second = dict.fromkeys(self.names, 0)
        self.copies: list[bytes] = []
        self.tallies: list[Tally] = []
        self.is_plain = True  # no fault kept a process from counting its samples
        self.disk_is_full = False
        self.kills_at_save = False
        save = Cursor.save

        def saving(cursor: Cursor) -> None:
            if self.kills_at_save and chance.random() < 0.05:
                raise Crash
            if self.disk_is_full and chance.random() < 0.5:
                cursor.is_saved = False
                raise PushError("No space left on device")
            save(cursor)
            if self.kills_at_save and chance.random() < 0.05:
                raise Crash

        monkeypatch.setattr(Cursor, "save", saving)

    def grow(self) -> None:
        for name in self.names:
            if self.chance.random() < 0.8 or not self.second[name]:
                rows = self.chance.choice([1, 1, 2, 5])
                begin_ms = T0 + 1000 * self.second[name]
                start = T0 - 500 if self.chance.random() < 0.8 else begin_ms - 500
                end = "reset" if start != T0 - 500 and self.chance.random() < 0.5 else None
                head = header(name, start, SERIES)
                fill(self.path, head, seconds(rows, begin_ms, len(SERIES)), end)
                self.second[name] += rows + (2 if end else 0)

    def live(self, *, quiet: bool = False) -> int:
        """A process: some pushes through one cursor, until it is killed or ends. Returns its requests."""
        chance, network = self.chance, self.network
        network.trouble = 0.0 if quiet else chance.choice([0.0, 0.1, 0.3])
        network.kills = self.kills_at_save = not quiet and chance.random() < 0.5
        before, tally = network.attempts, Tally()
        self.tallies.append(tally)
        try:
            with (
                contextlib.closing(Transport(self.url, timeout_s=PATIENCE_S)) as network.transport,
                Cursor(self.path, "prometheus") as cursor,
            ):
                pusher = Pusher(
                    drain_of(self.path, max_samples=self.max_samples),
                    cursor,
                    Negotiator(network, self.protocol),
                    tally,
                    pause=lambda seconds: True,
                    now_ms=lambda: self.now_ms,
                    jitter=lambda: 0.5,
                    clock=lambda: float(chance.randrange(10**6)),
                )
                for _ in range(1 if quiet else chance.randint(1, 4)):
                    self.disk_is_full = not quiet and chance.random() < 0.15
                    network.limit = (
                        chance.choice([1, 2, 5, 20]) if not quiet and chance.random() < 0.3 else 10**9
                    )
                    try:
                        pusher.push()
                    except PushError:
                        assert not quiet
                    if not quiet and chance.random() < 0.3:
                        self.grow()
                self.is_plain &= cursor.is_saved  # else the next process settles the same samples again
        except Crash:
            self.is_plain = False
        finally:
            self.disk_is_full = False
        return network.attempts - before

    def put_back(self) -> None:
        """Copy the cursor, or restore an earlier copy; no fault happens at these moments."""
        file = self.path / CURSOR
        if self.is_old or not file.exists() or json.loads(file.read_text())["in_flight"] is not None:
            return
        if self.copies and self.chance.random() < 0.5:
            file.write_bytes(self.chance.choice(self.copies))
            self.is_plain = False
        else:
            self.copies.append(file.read_bytes())

    def play(self) -> None:
        with RawServer(self.network.handle) as server:
            self.url = server.url
            self._play()

    def _play(self) -> None:
        for _ in range(self.chance.randint(3, 8)):
            self.grow()
            for _ in range(self.chance.randint(1, 3)):
                self.live()
                if self.chance.random() < 0.4:
                    self.put_back()
        self.now_ms += 0 if self.is_old else 100_000
        for _ in range(10):
            if self.live(quiet=True) == 0:
                break
        else:
            pytest.fail("the delivery does not finish")

    def check(self) -> None:
        everything = expected(self.path)
        good: Samples = {
            labels: {t_ms: value for t_ms, value in samples.items() if self.is_good(labels, t_ms)}
            for labels, samples in everything.items()
        }
        got = {labels: samples for labels, samples in self.receiver.samples.items() if labels != OTHER}
        assert got == {labels: samples for labels, samples in good.items() if samples}
        missing = {
            (labels, t_ms)
            for labels, samples in everything.items()
            for t_ms in samples
            if t_ms not in got.get(labels, {})
        }
        assert missing <= self.network.tried
        if self.is_plain:
            counted = sum(tally.sent + tally.rejected + tally.unclear for tally in self.tallies)
            assert counted == sum(map(len, everything.values()))
            assert sum(tally.sent for tally in self.tallies) <= sum(map(len, good.values())) or self.is_old

    def is_good(self, labels: Key, t_ms: int) -> bool:
        return self.rules(labels, t_ms) is None and t_ms >= self.oldest_ms


def seeds(count: int, long: int) -> list[object]:
    """`count` seeds for `make test`, and `long` in all with those of `make test-long`."""
    marks = [[] if number < count else [pytest.mark.long] for number in range(long)]
    return [pytest.param(FIRST + number, marks=mark) for number, mark in enumerate(marks)]


@pytest.mark.parametrize("seed", seeds(10, long=200))
def test_each_good_sample_arrives_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    history = History(tmp_path, seed, monkeypatch)
    history.grow()
    history.play()
    history.check()


# --- the same with processes that are killed -----------------------------------------------------


@pytest.fixture
def running() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes; those that still run at the end of the test are killed."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize("seed", seeds(3, long=20))
def test_kill_9_in_the_middle_of_settling(
    tmp_path: Path, running: list[subprocess.Popen[bytes]], seed: int
) -> None:
    """rondo-push itself, killed at one of its requests again and again, before or after it arrives."""
    chance = random.Random(seed)
    start_ms = time.time_ns() // 1_000_000 - 120_000
    names = [f"vm-{at}" for at in range(chance.randint(2, 5))]
    bad = f"{chance.choice(names)} {chance.choice(SERIES).name}"
    rows = chance.randint(2, 10)
    for name in names:
        fill(tmp_path, header(name, start_ms - 500, SERIES), seconds(rows, start_ms, len(SERIES)), "reset")

    def refuses(labels: Key, t_ms: int) -> str | None:
        return "no" if f"{dict(labels)['instance']} {dict(labels)['__name__']}" == bad else None

    receiver, lock = Receiver(refuses), threading.Lock()
    kill_at = [chance.randint(1, 6) for _ in range(6)]
    is_after = [chance.random() < 0.5 for _ in kill_at]
    life, seen = 0, 0

    def answer(handler: http.server.BaseHTTPRequestHandler, body: bytes) -> Reply | None:
        nonlocal seen
        with lock:
            seen += 1
            is_last = life < len(kill_at) and seen == kill_at[life]
            words = None if is_last and not is_after[life] else receiver.take(body)
            if is_last:
                os.kill(running[-1].pid, signal.SIGKILL)  # not reaped yet, so the id is still its own
                return None
            return (204, {}, b"") if words is None else (400, {}, words.encode())

    with http_server(answer) as url:
        argv = [str(ROOT / "bin" / "rondo-push"), str(tmp_path), "--remote-write", url, "--no-health", "-q"]
        for lives in range(len(kill_at) + 1):
            life, seen = lives, 0
            running.append(subprocess.Popen([sys.executable, *argv], stdin=subprocess.DEVNULL))
            if running[-1].wait(PATIENCE_S) == 0:
                break
            assert running[-1].returncode == -signal.SIGKILL
    assert running[-1].returncode == 0
    everything = expected(tmp_path)
    assert receiver.samples == {k: mine for k, mine in everything.items() if refuses(k, 0) is None}
