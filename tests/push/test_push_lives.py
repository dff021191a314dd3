"""Exactly once into real receivers, through the commands and the store's own code, over hours of a store.

Resends of over an hour and imported streams, which do not arrive in the order of time; and histories of a
store that restarts, rolls up, removes delivered journals and is restored from a backup, with a push that is
killed and a receiver that fails and restarts.

RONDO_TEST_SEED is the first history's seed: ``RONDO_TEST_SEED=17`` with ``-k '17-prometheus'`` replays
number 17.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from devtools.receivers.prometheus import Prometheus
from devtools.receivers.receiver import HOUR_MS, Key, bits
from rondo_tools.store.format.tiers import DEFAULT_TIERS, format_tiers
from rondo_tools.store.intake import Intake
from rondo_tools.store.opened import OpenStore
from rondo_tools.stream import End, Header, Tick
from tests.support.fixtures import Run
from tests.support.needs import PATIENCE_S
from tests.support.push.faults import FaultProxy
from tests.support.push.push_host import MOMENTS
from tests.support.push.receivers import fill, header, labels_of, seconds, ticks
from tests.support.real_receivers import RECEIVERS, Real, real, restart
from tests.support.streams import encoded

ROOT = Path(__file__).resolve().parents[2]
FIRST = int(os.environ.get("RONDO_TEST_SEED", "0"))
TIERS = format_tiers(DEFAULT_TIERS)
MINUTE_MS = 60_000

Truth = dict[Key, dict[int, int]]


def as_stream(head: Header, rows: list[Tick], end: bool = True) -> bytes:
    messages: list[Header | Tick | End] = [head, *rows]
    if end:
        messages.append(End("poweroff", rows[-1].t_ms + 1))
    return encoded(*messages)


def truth_of(some: list[tuple[Header, list[Tick]]]) -> Truth:
    found: Truth = {}
    for head, rows in some:
        for number, key in enumerate(labels_of(head)):
            mine = found.setdefault(tuple(sorted(key)), {})
            mine |= {one.t_ms: bits(struct.unpack_from("<d", one.values, 8 * number)[0]) for one in rows}
    return found


def shown(receiver: Real) -> Truth:
    """Its samples without stale markers, each once."""
    shown: Truth = {}
    for labels, pairs in receiver.samples('{job="rondo-vmm",instance!="rondo-push"}').items():
        shown[labels] = {t_ms: bits(float(value)) for t_ms, value in pairs}
        assert len(shown[labels]) == len(pairs)
    return shown


@pytest.fixture
def delivered(run: Run, prometheus: Prometheus, tmp_path: Path) -> Callable[[], Truth]:
    """A store that has delivered a tick of three hours ago; a call delivers, and returns the samples."""
    path, start_ms = tmp_path / "store", int(time.time() * 1000) - 3 * HOUR_MS
    fill(path, header("first", start_ms), seconds(1, start_ms + 1000), "poweroff", tiers=TIERS)
    push = ("rondo-push", path, "--remote-write", prometheus.write_url, "--no-health", "-v")
    assert run(*push, "--backfill").returncode == 0

    def deliver() -> Truth:
        done = run(*push)
        assert done.returncode == 0, done.stderr
        assert b" 0 rejected, 0 unclear, 0 passed over" in done.stderr
        found = shown(prometheus)
        return {key: mine for key, mine in found.items() if ("instance", "first") not in key}

    return deliver


@contextmanager
def serving(path: Path, address: str) -> Iterator[None]:
    argv = [sys.executable, str(ROOT / "bin" / "rondo-store"), str(path), "--no-health", "-q"]
    process = subprocess.Popen([*argv, "--listen", f"unix:{address}"], stdin=subprocess.DEVNULL)
    try:
        while not Path(address).exists():
            assert process.poll() is None
            time.sleep(0.02)
        yield
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()


def test_twenty_producers_that_resend_a_hundred_minutes_lose_nothing(
    delivered: Callable[[], Truth], tmp_path: Path
) -> None:
    """Each sends its whole backlog, 600 ticks of ten seconds, on its connection."""
    start_ms, address = int(time.time()) * 1000 - 100 * MINUTE_MS, str(tmp_path / "sock")
    sent = []
    for number in range(20):
        head = header(f"vm-{number}", start_ms + number)._replace(interval_ms=10_000)
        sent.append((head, ticks(*((start_ms + 10_000 * n + 500, [n, n / 8]) for n in range(600)))))
    with serving(tmp_path / "store", address):
        peers = []
        for head, rows in sent:
            peers.append(socket.socket(socket.AF_UNIX))
            peers[-1].settimeout(PATIENCE_S)
            peers[-1].connect(address)
            peers[-1].sendall(as_stream(head, rows))
            peers[-1].shutdown(socket.SHUT_WR)
        for peer in peers:
            with closing(peer):
                assert peer.recv(1) == b""
    assert delivered() == truth_of(sent)


def test_two_imported_streams_of_the_same_hours_lose_nothing(
    run: Run, delivered: Callable[[], Truth], tmp_path: Path
) -> None:
    """cat a.stream b.stream | rondo-store"""
    start_ms = int(time.time()) * 1000 - 2 * HOUR_MS - MINUTE_MS
    sent = [(header(name, start_ms), seconds(7200, start_ms + 1000)) for name in ("a", "b")]
    done = run("rondo-store", tmp_path / "store", stdin=None, input=b"".join(as_stream(*one) for one in sent))
    assert done.returncode == 0, done.stderr
    assert delivered() == truth_of(sent)


# --- histories ------------------------------------------------------------------------------------


class History:
    """Three hours of a store, on a simulated clock, and of a push, on the real one."""

    def __init__(self, path: Path, seed: int, proxy: FaultProxy, host: subprocess.Popen[str]) -> None:
        self.path, self.proxy, self.host = path / "store", proxy, host
        self.backup = path / "backup"
        self.chance = random.Random(seed)
        self.now_ms = int(time.time()) * 1000 - 3 * HOUR_MS
        self.begun_ms = self.now_ms
        self.lives: dict[str, list[tuple[Header, list[Tick]]]] = {f"vm-{n}": [] for n in range(3)}
        self.is_over = dict.fromkeys(self.lives, True)
        self.did: set[str] = set()

    def clock(self) -> float:
        return (self.now_ms - self.begun_ms) / 1000

    def grow(self) -> None:
        for name, lives in self.lives.items():
            if self.is_over[name]:
                lives.append((header(name, self.now_ms), []))
                self.is_over[name] = False
            rows = lives[-1][1]
            more = self.chance.randint(1, 12)
            rows += seconds(more, self.now_ms + 1000)
            self.is_over[name] = self.chance.random() < 0.4 or len(rows) > 400
        self.now_ms += 15_000

    def store(self) -> None:
        """A rondo-store gets the backlogs of its producers, and mostly rolls up."""
        kept = OpenStore(self.path, now_ms=lambda: self.now_ms, clock=self.clock, max_bytes=1 << 30)
        with kept as opened:
            for name, lives in self.lives.items():
                intake = Intake(opened.keeper)
                for head, rows in lives:
                    intake.feed(as_stream(head, rows, end=rows is not lives[-1][1] or self.is_over[name]))
                opened.keeper.flush()
                intake.close()
            if self.chance.random() < 0.7:
                opened.keeper.end_journal()
                opened.keep_house()
                self.did.add("rolled up")

    def push(self, *flags: str, **order: object) -> int:
        argv = [str(self.path), "--remote-write", self.proxy.url, "--timeout", "5m", "-q", "--no-health"]
        argv += ["--max-samples-per-send", str(self.chance.choice([20, 10_000]))]
        assert self.host.stdin is not None
        assert self.host.stdout is not None
        print(json.dumps({"argv": [*argv, *flags], **order}), file=self.host.stdin, flush=True)
        return int(json.loads(self.host.stdout.readline())["status"])

    def quiet(self) -> None:
        self.proxy.follow([])
        self.store()
        assert self.push() == 0

    def cursor(self) -> Path:
        return self.path / "cursor_prometheus.json"

    def back_up(self) -> None:
        self.quiet()
        shutil.rmtree(self.backup, ignore_errors=True)
        shutil.copytree(self.path, self.backup)

    def put_back(self) -> None:
        """Restore the store or the cursor from the last backup. Everything was delivered by then."""
        if not self.backup.exists():
            return
        self.quiet()
        if self.chance.random() < 0.5:  # running producers resend what it lacks
            cursor = self.cursor().read_bytes()
            shutil.rmtree(self.path)
            shutil.copytree(self.backup, self.path)
            self.cursor().write_bytes(cursor)
            self.did.add("an older store")
        else:
            shutil.copy(self.backup / self.cursor().name, self.cursor())
            self.did.add("an older cursor")

    def play(self, faults: list[str]) -> None:
        self.grow()
        self.store()
        assert self.push("--backfill") == 0
        while self.now_ms < self.begun_ms + 3 * HOUR_MS - 10 * MINUTE_MS:
            self.grow()
            self.store()
            self.proxy.follow(self.chance.choices(["ok", *faults], [4, *[1] * len(faults)], k=6))
            if self.chance.random() < 0.3:
                assert self.push(die=[self.chance.choice(MOMENTS), self.chance.randint(1, 4)]) in (
                    0, 75, -signal.SIGKILL,
                )  # fmt: skip
            else:
                assert self.push() in (0, 75)
            if self.chance.random() < 0.15:
                self.back_up()
            if self.chance.random() < 0.15:
                self.put_back()
            self.now_ms += self.chance.choice((MINUTE_MS, 5 * MINUTE_MS, 12 * MINUTE_MS))
        self.quiet()

    def truth(self) -> Truth:
        found: Truth = {}
        for lives in self.lives.values():
            for key, mine in truth_of(lives).items():
                found.setdefault(key, {}).update(mine)
        return found


@pytest.fixture
def host() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, ROOT / "tests" / "support" / "push" / "push_host.py"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(PATIENCE_S)


@pytest.fixture
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are killed here, but not the machine: syncs are not needed."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


FAULTS = ["lost answer", "503", "500 after", "cut request", "restart"]


@pytest.mark.usefixtures("no_power_cuts")
@pytest.mark.parametrize("name", RECEIVERS)
@pytest.mark.parametrize(
    "seed", [FIRST, *(pytest.param(FIRST + n, marks=pytest.mark.long) for n in range(1, 6))]
)
def test_three_hours_of_lives(
    program: Callable[[str], Path], tmp_path: Path, host: subprocess.Popen[str], seed: int, name: str
) -> None:
    """Each sample is at the receiver once."""
    with (
        real(name, program(name)) as receiver,
        FaultProxy(receiver.write_url, lambda: restart(receiver)) as proxy,
    ):
        history = History(tmp_path, seed, proxy, host)
        history.play(FAULTS)
        found = shown(receiver)
    assert found == history.truth()
    assert "rolled up" in history.did
