"""KVM's binary interface on x86-64: request numbers, structures, offsets; no behaviour.

Source: Linux' include/uapi/linux/kvm.h and arch/x86/include/uapi/asm/kvm.h, and
Documentation/virt/kvm/api.rst for what they mean. The interface is stable: API version 12 since
2.6.22.
"""

from __future__ import annotations

from ctypes import Structure, c_uint8, c_uint16, c_uint32, c_uint64, sizeof
from struct import Struct

API_VERSION = 12


class Segment(Structure):
    """struct kvm_segment."""

    _fields_ = (
        ("base", c_uint64),
        ("limit", c_uint32),
        ("selector", c_uint16),
        ("type", c_uint8),
        ("present", c_uint8),
        ("dpl", c_uint8),
        ("db", c_uint8),
        ("s", c_uint8),
        ("l", c_uint8),
        ("g", c_uint8),
        ("avl", c_uint8),
        ("unusable", c_uint8),
        ("padding", c_uint8),
    )


class Table(Structure):
    """struct kvm_dtable."""

    _fields_ = (("base", c_uint64), ("limit", c_uint16), ("padding", c_uint16 * 3))


class Sregs(Structure):
    """struct kvm_sregs."""

    _fields_ = (
        *((name, Segment) for name in ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")),
        ("gdt", Table),
        ("idt", Table),
        *((name, c_uint64) for name in ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")),
        ("interrupt_bitmap", c_uint64 * 4),
    )


REGISTERS = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags"),
)


class Regs(Structure):
    """struct kvm_regs."""

    _fields_ = tuple((name, c_uint64) for name in REGISTERS)


class MemoryRegion(Structure):
    """struct kvm_userspace_memory_region."""

    _fields_ = (
        ("slot", c_uint32),
        ("flags", c_uint32),
        ("guest_phys_addr", c_uint64),
        ("memory_size", c_uint64),
        ("userspace_addr", c_uint64),
    )


class SignalMask(Structure):
    """struct kvm_signal_mask, with the eight bytes of the kernel's sigset behind it."""

    _pack_ = 1
    _layout_ = "ms"  # what _pack_ means; required from Python 3.14 on
    _fields_ = (("len", c_uint32), ("sigset", c_uint64))


class PitConfig(Structure):
    """struct kvm_pit_config."""

    _fields_ = (("flags", c_uint32), ("pad", c_uint32 * 15))


class IrqLevel(Structure):
    """struct kvm_irq_level."""

    _fields_ = (("irq", c_uint32), ("level", c_uint32))


CPUID_FIELDS = ("function", "index", "flags", "eax", "ebx", "ecx", "edx")


class CpuidEntry(Structure):
    """struct kvm_cpuid_entry2."""

    _fields_ = (
        *((name, c_uint32) for name in CPUID_FIELDS),
        ("padding", c_uint32 * 3),
    )


CPUID_ENTRIES = 256  # KVM_MAX_CPUID_ENTRIES of the kernels that have the fewest is 80


class Cpuid(Structure):
    """struct kvm_cpuid2, with room for entries."""

    _fields_ = (("nent", c_uint32), ("padding", c_uint32), ("entries", CpuidEntry * CPUID_ENTRIES))


class Msr(Structure):
    """struct kvm_msr_entry."""

    _fields_ = (("index", c_uint32), ("reserved", c_uint32), ("data", c_uint64))


class Msrs(Structure):
    """struct kvm_msrs, with room for those that we set."""

    _fields_ = (("nmsrs", c_uint32), ("pad", c_uint32), ("entries", Msr * 2))


def _io(number: int) -> int:
    return 0xAE << 8 | number


def _iow(number: int, size: int) -> int:
    return 1 << 30 | size << 16 | _io(number)


def _ior(number: int, size: int) -> int:
    return 2 << 30 | size << 16 | _io(number)


def _iowr(number: int, size: int) -> int:
    return 3 << 30 | size << 16 | _io(number)


# On /dev/kvm.
GET_API_VERSION = _io(0x00)
CREATE_VM = _io(0x01)
CHECK_EXTENSION = _io(0x03)  # on a VM too
GET_VCPU_MMAP_SIZE = _io(0x04)
GET_SUPPORTED_CPUID = _iowr(0x05, 8)  # the size of its fixed part
# On a VM.
CREATE_VCPU = _io(0x41)
SET_USER_MEMORY_REGION = _iow(0x46, sizeof(MemoryRegion))
SET_TSS_ADDR = _io(0x47)
SET_IDENTITY_MAP_ADDR = _iow(0x48, 8)
CREATE_IRQCHIP = _io(0x60)
IRQ_LINE = _iow(0x61, sizeof(IrqLevel))
CREATE_PIT2 = _iow(0x77, sizeof(PitConfig))
# On a vCPU.
RUN = _io(0x80)
GET_REGS = _ior(0x81, sizeof(Regs))
SET_REGS = _iow(0x82, sizeof(Regs))
GET_SREGS = _ior(0x83, sizeof(Sregs))
SET_SREGS = _iow(0x84, sizeof(Sregs))
GET_MSRS = _iowr(0x88, 8)  # the size of its fixed part, as with the next three
SET_MSRS = _iow(0x89, 8)
SET_SIGNAL_MASK = _iow(0x8B, 4)
SET_CPUID2 = _iow(0x90, 8)
GET_STATS_FD = _io(0xCE)

CAP_MAX_VCPUS = 66
CAP_TSC_DEADLINE_TIMER = 72
PIT_SPEAKER_DUMMY = 1  # a flag: port 0x61 is KVM's too

# struct kvm_run, the page shared with the kernel. What lies in the union depends on exit_reason.
RUN_EXIT_REASON = 8  # u32
RUN_IO = Struct("<BBHIQ")  # at 32: direction, size, port, count, offset of the data in this page
RUN_MMIO = Struct("<Q8sIB")  # at 32: address, data, length, is_write
RUN_INTERNAL = Struct("<II")  # at 32: suberror, number of u64 that follow
RUN_FAIL_ENTRY = Struct("<QI")  # at 32: the hardware's reason, cpu
RUN_UNION = 32
RUN_MMIO_DATA = RUN_UNION + 8
RUN_INTERNAL_DATA = RUN_UNION + RUN_INTERNAL.size

# The binary statistics behind GET_STATS_FD (api.rst, 4.131).
STATS_HEADER = Struct("<6I")  # flags, size of a name, how many, then where: id, descriptors, data
STATS_DESCRIPTOR = Struct("<IhHII")  # flags, exponent, size, offset in the data, bucket size; a name follows

EXIT_IO = 2
EXIT_HLT = 5
EXIT_MMIO = 6
EXIT_SHUTDOWN = 8
EXIT_FAIL_ENTRY = 9
EXIT_INTERNAL_ERROR = 17

EXIT_NAMES = {
    0: "KVM_EXIT_UNKNOWN",
    1: "KVM_EXIT_EXCEPTION",
    3: "KVM_EXIT_HYPERCALL",
    4: "KVM_EXIT_DEBUG",
    7: "KVM_EXIT_IRQ_WINDOW_OPEN",
    10: "KVM_EXIT_INTR",
    16: "KVM_EXIT_NMI",
    24: "KVM_EXIT_SYSTEM_EVENT",
    29: "KVM_EXIT_X86_RDMSR",
    30: "KVM_EXIT_X86_WRMSR",
    33: "KVM_EXIT_X86_BUS_LOCK",
    37: "KVM_EXIT_NOTIFY",
}
INTERNAL_ERRORS = {
    1: "an instruction that KVM cannot emulate",
    2: "more than one exception at once",
    3: "an event that could not be delivered",
    4: "an exit reason that KVM did not expect",
}
