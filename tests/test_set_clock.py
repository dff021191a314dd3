"""The wall clock is set under a real VM and a real store: its times follow the clock, nothing is lost.

Nothing here is timed. That a tick is not ahead of the clock is asked when the tick is read: then it is
true however late that is.
"""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rondo_tools.stream import Decoder, End, Event, Header, Tick
from rondo_tools.units import format_count

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / "bin"
WAIT_S = 60
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000

Process = subprocess.Popen[bytes]


class SetClock:
    """A wall clock, in milliseconds, with the offset of its steps."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.offset = 0
        self.step(0)

    def step(self, ms: int) -> None:
        self.offset += ms
        new = self._file.with_suffix(".new")
        new.write_text(str(self.offset))
        new.replace(self._file)

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.offset

    @property
    def environment(self) -> dict[str, str]:
        here = str(Path(__file__).parent / "set_clock")
        return {**os.environ, "PYTHONPATH": here, "SET_CLOCK": str(self._file)}


@pytest.fixture
def clock(tmp_path: Path) -> SetClock:
    return SetClock(tmp_path / "clock")


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    """Start a tool; it always ends with the test."""
    running: list[Process] = []

    def begin(tool: str, *arguments: str | Path, clock: SetClock | None = None) -> Process:
        process = subprocess.Popen(
            [sys.executable, TOOLS / tool, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clock.environment if clock else None,
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate()


# --- the stream of a VM --------------------------------------------------------------------------


class Vm:
    """A VM that writes its stream to us. `next` reads a message, and compares it with the clock."""

    def __init__(self, process: Process, clock: SetClock) -> None:
        self.process = process
        self.clock = clock
        self.sessions: list[tuple[Header, list[Tick], End | None]] = []
        self._decoder = Decoder()
        self._events: list[Event] = []

    def next(self, latest_ms: Callable[[], int] | None = None) -> Event:
        """The next message. Fails if a tick is ahead of the clock, or of `latest_ms`."""
        while not self._events:
            assert self.process.stdout is not None
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            assert data, "the VM has ended"
            self._events += self._decoder.feed(data)
        event = self._events.pop(0)
        if isinstance(event, Header):
            assert not self.sessions or self.sessions[-1][2] is not None, "one session ends before the next"
            assert event.start_ms <= self.clock.now_ms()
            self.sessions.append((event, [], None))
            return event
        header, ticks, end = self.sessions[-1]
        assert end is None
        if isinstance(event, Tick):
            assert event.t_ms > (ticks[-1].t_ms if ticks else header.start_ms)
            assert event.t_ms <= (latest_ms or self.clock.now_ms)()
            ticks.append(event)
        else:
            assert event.t_ms == ticks[-1].t_ms
            self.sessions[-1] = (header, ticks, event)
        return event

    def ticks(self, count: int = 3) -> None:
        for _ in range(count):
            assert isinstance(self.next(), Tick)

    def set_clock(self, ms: int) -> None:
        """Set the clock, and read on until the ticks have followed it."""
        before_ms = self.clock.now_ms()
        self.clock.step(ms)
        after_ms = self.clock.now_ms()
        if ms > 0:
            while self.sessions[-1][1][-1].t_ms < after_ms:
                assert isinstance(self.next(), Tick)
        elif ms >= -5000:
            while self.sessions[-1][1][-1].t_ms <= before_ms + 200:
                # Those on their way were made before the step; none after it until then.
                assert isinstance(self.next(lambda: max(before_ms + 1, self.clock.now_ms())), Tick)
        else:
            # The last tick of a session has the time without the step.
            while isinstance(event := self.next(lambda: self.clock.now_ms() - ms), Tick):
                pass
            assert isinstance(event, End)
            assert event.reason == "clock"
            header = self.next()
            assert isinstance(header, Header)
            assert header.start_ms >= before_ms + ms  # the VM may see the step before we go on
        self.ticks()

    def end(self) -> str:
        """End the VM. Returns its messages."""
        self.process.send_signal(signal.SIGTERM)
        while not isinstance(event := self.next(), End):
            pass
        assert event.reason == "signal"
        _, err = self.process.communicate(timeout=WAIT_S)
        assert self.process.returncode == 0, err
        self._decoder.close()
        return str(err.decode())


@pytest.fixture
def vm(start: Callable[..., Process], clock: SetClock) -> Vm:
    return Vm(start("rondo-vmm", "--duration", "1h", "--interval", "50ms", clock=clock), clock)


def counts(header: Header, tick: Tick) -> dict[str, float]:
    """The counters of a tick."""
    values = struct.unpack(f"<{len(header.series)}d", tick.values)
    return {
        str(one): value for one, value in zip(header.series, values, strict=True) if one.kind == "counter"
    }


STEPS = {
    "a part of a second back": [-500],
    "a leap second": [-1000],
    "five seconds back": [-5000],
    "five minutes back": [-5 * MINUTE],
    "an hour back": [-HOUR],
    "an hour forward": [HOUR],
    "a day forward": [DAY],
    "ahead for a while": [DAY, -DAY],
    "back for a while": [-HOUR, HOUR],
    "many steps": [-1000, HOUR, -1000, -2 * HOUR, -500, 3 * HOUR, -2 * HOUR, -DAY],
}


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_the_ticks_of_a_vm_follow_its_clock(vm: Vm, steps: list[int]) -> None:
    assert isinstance(vm.next(), Header)
    vm.ticks()
    for step in steps:
        vm.set_clock(step)
    log = vm.end()
    assert len(vm.sessions) == 1 + sum(step < -5000 for step in steps)
    headers = {header._replace(start_ms=1) for header, _, _ in vm.sessions}
    assert len(headers) == 1
    # Counters begin at zero in each session, and add up to all counts.
    totals = {
        reason: sum(counts(header, ticks[-1])[f'vcpu_exits_total{{reason="{reason}"}}']
                    for header, ticks, _ in vm.sessions)
        for reason in ("io", "mmio", "hlt")
    }  # fmt: skip
    assert "exits: " + ", ".join(f"{reason} {total:.0f}" for reason, total in totals.items()) in log
    ticks = sum(len(ticks) for _, ticks, _ in vm.sessions)
    assert f"{ticks} ticks; " in log


# --- with a store --------------------------------------------------------------------------------


def run(start: Callable[..., Process], tool: str, *arguments: str | Path) -> str:
    process = start(tool, *arguments)
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, err
    return str(out.decode())


class Served:
    """A store and its folder; rondo-query reads it."""

    def __init__(self, start: Callable[..., Process], folder: Path, clock: SetClock) -> None:
        self.start, self.store, self.address = start, folder / "store", f"unix:{folder}/sock"
        self.process = start("rondo-store", self.store, "--listen", self.address, clock=clock)
        assert self.process.stderr is not None
        while b"listening on" not in (line := self.process.stderr.readline()):
            assert line, "it ended"

    def sessions(self, instance: str) -> list[str]:
        """The reasons of its sessions' ends, in the order of their starts."""
        lines = run(self.start, "rondo-query", self.store, "list").splitlines()[1:]
        return [line.split()[4] for line in lines if line.split()[0] == instance]

    def wait_for(self, instance: str, count: int) -> None:
        while len(self.sessions(instance)) < count:
            assert self.process.poll() is None

    def wait_for_tick(self, instance: str, after_ms: int) -> None:
        selector = f'vmm_uptime_seconds{{instance="{instance}"}}'
        while True:
            lines = run(self.start, "rondo-query", self.store, "read", selector, "--unix").splitlines()
            if any(int(line.split()[0]) >= after_ms for line in lines[1:]):
                return
            assert self.process.poll() is None

    def stop(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        _, err = self.process.communicate(timeout=WAIT_S)
        assert self.process.returncode == 0, err
        return str(err.decode())


def test_with_one_clock_no_tick_is_lost_or_refused(
    start: Callable[..., Process], clock: SetClock, tmp_path: Path
) -> None:
    store = Served(start, tmp_path, clock)
    vm = start(
        "rondo-vmm", "--duration", "1h", "--instance", "vm", "--interval", "100ms", "--output", store.address,
        clock=clock,
    )  # fmt: skip
    store.wait_for("vm", 1)
    clock.step(-HOUR)
    store.wait_for("vm", 2)
    store.wait_for("rondo-store", 2)
    clock.step(DAY)
    store.wait_for_tick("vm", clock.now_ms())
    clock.step(-2 * DAY)
    store.wait_for("vm", 3)
    store.wait_for("rondo-store", 3)
    vm.send_signal(signal.SIGTERM)
    _, err = vm.communicate(timeout=WAIT_S)
    assert vm.returncode == 0, err
    lived = re.search(rb"(\d+) ticks; ", err)
    assert lived
    log = store.stop()
    assert f"{int(lived[1])} ticks stored, 3 sessions; 0 late, 0 ahead" in log
    assert store.sessions("vm") == ["signal", "clock", "clock"]
    assert store.sessions("rondo-store") == ["signal", "clock", "clock"]


def test_sessions_that_wait_for_their_store_are_all_delivered(
    start: Callable[..., Process], clock: SetClock, tmp_path: Path
) -> None:
    vm = start(
        "rondo-vmm", "--duration", "1h", "--instance", "vm", "--interval", "20ms", "--serial", "none",
        "--output", f"unix:{tmp_path}/sock", clock=clock,
    )  # fmt: skip
    assert vm.stderr is not None
    for line in vm.stderr:
        if b"trying again" in line:
            clock.step(-5 * MINUTE)
        if b"the clock was set back by 300.0 s" in line:
            break
    store = Served(start, tmp_path, clock)
    store.wait_for("vm", 2)
    vm.send_signal(signal.SIGTERM)
    _, err = vm.communicate(timeout=WAIT_S)
    assert vm.returncode == 0, err
    assert store.sessions("vm") == ["signal", "clock"]


def test_the_stores_counters_survive_the_step(
    start: Callable[..., Process], clock: SetClock, tmp_path: Path
) -> None:
    store = Served(start, tmp_path, clock)
    for number in range(2):
        vm = start(
            "rondo-vmm", "--duration", "200ms", "--interval", "50ms", "--output", store.address, clock=clock
        )
        assert vm.wait(WAIT_S) == 0
        if not number:
            clock.step(-HOUR)
            store.wait_for("rondo-store", 2)
    stored = re.search(r"(\d+) ticks stored", store.stop())
    assert stored
    lines = run(start, "rondo-query", store.store, "read", 'store_ticks_total{result="stored"}').splitlines()
    newest: dict[str, float] = {}
    for line in lines[1:]:
        *_, session, _, value = line.split()
        newest[session] = float(value)
    assert len(newest) == 2
    assert sum(newest.values()) == int(stored[1])


def test_refused_ticks_are_dropped_at_once_and_reported(
    start: Callable[..., Process], clock: SetClock, tmp_path: Path
) -> None:
    clock.step(-HOUR)  # the store's clock alone
    store = Served(start, tmp_path, clock)
    vm = start(
        "rondo-vmm", "--duration", "200ms", "--interval", "50ms", "--linger", "1h", "--serial", "none",
        "--output", store.address,
    )  # fmt: skip
    _, err = vm.communicate(timeout=WAIT_S)
    assert vm.returncode == 75
    lived = re.search(rb"(\d+) ticks; ", err)
    assert lived
    count = int(lived[1])
    ticks = format_count(count, "tick")
    assert f"{store.address}: the store refused {ticks}, now given up: {count} ahead".encode() in err
    assert f"{store.address}: {count} of {ticks} ".encode() in err
    assert b"Traceback" not in err
    assert f"0 ticks stored, 1 session; 0 late, {count} ahead of the clock" in store.stop()
