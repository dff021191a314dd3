"""KVM with the interrupt controllers and the timer of a PC, as Linux needs them.

Strategy: the interrupt controllers (two PICs, an I/O APIC, a local APIC for each vCPU) and the PIT are
inside KVM, so that a timer tick or an idle processor causes no exit. A HLT does not exit either, and
only KVM counts it; `halts` reads KVM's binary statistics. All vCPUs except the first wait inside KVM_RUN
until the guest starts them through its APIC.

Source: Documentation/virt/kvm/api.rst of Linux.
"""

from __future__ import annotations

import ctypes
import os

from rondo_tools.errors import EX_USAGE, VmError
from rondo_tools.vmm.accel import kvm_abi as abi
from rondo_tools.vmm.accel.cpuid import Leaf, describe
from rondo_tools.vmm.accel.kvm import TSS_ADDRESS, Kvm, KvmVcpu, call

# A page table that Intel processors need for real mode.
_IDENTITY_MAP_ADDRESS = TSS_ADDRESS - 0x1000

_CR0 = 0x8000_0033  # PE, MP, ET, NE, PG
_CR4 = 0x0000_0020  # PAE
_EFER = 0x0000_0500  # LME, LMA

# The registers that firmware sets on every processor (Intel SDM 4): fast string instructions, and
# write-back caching by default.
_MSRS = (
    (0x1A0, 1 << 0),  # IA32_MISC_ENABLE: fast strings
    (0x2FF, 1 << 11 | 6),  # IA32_MTRR_DEF_TYPE: enabled, write-back
)


class KvmPc(Kvm):
    """A KVM machine with interrupt controllers and a timer. `vcpus` are `PcVcpu`s.

    Raises VmError with exit status 69 if KVM is not available, 64 if it does not support so many `cpus`.
    """

    vcpus: list[PcVcpu]  # type: ignore[assignment] # _make_vcpu makes no others

    def _prepare(self, system: int, cpus: int) -> None:
        most = call(system, abi.CHECK_EXTENSION, abi.CAP_MAX_VCPUS)
        if cpus > most:
            raise VmError(f"--cpus {cpus}: this machine's KVM supports {most}", exit_code=EX_USAGE)
        call(self._fd, abi.SET_IDENTITY_MAP_ADDR, ctypes.c_uint64(_IDENTITY_MAP_ADDRESS))
        call(self._fd, abi.CREATE_IRQCHIP)
        call(self._fd, abi.CREATE_PIT2, abi.PitConfig(flags=abi.PIT_SPEAKER_DUMMY))
        offered = abi.Cpuid(nent=abi.CPUID_ENTRIES)
        call(system, abi.GET_SUPPORTED_CPUID, offered)
        self._offered = [
            Leaf(*(getattr(entry, name) for name in abi.CPUID_FIELDS))
            for entry in offered.entries[: offered.nent]
        ]
        self._deadline_timer = call(system, abi.CHECK_EXTENSION, abi.CAP_TSC_DEADLINE_TIMER) > 0
        self._cpus = cpus

    def _make_vcpu(self, number: int, page_size: int) -> PcVcpu:
        vcpu = PcVcpu(call(self._fd, abi.CREATE_VCPU, number), page_size)
        try:
            vcpu.set_cpuid(describe(self._offered, number, self._cpus, deadline_timer=self._deadline_timer))
            vcpu.set_msrs()
        except BaseException:
            vcpu.close()
            raise
        return vcpu

    def interrupt(self, line: int, *, level: bool) -> None:
        """Set an interrupt line high or low, from any thread."""
        call(self._fd, abi.IRQ_LINE, abi.IrqLevel(irq=line, level=level))

    def halts(self) -> int | None:
        """The number of halts of all vCPUs; None if KVM does not report it (before Linux 5.14)."""
        counts = [vcpu.halts() for vcpu in self.vcpus]
        return None if None in counts else sum(count for count in counts if count is not None)


class PcVcpu(KvmVcpu):
    """A vCPU with a local APIC. The first one starts in 64-bit mode; the guest starts the others."""

    def __init__(self, fd: int, page_size: int) -> None:
        super().__init__(fd, page_size)
        self._statistics, self._halts_at = _open_statistics(fd)

    def close(self) -> None:
        if self._statistics >= 0:
            os.close(self._statistics)
            self._statistics = -1
        super().close()

    def set_cpuid(self, leaves: list[Leaf]) -> None:
        """Set the leaves that CPUID returns on this vCPU."""
        table = abi.Cpuid(nent=len(leaves))
        for entry, leaf in zip(table.entries, leaves, strict=False):
            for name, value in zip(abi.CPUID_FIELDS, leaf, strict=True):
                setattr(entry, name, value)
        call(self.fd, abi.SET_CPUID2, table)

    def set_msrs(self) -> None:
        """Set the registers of `_MSRS`. One that this KVM rejects keeps its value: none is essential."""
        table = abi.Msrs(nmsrs=len(_MSRS))
        for entry, (index, value) in zip(table.entries, _MSRS, strict=True):
            entry.index, entry.data = index, value
        call(self.fd, abi.SET_MSRS, table)

    def enter_long(self, *, rip: int, rsi: int, cr3: int, gdt: int, gdt_limit: int) -> None:
        """Set 64-bit mode with paging, selectors 0x10 (code) and 0x18 (data), interrupts off."""
        sregs = abi.Sregs()
        call(self.fd, abi.GET_SREGS, sregs)
        sregs.cs = abi.Segment(limit=0xFFFFFFFF, selector=0x10, type=11, present=1, s=1, l=1, g=1)
        for name in ("ds", "es", "fs", "gs", "ss"):
            segment = abi.Segment(limit=0xFFFFFFFF, selector=0x18, type=3, present=1, db=1, s=1, g=1)
            setattr(sregs, name, segment)
        sregs.gdt = abi.Table(base=gdt, limit=gdt_limit)
        sregs.idt = abi.Table(base=0, limit=0)
        sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer = _CR0, cr3, _CR4, _EFER
        call(self.fd, abi.SET_SREGS, sregs)
        call(self.fd, abi.SET_REGS, abi.Regs(rip=rip, rsi=rsi, rflags=2))  # bit 1 is always set

    def halts(self) -> int | None:
        """The number of halts of this vCPU; None if KVM does not report it."""
        if self._statistics < 0:
            return None
        return int.from_bytes(os.pread(self._statistics, 8, self._halts_at), "little")


def _open_statistics(vcpu: int) -> tuple[int, int]:
    """Open a vCPU's statistics: descriptor and offset of its halts; (-1, 0) if KVM has none."""
    try:
        fd = call(vcpu, abi.GET_STATS_FD)
    except OSError:
        return -1, 0
    try:
        header = os.pread(fd, abi.STATS_HEADER.size, 0)
        _, name_size, count, _, descriptors, data = abi.STATS_HEADER.unpack(header)
        size = abi.STATS_DESCRIPTOR.size + name_size
        table = os.pread(fd, count * size, descriptors)
        for at in range(0, len(table), size):
            name = table[at + abi.STATS_DESCRIPTOR.size : at + size].rstrip(b"\0")
            if name == b"halt_exits":
                _, _, _, offset, _ = abi.STATS_DESCRIPTOR.unpack_from(table, at)
                return fd, data + offset
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return -1, 0
