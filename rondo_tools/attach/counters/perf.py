"""Exits counted by perf: the fallback if BPF is refused. One group of counters for each thread of a VMM.

Strategy: each thread gets a group of counters: five on `kvm:kvm_userspace_exit`, with filters, and one on
`kvm:kvm_vcpu_wakeup`. Threads that it starts inherit the group. Counts outlive the process. Exits before the
counters are open, in the first milliseconds of a VM, are not counted. A thread that starts between listing
and opening would never be counted: so list, open, list again, and repeat if there is a new thread.

The first counter on an idle tracepoint takes tens of milliseconds, because the kernel patches its code: one
group on our own process stays open.

Needs CAP_PERFMON, and root or CAP_DAC_READ_SEARCH for the tracepoints' ids in tracefs.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Mapping
from pathlib import Path

from rondo_tools.attach.counters.base import Counts, ProcessExits
from rondo_tools.catalog import EXIT_REASONS

NEEDS = "CAP_PERFMON, and to read tracefs: root or CAP_DAC_READ_SEARCH"
_TRACING = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))

_EXIT, _WAKEUP = "kvm_userspace_exit", "kvm_vcpu_wakeup"
# Events in the order of a group, with filters on the tracepoint's fields. Reason 10 is KVM_EXIT_INTR.
_EVENTS = (
    (_EXIT, "errno==0 && reason==2"),
    (_EXIT, "errno==0 && reason==6"),
    (_EXIT, "errno==0 && reason==5"),
    (_EXIT, "errno==0 && reason==8"),
    (_EXIT, "errno==0 && reason!=2 && reason!=6 && reason!=5 && reason!=8 && reason!=10"),
    (_WAKEUP, ""),
)

_SYSCALL = {"x86_64": 298, "aarch64": 241}
_TYPE_TRACEPOINT, _ATTRIBUTES_BYTES = 2, 112
_FORMAT_GROUP, _INHERIT = 8, 1 << 1
_FLAG_CLOEXEC = 8
_IOC_SET_FILTER = 0x40082406
_READ = struct.Struct(f"<{1 + len(_EVENTS)}Q")  # the number of values, and the values
_MOST_TRIES = 5

_libc = ctypes.CDLL(None, use_errno=True)


class PerfCounters:
    """Counters for each process with `begin`."""

    name = "perf"
    counts_from_birth = False
    knows_threads = False

    def __init__(self) -> None:
        """Raises OSError if perf or tracefs refuse."""
        self.reasons: tuple[str, ...] = EXIT_REASONS
        self.notes: tuple[str, ...] = (
            "exits before a VM is found, in its first milliseconds, are not counted",
        )
        self._ids = {name: _id_of(name) for name in (_EXIT, _WAKEUP)}
        self._groups: dict[int, list[list[int]]] = {}  # by process: descriptors, the leader first
        self._own = self._open_group(os.getpid())

    def begin(self, pid: int) -> None:
        if pid in self._groups:
            return
        tasks = f"/proc/{pid}/task"
        for attempt in range(_MOST_TRIES):
            groups: list[list[int]] = []
            try:
                before = set(os.listdir(tasks))
                for tid in before:
                    groups.append(self._open_group(int(tid)))  # noqa: PERF401 - closed if one fails
            except OSError:
                _close(groups)
                if attempt == _MOST_TRIES - 1 or not os.path.exists(tasks):
                    raise
                continue  # a thread ended after it was listed
            if set(os.listdir(tasks)) <= before or attempt == _MOST_TRIES - 1:
                self._groups[pid] = groups
                return
            _close(groups)

    def read(self) -> Mapping[int, ProcessExits]:
        return {pid: ProcessExits({0: _sum(groups)}) for pid, groups in self._groups.items()}

    def lost(self) -> int:
        return 0

    def forget(self, pid: int) -> None:
        _close(self._groups.pop(pid, []))

    def close(self) -> None:
        for pid in list(self._groups):
            self.forget(pid)
        _close([self._own])

    def _open_group(self, tid: int) -> list[int]:
        group: list[int] = []
        try:
            for name, condition in _EVENTS:
                group.append(_open_event(self._ids[name], tid, group[0] if group else -1, condition))
        except OSError:
            _close([group])
            raise
        return group


def _id_of(name: str) -> int:
    errors = []
    for folder in _TRACING:
        try:
            return int((folder / "events" / "kvm" / name / "id").read_text())
        except OSError as exc:
            errors.append(exc)
    raise min(errors, key=lambda exc: not isinstance(exc, PermissionError))


def _open_event(event: int, tid: int, leader: int, condition: str) -> int:
    # struct perf_event_attr: type, size, config, sample period, sample type, read format, flags.
    packed = struct.pack(
        "<IIQQQQQ", _TYPE_TRACEPOINT, _ATTRIBUTES_BYTES, event, 0, 0, _FORMAT_GROUP, _INHERIT
    )
    attributes = ctypes.create_string_buffer(packed, _ATTRIBUTES_BYTES)
    number = _SYSCALL.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, f"perf_event_open(2) is not known on {os.uname().machine}")
    fd = int(_libc.syscall(number, attributes, tid, -1, leader, _FLAG_CLOEXEC))
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    if condition:
        try:
            fcntl.ioctl(fd, _IOC_SET_FILTER, condition.encode() + b"\0")
        except OSError:
            os.close(fd)
            raise
    return fd


def _sum(groups: list[list[int]]) -> Counts:
    rows = [_READ.unpack(os.read(group[0], _READ.size))[1:] for group in groups]
    io, mmio, hlt, shutdown, other, wakeups = map(sum, zip(*rows, strict=True))
    return io, mmio, hlt + wakeups, shutdown, other, 0


def _close(groups: list[list[int]]) -> None:
    for group in groups:
        for fd in reversed(group):
            os.close(fd)
