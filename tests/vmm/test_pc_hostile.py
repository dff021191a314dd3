"""Whatever a guest does to the PC around it: no exception, no interrupt but its own, no growth."""

from __future__ import annotations

import mmap
import os
import random
import struct
import sys
import threading
import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rondo_tools.catalog import SERIES
from rondo_tools.stream import Header
from rondo_tools.vmm import layout
from rondo_tools.vmm.accel.base import IO, MMIO, Exit, ScriptedVcpu
from rondo_tools.vmm.boards import pc
from rondo_tools.vmm.boot import image, linux
from rondo_tools.vmm.devices.serial import Serial
from rondo_tools.vmm.devices.virtio.disk import temporary_disk
from rondo_tools.vmm.devices.virtio.mmio import MmioTransport, Register, Status
from rondo_tools.vmm.devices.virtio.queue import Chain
from rondo_tools.vmm.devices.virtio.rng import MAX_REQUEST, Rng
from rondo_tools.vmm.keyboard import Keyboard
from rondo_tools.vmm.machine import Machine
from rondo_tools.vmm.memory import GuestMemory
from rondo_tools.vmm.run import run_vm
from rondo_tools.vmm.wakeup import Wakeup
from tests.support.needs import PATIENCE_S, must_have
from tests.support.vmm.kernels import bzimage, vmlinux
from tests.support.vmm.virtio_driver import (
    AVAILABLE,
    DATA,
    MEMORY,
    NEXT,
    TABLE,
    USED,
    WRITE,
    Descriptor,
    quiet,
)

SIZE = 32 << 20
GUEST = linux.Guest(image.parse(bzimage("f4"), layout.PC_HIGH), "kernel", b"", "", b"")

places = st.one_of(
    st.sampled_from([0x60, 0x64, 0x70, 0x71, *range(0x3F8, 0x400), 0x600, 0x601]),
    st.integers(0, 0xFFFF),
)
registers = st.one_of(
    st.integers(0, 3 * 0x1000).map(lambda offset: layout.VIRTIO_BLOCK_BASE + offset),
    st.builds(
        lambda device, register: layout.VIRTIO_BLOCK_BASE + device * layout.VIRTIO_STEP + register,
        st.integers(0, 2),
        st.sampled_from([value for name, value in vars(Register).items() if not name.startswith("_")]),
    ),
    st.sampled_from([0xFEC0_0000, 0xFEE0_0000, 0xFFFF_FFFF, 2**64 - 8]),
)
data = st.one_of(
    st.sampled_from([bytes(8), b"\1" + bytes(7), b"\x34" * 8, b"\xfe" * 8]), st.binary(min_size=8, max_size=8)
)


def an_exit(reason: str, write: bool, address: int, size: int, repeat: int, value: bytes) -> Exit:
    return Exit(reason, write, address, size, repeat, (value * repeat)[: size * repeat] if write else b"")


sizes = st.sampled_from([1, 1, 1, 2, 4])
exits = st.lists(
    st.one_of(
        st.builds(an_exit, st.just(IO), st.booleans(), places, sizes, st.sampled_from([1, 1, 3]), data),
        st.builds(an_exit, st.just(MMIO), st.booleans(), registers, st.integers(1, 8), st.just(1), data),
    ),
    max_size=80,
)


class Vcpu(ScriptedVcpu):
    def enter_long(self, **entry: int) -> None:
        """Ignores the entry point: the script decides."""


class FakeKvm:
    """A fake KVM: scripted vCPUs, and a record of the interrupt lines."""

    def __init__(self, *scripts: Iterable[Exit]) -> None:
        self.scripts = scripts
        self.lines: list[int] = []

    def __call__(self, memory: mmap.mmap, *, cpus: int) -> FakeKvm:
        self.vcpus = [Vcpu(script) for script in self.scripts]
        return self

    def interrupt(self, line: int, *, level: bool) -> None:
        self.lines.append(line)

    def halts(self) -> None:
        return None

    def close(self) -> None:
        pass


def run(kvm: FakeKvm) -> str:
    """Run the scripts to their end; returns why the VM ended, with the detail."""
    keyboard = Keyboard()
    over = threading.Event()
    plan = pc.PcBoard(GUEST, SIZE, len(kvm.scripts), keyboard)
    with pytest.MonkeyPatch.context() as patch, quiet():
        patch.setattr(pc, "KvmPc", kvm)
        disks = [temporary_disk(1 << 16) for _ in range(2)]
        with Machine(plan, disks, lambda out: None, over.set) as machine:
            keyboard.type(b"hello" * 100)
            machine.start()
            assert over.wait(PATIENCE_S)
            assert machine.end is not None
            return f"{machine.end.reason}: {machine.end.detail}"


GOOD_ENDS = ("poweroff: ", "reset: ", "error: the accelerator stopped without a reason")


@pytest.mark.heavy
@given(exits)
@settings(max_examples=150, deadline=None)
def test_random_accesses(script: list[Exit]) -> None:
    kvm = FakeKvm(script)
    assert run(kvm) in GOOD_ENDS
    for exit, answer in zip(script, kvm.vcpus[0].answers, strict=False):
        assert len(answer) == (0 if exit.write else exit.size * exit.repeat)
    assert set(kvm.lines) <= {layout.COM1_IRQ, 16, 17, 18}


