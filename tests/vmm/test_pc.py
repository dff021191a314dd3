"""The PC that Linux boots in, on this machine's KVM, with guests of a few bytes of 64-bit code."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rondo_tools.catalog import SERIES
from rondo_tools.errors import VmError
from rondo_tools.stream import Header, Tick
from rondo_tools.vmm.accel import kvm_abi
from rondo_tools.vmm.accel.kvm import call
from rondo_tools.vmm.accel.kvm_pc import KvmPc
from rondo_tools.vmm.boards.pc import PcBoard
from rondo_tools.vmm.boot import linux
from rondo_tools.vmm.devices.virtio.disk import temporary_disk
from rondo_tools.vmm.keyboard import Keyboard
from rondo_tools.vmm.machine import Machine
from rondo_tools.vmm.memory import GuestMemory
from rondo_tools.vmm.run import Summary, run_vm
from rondo_tools.vmm.wakeup import Wakeup
from tests.support.needs import must_have
from tests.support.vmm.kernels import ECHO, POWER_OFF, RESET, SPIN, bzimage, vmlinux

MEMORY = 32 << 20

HALT = "f4ebfd"
EXITS = "66baff03 ee ebfd"  # mov dx, 0x3ff; out dx, al; jmp back
HELLO = "66baf803 b068ee b069ee" + POWER_OFF  # "hi", without a newline
# The second vCPU's code, mov dx, 0x600; mov al, 0x34; out dx, al; jmp to itself, goes to 0x8000; then
# the local APIC is told to send INIT and a start-up interrupt for that page to APIC id 1.
START_OTHER = (
    "c7042500800000ba0006b0 c7042504800000 34eeebfe bb0000e0fe c783f0000000ff010000"
    "c7831003000000000001 c7830003000000450000 c7830003000008460000 ebfe"
)


@pytest.fixture(autouse=True)
def _kvm() -> None:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        must_have("/dev/kvm does not open")


class Run:
    """A run of a PC, and its output."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ticks: list[Tick] = []
        self.console = b""

    def live(
        self,
        kernel: bytes,
        *,
        cpus: int = 1,
        disks: int = 0,
        deadline_ms: int = 20_000,
        typed: bytes = b"",
    ) -> Summary:
        (self._folder / "kernel").write_bytes(kernel)
        guest = linux.read(str(self._folder / "kernel"), None, "")
        written: list[bytes] = []
        keyboard = Keyboard() if typed else None
        header = Header("vm", time.time_ns() // 1_000_000, (), 20, SERIES)
        with (
            Wakeup() as wakeup,
            Machine(
                PcBoard(guest, MEMORY, cpus, keyboard),
                [temporary_disk(1 << 20) for _ in range(disks)],
                written.append,
                wakeup.wake,
            ) as machine,
        ):
            if keyboard is not None:
                keyboard.type(typed)
            summary = run_vm(
                machine, header, self.ticks.append, lambda *_: None, wakeup, deadline_ms=deadline_ms
            )
        self.console = b"".join(written)
        return summary


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


@pytest.mark.parametrize("kernel", [vmlinux, bzimage])
@pytest.mark.parametrize(
    ("code", "reason"), [(POWER_OFF, "poweroff"), (RESET, "reset"), ("0f0b", "shutdown")]
)
def test_a_guest_ends_itself(run: Run, kernel: Callable[[str], bytes], code: str, reason: str) -> None:
    summary = run.live(kernel(code))
    assert summary.end.reason == reason, summary
    assert ("rip=0x" in summary.end.detail) == (reason == "shutdown")
    assert run.ticks[-1].t_ms == summary.t_ms


@pytest.mark.parametrize("cpus", [1, 3])
@pytest.mark.parametrize("code", [SPIN, HALT, EXITS], ids=["spinning", "halted", "making exits"])
def test_the_deadline_ends_any_guest_and_unstarted_processors(run: Run, code: str, cpus: int) -> None:
    summary = run.live(vmlinux(code), cpus=cpus, deadline_ms=150)
    assert summary.end.reason == "deadline"
    assert len(run.ticks) >= 2
    exits = summary.counters.exits_by_reason()
    assert (exits["io"] > 10) == (code == EXITS)
    assert exits["shutdown"] == exits["other"] == 0


def test_the_kernel_counts_halts(run: Run) -> None:
    with GuestMemory(MEMORY) as memory:
        kvm = KvmPc(memory.mapping)
        counted = kvm.halts() is not None
        kvm.close()
    if not counted:
        must_have("this kernel's KVM has no binary statistics")
    summary = run.live(vmlinux(HALT), deadline_ms=100)
    assert summary.counters.exits_by_reason()["hlt"] == summary.counters.kernel_halts == 1
    assert sum(summary.counters.exits) == 0


def test_console_output_is_passed_on(run: Run) -> None:
    assert run.live(vmlinux(HELLO)).end.reason == "poweroff"
    assert run.console == b"hi"


def test_another_processor_is_started_through_the_apic(run: Run) -> None:
    summary = run.live(vmlinux(START_OTHER), cpus=2)
    assert summary.end.reason == "poweroff", "the second one's doing"
    assert summary.counters.exits_by_reason()["io"] == 1


def test_input_arrives_complete_and_in_order(run: Run) -> None:
    typed = bytes(range(0x30, 0x7A)) * 5
    assert run.live(vmlinux(ECHO), typed=typed + b".").end.reason == "poweroff"
    assert run.console == typed + b"."


def test_the_registers_of_firmware_are_set_on_every_processor() -> None:
    with GuestMemory(MEMORY) as memory:
        kvm = KvmPc(memory.mapping, cpus=2)
        try:
            for vcpu in kvm.vcpus:
                table = kvm_abi.Msrs(nmsrs=2)
                table.entries[0].index, table.entries[1].index = 0x1A0, 0x2FF
                assert call(vcpu.fd, kvm_abi.GET_MSRS, table) == 2
                assert table.entries[0].data & 1
                assert table.entries[1].data == 0x806
        finally:
            kvm.close()


def test_more_processors_than_kvm_supports_are_refused() -> None:
    with GuestMemory(MEMORY) as memory, pytest.raises(VmError, match=r"--cpus 100000: .* supports") as caught:
        KvmPc(memory.mapping, cpus=100_000)
    assert caught.value.exit_code == 64


def test_nothing_is_left_open(run: Run) -> None:
    run.live(vmlinux(POWER_OFF), cpus=2, disks=2)
    before = set(Path("/proc/self/fd").iterdir())
    run.live(vmlinux(POWER_OFF), cpus=2, disks=2)
    assert set(Path("/proc/self/fd").iterdir()) == before
