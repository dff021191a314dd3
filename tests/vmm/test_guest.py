"""The built-in guest, run for real: its bytes under an emulated CPU, with the devices it will have."""

from __future__ import annotations

import ctypes
import importlib
import os
import shutil
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rondo_tools.errors import VmError
from rondo_tools.vmm import layout
from rondo_tools.vmm.boot import builtin
from rondo_tools.vmm.bus import Bus, Device
from rondo_tools.vmm.devices.i8042 import I8042
from rondo_tools.vmm.devices.power import PowerSwitch
from rondo_tools.vmm.devices.serial import Serial
from rondo_tools.vmm.devices.virtio.block import Block
from rondo_tools.vmm.devices.virtio.disk import SECTOR, Disk, temporary_disk
from rondo_tools.vmm.devices.virtio.mmio import MmioTransport
from rondo_tools.vmm.devices.virtio.queue import Chain, QueueError
from rondo_tools.vmm.devices.workload import FAULTS, Schedule, WorkloadPort
from rondo_tools.vmm.memory import GuestMemory
from tests.support.needs import must_have

try:  # its own hints are partial
    unicorn: Any = importlib.import_module("unicorn")
    x86: Any = importlib.import_module("unicorn.x86_const")
except ImportError:
    unicorn = None

ROOT = Path(__file__).resolve().parent.parent.parent
MS = 1_000_000
SECTORS = 40
PHASES = ["rondo guest: up", "phase: cpu", "phase: idle", "phase: io", "phase: mixed", "power off"]


class Computer:
    """A minimal VM of one second: Unicorn for a CPU, and a clock that only work and halts move."""

    def __init__(self, memory: GuestMemory, disk: Disk, kind: type[Block] = Block) -> None:
        self.memory = memory
        self.now = 0
        self.console = ""
        self.reports: list[int] = []
        self.ends: list[str] = []
        self.completed: Counter[str] = Counter()
        self.moved: Counter[str] = Counter()
        self.halts: Counter[str] = Counter()  # by the last line on the console
        self.ports = Bus("ports")
        self.mmio = Bus("mmio")
        self.workload = WorkloadPort(Schedule(1000 * MS), self.reports.append, self._clock)
        self.ports.add(layout.WORKLOAD_BASE, layout.WORKLOAD_LENGTH, self.workload)
        self.ports.add(layout.COM1_BASE, layout.COM1_LENGTH, Serial(self._print))
        self.block = kind(disk, memory, self._completed)
        self.device: Device = MmioTransport(self.block, memory)

    def _clock(self) -> int:
        self.now += 5 * MS  # what a quantum should take: so its size stays small
        return self.now

    def _print(self, text: bytes) -> None:
        self.console += text.decode("ascii")

    def _completed(self, op: str, moved: int, ns: int) -> None:
        self.completed[op] += 1
        self.moved[op] += moved

    def run(self, *, power: bool = True, reset: bool = True, device: bool = True) -> None:
        """Run the guest to its end; a machine that it cannot end by a switch ends by a triple fault."""
        if unicorn is None:
            must_have("unicorn is not installed: pip install 'rondo-tools[soft]'")
        if power:
            self.ports.add(layout.POWER_BASE, layout.POWER_LENGTH, PowerSwitch(self._ender("poweroff")))
        if reset:
            self.ports.add(layout.I8042_BASE, layout.I8042_LENGTH, I8042(self._ender("reset")))
        base = layout.VIRTIO_BLOCK_BASE
        if device:
            self.mmio.add(base, layout.VIRTIO_BLOCK_LENGTH, self.device)

        def port_out(cpu: Any, port: int, size: int, value: int, _: object) -> None:
            self.ports.write(port, size, value)
            if self.ends:
                cpu.emu_stop()

        entry = builtin.load(self.memory)
        cpu = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_32)
        buffer = (ctypes.c_char * self.memory.size).from_buffer(self.memory.mapping)
        cpu.mem_map_ptr(0, self.memory.size, unicorn.UC_PROT_ALL, ctypes.addressof(buffer))
        cpu.mmio_map(
            base,
            layout.VIRTIO_BLOCK_LENGTH,
            lambda _cpu, offset, size, _: self.mmio.read(base + offset, size),
            None,
            lambda _cpu, offset, size, value, _: self.mmio.write(base + offset, size, value),
            None,
        )
        hook = unicorn.UC_HOOK_INSN
        cpu.hook_add(
            hook, lambda _cpu, port, size, _: self.ports.read(port, size), None, 1, 0, x86.UC_X86_INS_IN
        )
        cpu.hook_add(hook, port_out, None, 1, 0, x86.UC_X86_INS_OUT)
        cpu.reg_write(x86.UC_X86_REG_ESP, entry.rsp)
        at = entry.rip
        try:
            while not self.ends:
                cpu.emu_start(at, layout.GUEST_END)
                at = cpu.reg_read(x86.UC_X86_REG_EIP)
                assert self.ends or self.memory.read(at - 1, 1) == b"\xf4", "only HLT stops the guest"
                self.halts[self.console.splitlines()[-1]] += 1
                self.now += self.workload.idle_ns()
        except unicorn.UcError as exc:
            assert exc.errno in (unicorn.UC_ERR_INSN_INVALID, unicorn.UC_ERR_EXCEPTION)
            self.ends.append("shutdown")

    def _ender(self, reason: str) -> Callable[[], None]:
        return lambda: self.ends.append(reason)


