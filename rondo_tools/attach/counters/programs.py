"""The two BPF programs that count for rondo-attach, and their value for each thread. No I/O.

Strategy: a program on the raw tracepoint `kvm_userspace_exit` adds one to the running thread's counter of
the exit's reason; one on `kvm_vcpu_wakeup` adds one to its `hlt`. Only the thread itself writes its value, so
a plain add is enough. A thread gets its value at its first return from KVM_RUN, for any reason, or at its
first wakeup: the map's keys are the vCPU threads.

    key    u64: process id << 32 | thread id
    value  u64 io, mmio, hlt, shutdown, other, first_ns (CLOCK_BOOTTIME)

A full map takes no new thread: `lost` counts the events of threads without a value. Both programs return 1,
because a program that returns 0 would silence other programs' perf counters on the same tracepoint.
"""

from __future__ import annotations

from rondo_tools.attach.counters.assembler import (
    R0,
    R1,
    R2,
    R3,
    R4,
    R7,
    R8,
    R10,
    Line,
    add,
    assemble,
    atomic_add_64,
    call,
    jump,
    jump_if_equal,
    jump_unless_equal,
    leave,
    load_32,
    load_64,
    load_map,
    move,
    set_to,
    store_64,
    store_zero_32,
    store_zero_64,
)

EXIT_TRACEPOINT = "kvm_userspace_exit"
WAKEUP_TRACEPOINT = "kvm_vcpu_wakeup"

KEY_BYTES, VALUE_BYTES = 8, 48
LOST_KEY_BYTES, LOST_VALUE_BYTES = 4, 8

# KVM_EXIT_* of <linux/kvm.h>, in the order of the value's first counters; "other" follows them.
REASONS = (2, 6, 5, 8)
_INTR = 10  # a signal stopped KVM_RUN: no exit of the guest
_HLT_AT, _FIRST_NS_AT = 16, 40

# Functions of the kernel, <linux/bpf.h>.
_MAP_LOOKUP, _MAP_UPDATE = 1, 2
_GET_CURRENT_PID_TGID, _KTIME_GET_BOOT_NS = 14, 125
_BPF_NOEXIST = 1

# Offsets from the end of the stack: the key, and below it a new value.
_KEY = -KEY_BYTES
_VALUE = _KEY - VALUE_BYTES


def count_exits(threads: int, lost: int) -> bytes:
    """The program for `kvm_userspace_exit(reason, errno)`; the arguments are descriptors of the two maps."""
    which: list[Line] = [
        jump_unless_equal(R8, 0, "out"),  # KVM_RUN failed, or a signal came: EINTR
        jump_if_equal(R7, _INTR, "out"),
    ]
    for reason in REASONS:
        which += [jump_if_equal(R7, reason, "count"), add(R0, 8)]
    return assemble(
        [
            load_64(R7, R1, 0),  # reason
            load_32(R8, R1, 8),  # errno
            *_find_value(threads, lost),
            *which,
            *_count(),
        ]
    )


def count_wakeups(threads: int, lost: int) -> bytes:
    """The program for `kvm_vcpu_wakeup`: a vCPU that slept inside KVM after a HLT continues."""
    return assemble([*_find_value(threads, lost), add(R0, _HLT_AT), *_count()])


def _find_value(threads: int, lost: int) -> list[Line]:
    """Let R0 point at the thread's value, new if necessary. If the map is full, count that, jump "out"."""
    return [
        call(_GET_CURRENT_PID_TGID),
        store_64(R10, _KEY, R0),
        *_look_up(threads),
        jump_unless_equal(R0, 0, "found"),
        *(store_zero_64(R10, _VALUE + at) for at in range(0, VALUE_BYTES, 8)),
        call(_KTIME_GET_BOOT_NS),
        store_64(R10, _VALUE + _FIRST_NS_AT, R0),
        load_map(R1, threads),
        *_address(R2, _KEY),
        *_address(R3, _VALUE),
        set_to(R4, _BPF_NOEXIST),
        call(_MAP_UPDATE),
        *_look_up(threads),
        jump_unless_equal(R0, 0, "found"),
        store_zero_32(R10, _KEY),
        *_look_up(lost),
        jump_if_equal(R0, 0, "out"),
        set_to(R1, 1),
        atomic_add_64(R0, 0, R1),
        jump("out"),
        "found",
    ]


def _look_up(fd: int) -> list[Line]:
    return [load_map(R1, fd), *_address(R2, _KEY), call(_MAP_LOOKUP)]


def _address(to: int, offset: int) -> list[Line]:
    """Load an address on the stack."""
    return [move(to, R10), add(to, offset)]


def _count() -> list[Line]:
    """Add one where R0 points, and return."""
    return [
        "count",
        load_64(R1, R0, 0),
        add(R1, 1),
        store_64(R0, 0, R1),
        "out",
        set_to(R0, 1),
        leave(),
    ]
