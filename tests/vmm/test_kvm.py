"""What only KVM has: its device, its permissions, its own errors."""

from __future__ import annotations

import errno
import grp
import mmap
import os
import signal
import threading
from collections.abc import Iterator
from ctypes import sizeof
from pathlib import Path
from typing import Any

import pytest

from rondo_tools.errors import VmError
from rondo_tools.vmm.accel import kvm, kvm_abi
from rondo_tools.vmm.accel.base import HLT, IO, OTHER, Exit
from rondo_tools.vmm.memory import GuestMemory
from tests.support.needs import PATIENCE_S

needs_kvm = pytest.mark.skipif(not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="/dev/kvm does not open")


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with GuestMemory(1 << 20) as memory:
        yield memory


def test_the_abi_is_linux() -> None:
    """Sizes and numbers as a C compiler gives them for linux/kvm.h on x86-64."""
    sizes = {kvm_abi.Segment: 24, kvm_abi.Table: 16, kvm_abi.Sregs: 312, kvm_abi.Regs: 144}
    sizes |= {kvm_abi.MemoryRegion: 32, kvm_abi.SignalMask: 12, kvm_abi.PitConfig: 64, kvm_abi.IrqLevel: 8}
    sizes |= {kvm_abi.CpuidEntry: 40, kvm_abi.Cpuid: 8 + 40 * kvm_abi.CPUID_ENTRIES, kvm_abi.Msr: 16}
    assert {kind: sizeof(kind) for kind in sizes} == sizes
    assert kvm_abi.SET_USER_MEMORY_REGION == 0x4020AE46
    assert kvm_abi.GET_REGS == 0x8090AE81
    assert kvm_abi.SET_SREGS == 0x4138AE84
    assert kvm_abi.SET_SIGNAL_MASK == 0x4004AE8B
    assert kvm_abi.RUN == 0xAE80
    assert kvm_abi.GET_SUPPORTED_CPUID == 0xC008AE05
    assert kvm_abi.SET_CPUID2 == 0x4008AE90
    assert kvm_abi.SET_MSRS == 0x4008AE89
    assert kvm_abi.SET_IDENTITY_MAP_ADDR == 0x4008AE48
    assert kvm_abi.CREATE_IRQCHIP == 0xAE60
    assert kvm_abi.CREATE_PIT2 == 0x4040AE77
    assert kvm_abi.IRQ_LINE == 0x4008AE61
    assert kvm_abi.GET_STATS_FD == 0xAECE


def test_a_missing_device_is_named(memory: GuestMemory, tmp_path: Path) -> None:
    with pytest.raises(VmError, match=rf"there is no {tmp_path}/kvm.*--accel soft") as caught:
        kvm.Kvm(memory.mapping, device=str(tmp_path / "kvm"))
    assert caught.value.exit_code == 69


def test_another_device_is_refused(memory: GuestMemory) -> None:
    with pytest.raises(VmError, match="/dev/null"):
        kvm.Kvm(memory.mapping, device="/dev/null")


def denied(monkeypatch: pytest.MonkeyPatch, memory: GuestMemory, *, gid: int, mode: int) -> str:
    """The message for a device of that group and mode that may not be opened."""

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    seen = os.stat_result((0o020000 | mode, 0, 0, 1, 0, gid, 0, 0, 0, 0))
    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "stat", lambda path: seen)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getegid", lambda: 1000)
    monkeypatch.setattr(os, "getgroups", lambda: [1000])
    with pytest.raises(VmError) as caught:
        kvm.Kvm(memory.mapping)
    assert caught.value.exit_code == 69
    return str(caught.value)


def test_the_message_names_a_missing_group(monkeypatch: pytest.MonkeyPatch, memory: GuestMemory) -> None:
    monkeypatch.setattr(grp, "getgrgid", lambda gid: grp.struct_group(("kvm", "x", gid, [])))
    message = denied(monkeypatch, memory, gid=104, mode=0o660)
    assert "usermod -aG kvm USER, then log in again" in message
    assert "group kvm, mode 0660" in message