@contextmanager
def computer(kind: type[Block] = Block, disk_kind: type[Disk] = Disk) -> Iterator[Computer]:
    with (
        GuestMemory(layout.GUEST_END) as memory,
        temporary_disk(SECTORS * SECTOR) as plain,
        disk_kind(os.dup(plain._fd), plain.sectors) as disk,
    ):
        yield Computer(memory, disk, kind)


def pattern(pair: int) -> bytes:
    """What the guest writes for a pair, by the words of its source."""
    first = pair * 0x9E3779B1
    return struct.pack("<128I", *((first + word * 0x61C88647) % 2**32 for word in range(128)))


def test_the_guest_runs_its_phases_and_powers_off() -> None:
    with computer() as vm:
        vm.run()
        assert vm.console.splitlines() == PHASES
        assert vm.ends[0] == "poweroff"
        assert vm.reports == []
        assert vm.now > 1000 * MS
        assert vm.halts["phase: cpu"] == vm.halts["phase: io"] == 0
        assert vm.halts["phase: idle"] >= 10
        assert vm.halts["phase: mixed"] >= 5


def test_every_pair_is_written_and_read_back_and_every_eighth_flushed() -> None:
    with computer() as vm:
        vm.run()
        pairs = vm.completed["write"]
        assert pairs > 5 * SECTORS
        assert vm.completed["read"] == pairs
        assert vm.completed["flush"] == pairs // 8
        assert vm.moved == {"write": pairs * SECTOR, "read": pairs * SECTOR, "flush": 0}
        found = bytearray(SECTORS * SECTOR)
        vm.block._disk.read_into([memoryview(found)], 0)
        for pair in range(pairs - SECTORS + 1, pairs + 1):  # the last one for each sector
            at = pair % SECTORS * SECTOR
            assert found[at : at + SECTOR] == pattern(pair)


class ForgetfulDisk(Disk):
    """Flips one bit of the data, from the hundredth read on."""

    reads = 0

    def read_into(self, views: list[memoryview], sector: int) -> None:
        super().read_into(views, sector)
        self.reads += 1
        if self.reads >= 100:
            views[-1][-1] ^= 1


class FullDisk(Disk):
    def write_from(self, views: list[memoryview], sector: int) -> None:
        raise OSError(28, "No space left on device")


class NoFlush(Block):
    def __init__(self, *what: Any) -> None:
        super().__init__(*what)
        self.features = 0


class ShortQueue(Block):
    queue_max = 4


class Broken(Block):
    def handle(self, chain: Chain) -> int:
        raise QueueError("this device has broken down")


@pytest.mark.parametrize(
    ("kind", "disk_kind", "fault"),
    [
        (NoFlush, Disk, 2),
        (ShortQueue, Disk, 3),
        (Block, FullDisk, 4),
        (Broken, Disk, 4),
        (Block, ForgetfulDisk, 5),
    ],
)
def test_the_guest_reports_a_fault_and_ends(kind: type[Block], disk_kind: type[Disk], fault: int) -> None:
    with computer(kind, disk_kind) as vm:
        vm.run()
        assert vm.reports == [fault]
        assert fault in FAULTS
        assert vm.console.splitlines()[-1] == "fault"
        assert vm.ends[0] == "poweroff"


def test_a_machine_without_a_disk_is_a_fault() -> None:
    with computer() as vm:
        vm.run(device=False)
        assert vm.reports == [1]
        assert vm.console.splitlines() == ["rondo guest: up", "fault"]


@pytest.mark.parametrize(("reset", "end"), [(True, "reset"), (False, "shutdown")])
def test_after_a_failed_power_off_the_guest_resets_then_faults(reset: bool, end: str) -> None:
    with computer() as vm:
        vm.run(power=False, reset=reset)
        assert vm.ends == [end]
        assert vm.console.splitlines() == PHASES


def test_too_little_memory_names_the_flag() -> None:
    with GuestMemory(65536) as memory, pytest.raises(VmError, match="--memory") as caught:
        builtin.load(memory)
    assert caught.value.exit_code == 64


def test_the_binary_matches_its_source() -> None:
    if shutil.which("as") is None or shutil.which("ld") is None:
        must_have("GNU as and ld (binutils) are not on PATH")
    probe = subprocess.run(["as", "--32", "--version"], capture_output=True, text=True, check=False)
    if probe.returncode or "GNU" not in probe.stdout:
        must_have("the assembler on PATH does not make 32-bit x86 code")
    script = ROOT / "scripts" / "build_guest.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_the_guest_stays_small() -> None:
    code = (ROOT / "rondo_tools" / "vmm" / "guest" / "workload.bin").read_bytes()
    assert len(code) <= 1024
    assert layout.GUEST_CODE + len(code) + 4096 <= layout.GUEST_END, "its zeroed data follows the code"