def test_two_processors_at_the_same_devices() -> None:
    """The same two scripts again and again, with a switch of threads wherever one can be."""
    chance = random.Random(7)
    scripts = []
    for _ in range(2):
        script = []
        for _ in range(20_000):
            write = chance.random() < 0.5
            if chance.random() < 0.5:
                reason, address, size = IO, chance.choice([0x70, 0x71, *range(0x3F8, 0x400)]), 1
            else:
                device = layout.VIRTIO_BLOCK_BASE + chance.randrange(3) * layout.VIRTIO_STEP
                reason, address, size = MMIO, device + chance.randrange(0, 0x110, 4), 4
            value = bytes([chance.choice([0, 1, 3, 8, 11])]) + bytes(3)
            script.append(Exit(reason, write, address, size, 1, value[:size] if write else b""))
        scripts.append(script)
    kvm = FakeKvm(*scripts)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        # The first to come to its end ends the VM.
        assert run(kvm) == GOOD_ENDS[2]
    finally:
        sys.setswitchinterval(interval)
    assert max(len(vcpu.answers) for vcpu in kvm.vcpus) == 20_000


@given(
    st.lists(st.one_of(st.tuples(st.integers(0, 7), st.integers(0, 255)), st.integers(0, 7)), max_size=200)
)
def test_the_serial_port_requests_input_only_when_empty(steps: list[Any]) -> None:
    levels: list[bool] = []
    received = 0

    def feed() -> None:
        nonlocal received
        assert not port._received
        if received < 200:
            received += 3
            port.receive(b"abc")

    port = Serial(lambda out: None, levels.append, feed)
    for step in steps:
        if isinstance(step, tuple):
            port.write(step[0], 1, step[1])
        else:
            assert 0 <= port.read(step, 1) < 256
        assert len(port._received) <= 32
    assert all(one != other for one, other in pairwise(levels))
    assert levels[:1] in ([], [True])


addresses = st.one_of(
    st.sampled_from([0, TABLE, AVAILABLE, USED, DATA, MEMORY - 1, MEMORY, 2**63, 2**64 - 1]),
    st.integers(0, 2**64 - 1),
)
lengths = st.one_of(st.sampled_from([0, 1, 512, MEMORY, 2**32 - 1]), st.integers(0, 2**32 - 1))
flags = st.one_of(st.sampled_from([0, NEXT, WRITE, NEXT | WRITE]), st.integers(0, 65535))
descriptors = st.builds(Descriptor, addresses, lengths, flags, st.integers(0, 9))


@given(
    st.lists(descriptors, max_size=8), st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(0, 9)
)
@pytest.mark.heavy
@settings(max_examples=200, deadline=None)
def test_random_rings_of_the_entropy_device(table: list[Descriptor], heads: list[int], count: int) -> None:
    class Watched(Rng):
        def handle(self, chain: Chain) -> int:
            written = super().handle(chain)
            assert written <= min(MAX_REQUEST, sum(length for _, length in chain.writable))
            return written

    with GuestMemory(MEMORY) as memory, quiet():
        device = MmioTransport(Watched(memory), memory)
        ready = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK
        for register, value in (
            (Register.DRIVER_FEATURES_SEL, 1),
            (Register.DRIVER_FEATURES, 1),
            (Register.STATUS, ready),
            (Register.QUEUE_NUM, 8),
            (Register.QUEUE_DESC_LOW, TABLE),
            (Register.QUEUE_DRIVER_LOW, AVAILABLE),
            (Register.QUEUE_DEVICE_LOW, USED),
            (Register.QUEUE_READY, 1),
            (Register.STATUS, ready | Status.DRIVER_OK),
        ):
            device.write(register, 4, value)
        assert device.read(Register.QUEUE_READY, 4) == 1
        for at, descriptor in enumerate(table):
            memory.write(TABLE + 16 * at, struct.pack("<QIHH", *descriptor))
        memory.write(AVAILABLE, struct.pack(f"<HH{len(heads)}H", 0, count, *heads))
        device.write(Register.QUEUE_NOTIFY, 4, 0)


def test_random_code_on_kvm(tmp_path: Path) -> None:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        must_have("/dev/kvm does not open")
    chance = random.Random(5)
    reasons = set()
    for _ in range(25):
        (tmp_path / "kernel").write_bytes(vmlinux(chance.randbytes(4000).hex()))
        guest = linux.read(str(tmp_path / "kernel"), None, "")
        header = Header("vm", time.time_ns() // 1_000_000, (), 1000, SERIES)
        with (
            quiet(),
            Wakeup() as wakeup,
            Machine(
                pc.PcBoard(guest, SIZE), [temporary_disk(1 << 16)], lambda out: None, wakeup.wake
            ) as machine,
        ):
            end = run_vm(machine, header, lambda _: None, lambda *_: None, wakeup, deadline_ms=60).end
        assert "VMM failed" not in end.detail, end
        reasons.add(end.reason)
    assert reasons <= {"shutdown", "error", "deadline", "reset", "poweroff"}