def test_the_message_names_a_wrong_mode(monkeypatch: pytest.MonkeyPatch, memory: GuestMemory) -> None:
    message = denied(monkeypatch, memory, gid=0, mode=0o600)
    assert "mode 0600" in message
    assert "chgrp kvm /dev/kvm && chmod 660 /dev/kvm" in message


def test_the_message_names_a_security_policy_if_permissions_are_right(
    monkeypatch: pytest.MonkeyPatch, memory: GuestMemory
) -> None:
    assert "a container or a security policy" in denied(monkeypatch, memory, gid=1000, mode=0o660)


@needs_kvm
def test_an_internal_error_has_details_and_registers(memory: GuestMemory) -> None:
    memory.write(0x1000, bytes.fromhex("e900000020"))  # a jump to where no memory is
    machine = kvm.Kvm(memory.mapping)
    seen: list[Exit] = []

    def handle(stopped: int, *fields: Any) -> bytes:
        exit = Exit(*fields)
        seen.append(exit)
        machine.vcpu.stop()
        return b""

    machine.vcpu.enter_flat(0x1000, 0x8000)
    machine.vcpu.run(handle)
    registers = machine.vcpu.registers()
    machine.close()
    assert seen[0].reason == OTHER
    assert seen[0].detail.startswith("KVM_EXIT_INTERNAL_ERROR, suberror ")
    assert "rip=0x20001005" in registers
    assert "rsp=0x8000" in registers


@needs_kvm
def test_an_interrupted_run_is_not_an_exit(memory: GuestMemory) -> None:
    memory.write(0x1000, bytes.fromhex("e680 e681 e682 f4"))  # out 0x80, al; ... 0x81; ... 0x82; hlt
    machine = kvm.Kvm(memory.mapping)
    seen: list[tuple[str, int]] = []

    def handle(stopped: int, *fields: Any) -> bytes:
        exit = Exit(*fields)
        seen.append((exit.reason, exit.address))
        signal.pthread_kill(threading.get_ident(), kvm.KICK)  # the next KVM_RUN ends with EINTR
        if exit.reason == HLT:
            machine.vcpu.stop()
        return b""

    machine.vcpu.enter_flat(0x1000, 0x8000)
    # In a thread: should it hang, all signals are blocked there, the test's time-out among them.
    thread = threading.Thread(target=machine.vcpu.run, args=(handle,), daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    machine.close()
    assert seen == [(IO, 0x80), (IO, 0x81), (IO, 0x82), (HLT, 0)]


@needs_kvm
def test_a_run_restores_the_signal_mask_and_leaves_no_signal_pending(memory: GuestMemory) -> None:
    memory.write(0x1000, bytes.fromhex("ebfe"))
    machine = kvm.Kvm(memory.mapping)
    machine.vcpu.enter_flat(0x1000, 0x8000)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    machine.vcpu.stop()
    machine.vcpu.run(lambda *_: b"")
    machine.close()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert kvm.KICK not in signal.sigpending()


@needs_kvm
def test_no_descriptor_is_left_open(memory: GuestMemory) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    for _ in range(3):
        kvm.Kvm(memory.mapping).close()
    assert set(Path("/proc/self/fd").iterdir()) == before


@needs_kvm
def test_memory_cannot_be_closed_under_a_running_machine(memory: GuestMemory) -> None:
    machine = kvm.Kvm(memory.mapping)
    with pytest.raises(BufferError):
        memory.mapping.close()
    machine.close()


@needs_kvm
def test_memory_that_kvm_refuses_is_an_error(memory: GuestMemory) -> None:
    ragged = mmap.mmap(-1, 4096 + 17)
    with pytest.raises(VmError, match="KVM cannot create the VM"):
        kvm.Kvm(ragged)
    ragged.close()
