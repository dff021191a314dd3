"""Exits counted by BPF: exact from the first to the last, for every VM of the host.

Strategy: two programs (see `programs`) are loaded at the start and count the exits of every thread that runs
a vCPU. So nothing has to be set up when a VM begins, and its last exits are still in the map when it is dead.
One system call reads all threads of all VMs. Entries are deleted only after their process is dead: otherwise
exits between the read and the deletion would be lost.

The counters live as long as four descriptors: the two maps and a link for each program. A watcher that gets
those of the previous one, from systemd or from files (see `pins`), continues with its maps; counting never
stops.

Needs CAP_BPF and CAP_PERFMON, and Linux 5.8.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping
from contextlib import ExitStack

from rondo_tools.attach.counters import bpf_syscall, programs
from rondo_tools.attach.counters.base import Counts, ProcessExits
from rondo_tools.catalog import EXIT_REASONS

NEEDS = "CAP_BPF and CAP_PERFMON"
MAX_THREADS = 16384  # vCPU threads of the host, including those of processes that have just ended
# Maps of other programs are not used: their counts may mean something else.
_VERSION = f"{zlib.crc32(programs.count_exits(0, 0) + programs.count_wakeups(0, 0)):08x}"
_THREADS, _LOST, _EXITS, _WAKEUPS = (f"{name}-{_VERSION}" for name in ("threads", "lost", "exits", "wakeups"))
_ROW = struct.Struct("<6Q")
_KEY = struct.Struct("<II")  # thread id, process id: the two halves of a little-endian u64


class BpfCounters:
    """Programs, links and maps; `read` groups the map by process."""

    name = "bpf"
    counts_from_birth = True
    knows_threads = True

    def __init__(self, max_threads: int = MAX_THREADS, kept: Mapping[str, int] | None = None) -> None:
        """Load and attach, or continue with `kept`, the `descriptors` of a previous process; then `are_kept`
        is True, and the counters own these descriptors. Raises OSError; PermissionError if a capability is
        missing.
        """
        self._last: dict[int, ProcessExits] = {}  # at the last read
        self.reasons: tuple[str, ...] = EXIT_REASONS
        self.notes: tuple[str, ...] = ()
        self.are_kept = kept is not None and {_THREADS, _LOST, _EXITS} <= kept.keys()
        with ExitStack() as opened:
            if kept is not None and self.are_kept:
                self.descriptors = {
                    name: _owned(opened, kept[name])
                    for name in (_THREADS, _LOST, _WAKEUPS, _EXITS)
                    if name in kept
                }
                if _WAKEUPS not in kept:
                    self._leave_out_hlt("the previous watcher had no program there")
            else:
                self.descriptors = self._load(opened, max_threads)
            self._threads, self._lost = self.descriptors[_THREADS], self.descriptors[_LOST]
            self.map_id = bpf_syscall.map_id(self._threads)
            self._batch = bpf_syscall.Batch(self._threads, programs.KEY_BYTES, programs.VALUE_BYTES)
            self._opened = opened.pop_all()

    def _load(self, opened: ExitStack, max_threads: int) -> dict[str, int]:
        threads = _owned(
            opened,
            bpf_syscall.create_map(
                bpf_syscall.HASH, programs.KEY_BYTES, programs.VALUE_BYTES, max_threads, "rondo_threads"
            ),
        )
        lost = _owned(
            opened,
            bpf_syscall.create_map(
                bpf_syscall.ARRAY, programs.LOST_KEY_BYTES, programs.LOST_VALUE_BYTES, 1, "rondo_lost"
            ),
        )
        loaded = {_THREADS: threads, _LOST: lost}
        try:
            code = programs.count_wakeups(threads, lost)
            loaded[_WAKEUPS] = _attach(opened, programs.WAKEUP_TRACEPOINT, code, "rondo_wakeups")
        except OSError as exc:
            self._leave_out_hlt(str(exc))
        code = programs.count_exits(threads, lost)
        loaded[_EXITS] = _attach(opened, programs.EXIT_TRACEPOINT, code, "rondo_exits")
        return loaded  # in the order of keeping: the exits' program is last and shows that all are there

    def _leave_out_hlt(self, why: str) -> None:
        self.reasons = tuple(reason for reason in EXIT_REASONS if reason != "hlt")
        self.notes = (f"hlt is not counted: the tracepoint {programs.WAKEUP_TRACEPOINT}: {why}",)

    def begin(self, pid: int) -> None:
        """Nothing to do: the programs count all processes."""

    def read(self) -> Mapping[int, ProcessExits]:
        keys, values = self._batch.read()
        grouped: dict[int, dict[int, Counts]] = {}
        for (tid, pid), counts in zip(_KEY.iter_unpack(keys), _ROW.iter_unpack(values), strict=True):
            threads = grouped.get(pid)
            if threads is None:
                grouped[pid] = {tid: counts}
            else:
                threads[tid] = counts
        self._last = {pid: ProcessExits(threads) for pid, threads in grouped.items()}
        return self._last

    def lost(self) -> int:
        value = bpf_syscall.look_up(self._lost, bytes(programs.LOST_KEY_BYTES), programs.LOST_VALUE_BYTES)
        return int.from_bytes(value, "little")

    def forget(self, pid: int) -> None:
        last = self._last.get(pid)
        for tid in last.threads if last is not None else ():
            try:
                bpf_syscall.delete(self._threads, _KEY.pack(tid, pid))
            except FileNotFoundError:
                pass  # deleted before

    def close(self) -> None:
        self._opened.close()


def _owned(opened: ExitStack, fd: int) -> int:
    opened.callback(os.close, fd)
    return fd


def _attach(opened: ExitStack, tracepoint: str, code: bytes, name: str) -> int:
    program = bpf_syscall.load_program(code, name)
    try:
        return _owned(opened, bpf_syscall.open_raw_tracepoint(tracepoint, program))
    finally:
        os.close(program)  # the link holds it
