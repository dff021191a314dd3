"""Exits counted by BPF: exact from the first to the last, for every VM of the host, always on.

Strategy: two programs (see `programs`) are loaded at the start and count whoever runs a vCPU, so nothing
has to be armed when a VM is born, and its last exits are still in the map when it is dead. One system call
reads all threads of all VMs. Entries are deleted only after their process is dead: deleting them under a
process that lives would lose the exits between the look and the deletion.

Needs CAP_BPF and CAP_PERFMON, and Linux 5.8.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from contextlib import ExitStack

from rondo_tools.attach.counters import bpf_syscall, programs
from rondo_tools.attach.counters.base import Exits, ProcessExits
from rondo_tools.catalog import EXIT_REASONS

NEEDS = "CAP_BPF and CAP_PERFMON"
MAX_THREADS = 16384  # vCPU threads of the host, those of the last moment's dead included
_ROW = struct.Struct("<7Q")
_KEY = struct.Struct("<II")  # thread id, process id: the two halves of a little-endian u64


class BpfCounters:
    """Programs, links and maps; `read` groups the map by process."""

    name = "bpf"
    counts_from_birth = True
    knows_threads = True

    def __init__(self, max_threads: int = MAX_THREADS) -> None:
        """Load and attach. Raises OSError; PermissionError where a capability is missing."""
        self._keys: dict[int, tuple[int, ...]] = {}  # thread ids in the map, by process id, at the last look
        self.reasons: tuple[str, ...] = EXIT_REASONS
        self.notes: tuple[str, ...] = ()
        with ExitStack() as opened:
            self._threads = _owned(
                opened,
                bpf_syscall.create_map(
                    bpf_syscall.HASH, programs.KEY_BYTES, programs.VALUE_BYTES, max_threads, "rondo_threads"
                ),
            )
            self._lost = _owned(
                opened,
                bpf_syscall.create_map(
                    bpf_syscall.ARRAY, programs.LOST_KEY_BYTES, programs.LOST_VALUE_BYTES, 1, "rondo_lost"
                ),
            )
            code = programs.count_exits(self._threads, self._lost)
            _attach(opened, programs.EXIT_TRACEPOINT, code, "rondo_exits")
            try:
                code = programs.count_wakeups(self._threads, self._lost)
                _attach(opened, programs.WAKEUP_TRACEPOINT, code, "rondo_wakeups")
            except OSError as exc:
                self.reasons = tuple(reason for reason in EXIT_REASONS if reason != "hlt")
                self.notes = (f"hlt is not counted: the tracepoint {programs.WAKEUP_TRACEPOINT}: {exc}",)
            self._batch = bpf_syscall.Batch(self._threads, programs.KEY_BYTES, programs.VALUE_BYTES)
            self._opened = opened.pop_all()

    def begin(self, pid: int) -> None:
        """Nothing to do: all are counted."""

    def read(self) -> Mapping[int, ProcessExits]:
        keys, values = self._batch.read()
        grouped: dict[int, list[tuple[int, Exits, int]]] = {}
        for (tid, pid), row in zip(_KEY.iter_unpack(keys), _ROW.iter_unpack(values), strict=True):
            io, mmio, hlt, shutdown, other, wakeups, first_ns = row
            exits = Exits(io, mmio, hlt + wakeups, shutdown, other)
            grouped.setdefault(pid, []).append((tid, exits, first_ns))
        self._keys = {pid: tuple(tid for tid, _, _ in rows) for pid, rows in grouped.items()}
        return {pid: _process(rows) for pid, rows in grouped.items()}

    def lost(self) -> int:
        value = bpf_syscall.look_up(self._lost, bytes(programs.LOST_KEY_BYTES), programs.LOST_VALUE_BYTES)
        return int.from_bytes(value, "little")

    def forget(self, pid: int) -> None:
        for tid in self._keys.pop(pid, ()):
            try:
                bpf_syscall.delete(self._threads, _KEY.pack(tid, pid))
            except FileNotFoundError:
                pass  # it went before

    def close(self) -> None:
        self._opened.close()


def _process(rows: list[tuple[int, Exits, int]]) -> ProcessExits:
    if len(rows) == 1:
        tid, exits, first_ns = rows[0]
        return ProcessExits(exits, {tid: exits}, first_ns)
    total = Exits(*map(sum, zip(*(exits for _, exits, _ in rows), strict=True)))
    return ProcessExits(
        total, {tid: exits for tid, exits, _ in rows}, min(first_ns for _, _, first_ns in rows)
    )


def _owned(opened: ExitStack, fd: int) -> int:
    opened.callback(os.close, fd)
    return fd


def _attach(opened: ExitStack, tracepoint: str, code: bytes, name: str) -> None:
    program = bpf_syscall.load_program(code, name)
    try:
        _owned(opened, bpf_syscall.open_raw_tracepoint(tracepoint, program))
    finally:
        os.close(program)  # the link holds it
