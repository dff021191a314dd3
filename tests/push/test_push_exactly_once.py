"""Each sample once, bit for bit, in real receivers, through a faulty proxy and with killed processes.

One receiver of each kind, with its default settings, gets everything; each scenario and each schedule has
its own `job`. After each, one more push runs without faults, and the receiver's samples are compared with
the store's. At the end `promtool tsdb dump` shows the stale markers of Debian's Prometheus, too.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from devtools.receivers.prometheus import Labels
from devtools.receivers.receiver import bits
from rondo_tools.prom.samples import STALE_NAN
from rondo_tools.push import cli
from tests.support.push.faults import FAULTS, FaultProxy
from tests.support.push.push_host import MOMENTS
from tests.support.push.receivers import expected, fill, header, of_bits, seconds, ticks
from tests.support.real_receivers import Real, kept, real, restart

ROOT = Path(__file__).resolve().parents[2]
NOW = int(time.time()) * 1000  # anew for each test
SCHEDULES, LONG_SCHEDULES = 30, 400  # of `make test`; and of `make test-long`, the former not among them
FEW = 5  # of `make test`, to VictoriaMetrics; in `make test-long` each receiver gets SCHEDULES
QUICK = sorted(set(FAULTS) - {"429 seconds", "429 date", "silence", "silence after"})
SEED = int(os.environ.get("RONDO_TEST_SEED", "0"))  # of the first schedule
pytestmark = pytest.mark.usefixtures("now")

PROMETHEUS = ("prometheus", "1.0")
NEWEST = [("prometheus-sid", "1.0"), ("prometheus-sid", "2.0")]
OTHERS = [*NEWEST, *((name, "2.0") for name in ("prometheus-trixie", "victoria-metrics-trixie"))]
OTHERS += [("victoria-metrics-sid", "1.0"), ("victoria-metrics-sid", "2.0")]
VICTORIA = ("victoria-metrics", "1.0")


def to(*receivers: tuple[str, str], also: Sequence[tuple[str, str]] = ()) -> pytest.MarkDecorator:
    """Run a test with these receivers and protocols, and with others in the long tier."""
    longer = [pytest.param(one, marks=pytest.mark.long) for one in also]
    return pytest.mark.parametrize("running", [*receivers, *longer], indirect=True, ids="-".join)


Shown = dict[Labels, dict[int, int]]


class Lab:
    """The receiver, the proxy before it, the host that starts pushes, and all delivered samples."""

    def __init__(
        self, receiver: Real, flags: tuple[str, ...], proxy: FaultProxy, host: subprocess.Popen[str]
    ) -> None:
        self.receiver = receiver
        self.flags = flags
        self.proxy = proxy
        self.host = host
        self.delivered: Shown = {}
        self.poison: frozenset[str] = frozenset()  # series that Prometheus refuses, for good reason

    def push(self, store: Path, job: str, *flags: str, **order: Any) -> int:
        """Run rondo-push in its own process; returns its exit status."""
        # The time-out is short only if the proxy will be silent: a busy machine could run into it.
        timeout = "150ms" if self.proxy.will_be_silent() else "5m"
        argv = [str(store), "--remote-write", self.proxy.url, "--job", job, "--timeout", timeout, "-v"]
        assert self.host.stdin is not None
        assert self.host.stdout is not None
        self.host.stdin.write(json.dumps({"argv": [*argv, *self.flags, *flags], **order}) + "\n")
        self.host.stdin.flush()
        answer = json.loads(self.host.stdout.readline())
        tally = re.search(r"(\d+) rejected, (\d+) unclear", answer["log"])
        if not self.poison and tally is not None:
            # Samples that had arrived are recognised, and never taken for refused ones.
            assert tally[1] == "0", answer["log"]
        return int(answer["status"])

    def check(self, store: Path, job: str) -> None:
        """After a push without faults the receiver has what the store has, and the cursor agrees."""
        self.proxy.follow([])
        assert self.push(store, job) == 0
        wanted: Shown = {}
        for labels, samples in expected(store).items():
            named = dict(labels) | {"job": job}
            if f"{named['instance']}/{named['__name__']}" not in self.poison:
                wanted[tuple(sorted(named.items()))] = {
                    t_ms: value if value == STALE_NAN else bits(kept(self.receiver, of_bits(value)))
                    for t_ms, value in samples.items()
                }
        got: Shown = {}
        for labels, pairs in self.receiver.samples(f'{{job="{job}",instance!="rondo-push"}}').items():
            if f"{dict(labels)['instance']}/{dict(labels)['__name__']}" not in self.poison:
                got[labels] = {t_ms: bits(float(value)) for t_ms, value in pairs}
                assert len(got[labels]) == len(pairs), "a sample twice"
        values = {
            labels: {t_ms: value for t_ms, value in samples.items() if value != STALE_NAN}
            for labels, samples in wanted.items()
        }
        assert got == {labels: samples for labels, samples in values.items() if samples}
        cursor = json.loads((store / "cursor_prometheus.json").read_text())
        assert cursor["in_flight"] is None
        assert cursor["to"] is None
        newest = max((store / "tier_0").iterdir())
        assert cursor["from"][0] == int(newest.name)
        assert cursor["from"][2] == newest.stat().st_size
        before = len(self.proxy.done)
        assert self.push(store, job) == 0
        assert len(self.proxy.done) == before  # nothing was left to send
        self.delivered |= wanted


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest, program: Callable[[str], Path]) -> Iterator[Lab]:
    """The lab for a receiver's name and a protocol version."""
    name, protocol = request.param
    with (
        real(name, program(name)) as receiver,
        FaultProxy(receiver.write_url, lambda: restart(receiver)) as proxy,
        subprocess.Popen(
            [sys.executable, ROOT / "tests" / "support" / "push" / "push_host.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        ) as host,
    ):
        yield Lab(receiver, ("--protocol", protocol), proxy, host)
        assert host.stdin is not None
        host.stdin.close()


@pytest.fixture
def lab(running: Lab) -> Lab:
    running.poison = frozenset()
    running.proxy.follow([])
    return running


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are killed here, but not the machine: syncs of thousands of small files are not needed."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def two_lives_and_a_neighbour(path: Path) -> None:
    start = NOW - 60_000
    holes = ticks(*((start + 1000 * i, [i * 1.1, i if i % 3 else float("nan")]) for i in range(12)))
    fill(path, header("a", start - 500), holes, "reset")
    fill(path, header("a", start + 14_000), seconds(6, start + 14_300), "poweroff")
    fill(path, header("b", start + 2000), seconds(15, start + 2333))


SCENARIOS: dict[str, list[str]] = {
    **{fault: ["ok", fault, "ok"] for fault in FAULTS},
    "a burst of 503": ["503"] * 3,
    "a burst that outlasts a push": ["ok", "502", "503", "500", "503", "502"],
    "answers lost in a row": ["lost answer"] * 3,
    "the server restarts": ["ok", "restart"],
    "restarts after the answer was lost": ["lost answer", "restart"],
}


@to(PROMETHEUS, also=NEWEST)
@pytest.mark.parametrize("name", SCENARIOS)
def test_scenarios(lab: Lab, tmp_path: Path, name: str) -> None:
    two_lives_and_a_neighbour(tmp_path)
    job = name.replace(" ", "-")
    lab.proxy.follow(SCENARIOS[name])
    status = lab.push(tmp_path, job, "--max-samples-per-send", "20")
    assert status == (75 if len(SCENARIOS[name]) > 4 else 0) or ("silence" in name and status == 75)
    assert SCENARIOS[name] == lab.proxy.done[: len(SCENARIOS[name])] or status == 75
    lab.check(tmp_path, job)


@to(PROMETHEUS)
def test_a_redirect_elsewhere_is_not_a_delivery(lab: Lab, tmp_path: Path) -> None:
    two_lives_and_a_neighbour(tmp_path)
    other = lab.receiver.url.replace("127.0.0.1", "localhost")
    done = cli.main([str(tmp_path), "--remote-write", other, "--job", "elsewhere", "-q"])
    assert done == 69  # Prometheus itself redirects from its root to its web pages
    lab.check(tmp_path, "elsewhere")


@to(PROMETHEUS, VICTORIA, also=OTHERS)
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_kill_9_at_every_moment(lab: Lab, tmp_path: Path, moment: str, count: int) -> None:
    two_lives_and_a_neighbour(tmp_path)
    job = f"killed-{moment.replace(' ', '-')}-{count}"
    killed = lab.push(tmp_path, job, "--max-samples-per-send", "20", die=[moment, count])
    assert killed == -signal.SIGKILL
    lab.check(tmp_path, job)


@to(PROMETHEUS, also=NEWEST)
@pytest.mark.parametrize("fault", ["lost answer", "silence after", "500 after"])
def test_poison_in_a_batch_in_flight(lab: Lab, tmp_path: Path, fault: str) -> None:
    two_lives_and_a_neighbour(tmp_path)
    job = f"poison-{fault.replace(' ', '-')}"
    poison(lab, tmp_path.parent / f"{tmp_path.name}-foreign", job, ["b/heat"])
    lab.proxy.follow([fault, fault, fault, fault])
    assert lab.push(tmp_path, job) == 75
    lab.check(tmp_path, job)


def poison(lab: Lab, path: Path, job: str, names: list[str]) -> None:
    """Write newer samples of these series, so that Prometheus refuses all of ours."""
    for name in names:
        instance, _, metric = name.partition("/")
        only = tuple(one for one in header().series if one.name == metric)
        fill(path, header(instance, NOW - 1000, series=only), seconds(1, NOW - 1000, width=1))
    if names:
        assert lab.push(path, job) == 0
    lab.poison = frozenset(names)


def schedules() -> list[object]:
    """Receiver, protocol and seed: most of them for one receiver, the first few for all."""
    found: list[object] = []
    for receiver in (PROMETHEUS, VICTORIA, *OTHERS):
        of_test = {PROMETHEUS: SCHEDULES, VICTORIA: FEW}.get(receiver, 0)
        for number in range(LONG_SCHEDULES if receiver == PROMETHEUS else SCHEDULES):
            marks = [pytest.mark.long] if number >= of_test else []
            name = f"{SEED + number}-{'-'.join(receiver)}"
            found.append(pytest.param(receiver, SEED + number, marks=marks, id=name))
    return found


@pytest.mark.parametrize(("running", "seed"), schedules(), indirect=["running"])
def test_schedules(lab: Lab, tmp_path: Path, seed: int) -> None:
    """Replay one with RONDO_TEST_SEED=<seed> and -k 'schedules and <seed>-prometheus-1.0'."""
    chance = random.Random(seed)
    job = f"schedule-{seed}"
    store = tmp_path / "store"
    lives = [(name, chance.randint(1, 2)) for name in "abc"[: chance.randint(1, 3)]]
    start = NOW - 200_000
    poison(
        lab, tmp_path / "foreign", job,
        [f"{name}/heat" for name, _ in lives if chance.random() < 0.2],
    )  # fmt: skip
    grown = dict.fromkeys((name for name, _ in lives), start)
    flags = ["--max-samples-per-send", str(chance.choice([6, 20, 10_000]))]
    for _ in range(chance.randint(1, 3)):
        for name, count in lives:
            for _ in range(count):
                begin = grown[name] + chance.randint(1, 3000)
                length = chance.randint(1, 8)
                end = chance.choice(["reset", "poweroff", "poweroff", None])
                fill(store, header(name, begin), seconds(length, begin + chance.randint(0, 999)), end)
                grown[name] = begin + 1000 * length + 1000
        if chance.random() < 0.7:
            words = [chance.choice(QUICK) for _ in range(chance.randint(0, 8))]
            lab.proxy.follow([*words, *chance.choices(["ok", "silence", "silence after"], [4, 1, 1])])
        for _ in range(chance.randint(1, 3)):
            if chance.random() < 0.4:
                die = [chance.choice(MOMENTS), chance.randint(1, 6)]
                lab.push(store, job, *flags, die=die)
            elif chance.random() < 0.2:
                lab.push(store, job, *flags, kill_after_s=chance.random() * 0.1)
            else:
                lab.push(store, job, *flags)
    lab.check(store, job)


@to(PROMETHEUS)
def test_the_dump_has_all_delivered_samples_and_stale_markers(
    lab: Lab, program: Callable[[str], Path]
) -> None:
    """Runs last for its receiver: it stops Prometheus, and reads its folder."""
    lab.receiver.stop()
    dump = subprocess.run(
        [program("promtool"), "tsdb", "dump", lab.receiver.folder / "data"],
        check=True, capture_output=True, text=True, timeout=300,
    ).stdout  # fmt: skip
    found: Shown = {}
    for line in dump.splitlines():
        match = re.fullmatch(r"\{(.*)\} (\S+) (\d+)", line)
        assert match, line
        labels = tuple(sorted((name, value) for name, value in re.findall(r'(\w+)="([^"]*)"', match[1])))
        series = found.setdefault(labels, {})
        assert int(match[3]) not in series, f"twice: {line}"
        series[int(match[3])] = bits(float(match[2]))
    assert len(lab.delivered) > 0
    for labels, samples in lab.delivered.items():
        assert found[labels] == samples
    assert any(STALE_NAN in samples.values() for samples in lab.delivered.values())
