"""A whole machine with a guest of a few bytes: each way in which a VM can end."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rondo_tools.catalog import SERIES
from rondo_tools.stream import End, Header, Tick
from rondo_tools.vmm import cpu
from rondo_tools.vmm.boards.builtin import BuiltinBoard
from rondo_tools.vmm.boot.builtin import Entry
from rondo_tools.vmm.cpu import Times
from rondo_tools.vmm.devices.virtio.disk import temporary_disk
from rondo_tools.vmm.machine import Machine
from rondo_tools.vmm.memory import GuestMemory
from rondo_tools.vmm.run import Summary, run_vm
from rondo_tools.vmm.wakeup import Wakeup
from tests.support.needs import PATIENCE_S

SPIN = "ebfe"
HALT = "f4ebfd"
EXITS = "66baf803ecebfd"  # mov dx, 0x3f8; in al, dx; jmp back
TRIPLE_FAULT = "0f0b"
POWER_OFF = "66ba0006b034ee" + SPIN  # mov dx, 0x600; mov al, SLP_EN | S5 << 2; out dx, al
RESET = "b0fee664" + SPIN  # mov al, 0xfe; out 0x64, al
HELLO = "66baf803b068eeb069ee" + POWER_OFF  # "hi", without a newline
NOWHERE = "e900000020"  # jmp far above memory


class Life:
    """What came out of a life."""

    def __init__(self) -> None:
        self.ticks: list[Tick] = []
        self.console = b""

    def live(
        self,
        accelerator: str,
        code: str,
        *,
        deadline_ms: int = 600_000,
        during: Callable[[], None] | None = None,
    ) -> Summary:
        def boot(memory: GuestMemory) -> Entry:
            memory.write(0x1000, bytes.fromhex(code))
            return Entry(0x1000, 0x8000)

        def say(line: bytes) -> None:
            console.append(line)

        def emit(tick: Tick) -> None:
            self.ticks.append(tick)
            if during is not None and len(self.ticks) == 2:
                during()

        def no_step(end: End, header: Header) -> None:
            raise AssertionError("the wall clock was set back")

        console: list[bytes] = []
        header = Header("vm", time.time_ns() // 1_000_000, (), 20, SERIES)
        config = BuiltinBoard(accelerator, 1 << 20, 60_000, boot)
        with Wakeup() as wakeup, Machine(config, [temporary_disk(1 << 20)], say, wakeup.wake) as machine:
            summary = run_vm(machine, header, emit, no_step, wakeup, deadline_ms=deadline_ms)
        self.console = b"".join(console)
        return summary


@pytest.fixture
def life() -> Life:
    return Life()


@pytest.fixture(params=["kvm", "soft"])
def accelerator(request: pytest.FixtureRequest) -> str:
    if request.param == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("/dev/kvm does not open")
    if request.param == "soft":
        pytest.importorskip("unicorn")
    return str(request.param)


@pytest.mark.parametrize(
    ("code", "reason"),
    [(POWER_OFF, "poweroff"), (RESET, "reset"), (TRIPLE_FAULT, "shutdown"), (NOWHERE, "error")],
)
def test_a_guest_ends_itself(life: Life, accelerator: str, code: str, reason: str) -> None:
    summary = life.live(accelerator, code)
    assert summary.end.reason == reason
    assert ("ip=0x" in summary.end.detail) == (reason in ("shutdown", "error"))
    assert life.ticks[-1].t_ms == summary.t_ms


@pytest.mark.parametrize("code", [SPIN, HALT, EXITS], ids=["spinning", "halted", "making exits"])
def test_the_deadline_ends_any_guest(life: Life, accelerator: str, code: str) -> None:
    summary = life.live(accelerator, code, deadline_ms=150)
    assert summary.end.reason == "deadline"
    assert life.ticks[-1].t_ms == summary.t_ms
    assert summary.ticks == len(life.ticks)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("code", [SPIN, HALT, EXITS], ids=["spinning", "halted", "making exits"])
def test_a_signal_ends_any_guest(life: Life, accelerator: str, code: str, number: signal.Signals) -> None:
    summary = life.live(accelerator, code, during=lambda: os.kill(os.getpid(), number))
    assert summary.end.reason == "signal"
    assert [tick.t_ms for tick in life.ticks] == sorted({tick.t_ms for tick in life.ticks})


def test_an_incomplete_line_is_not_lost(life: Life, accelerator: str) -> None:
    assert life.live(accelerator, HELLO).end.reason == "poweroff"
    assert life.console == b"hi"


def test_leaving_a_machine_ends_its_guest(accelerator: str) -> None:
    def boot(memory: GuestMemory) -> Entry:
        memory.write(0x1000, bytes.fromhex(SPIN))
        return Entry(0x1000, 0x8000)

    ended = threading.Event()
    config = BuiltinBoard(accelerator, 1 << 20, 60_000, boot)
    with Machine(config, [temporary_disk(1 << 20)], lambda line: None, ended.set) as machine:
        machine.start()
        assert not machine.over()
    assert machine.over()
    assert ended.is_set()


def test_cpu_time_is_kept_after_the_guests_end(accelerator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looked while it ran: the threads themselves have noted it."""

    def boot(memory: GuestMemory) -> Entry:
        memory.write(0x1000, bytes.fromhex(POWER_OFF))
        return Entry(0x1000, 0x8000)

    noted_in: list[int] = []

    def times(_tid: int, _proc: str) -> Times:
        noted_in.append(threading.get_ident())
        return Times(5, 7)

    monkeypatch.setattr(cpu, "thread_times", times)
    ended = threading.Event()
    plan = BuiltinBoard(accelerator, 1 << 20, 60_000, boot)
    with Machine(plan, [temporary_disk(1 << 20)], lambda line: None, ended.set) as machine:
        machine.start()
        assert ended.wait(PATIENCE_S)
        snapshot = machine.snapshot()
    assert (snapshot.vcpu_cpu_ns, snapshot.vcpu_wait_ns) == (5, 7)
    assert len(noted_in) == 1
    assert threading.get_ident() not in noted_in
    assert snapshot.vmm_cpu_ns > 0


def test_a_failed_build_frees_everything(accelerator: str) -> None:
    def boot(memory: GuestMemory) -> Entry:
        raise ZeroDivisionError

    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            Machine(BuiltinBoard(accelerator, 1 << 20, 1, boot), [temporary_disk(1 << 20)], print, print)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
