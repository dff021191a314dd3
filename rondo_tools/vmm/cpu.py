"""CPU time of the vCPUs' threads and of this process, as Linux accounts it.

Strategy: a thread's CPU clock is exact; its wait for a CPU is the second number of its schedstat. Both
disappear with the thread, so a thread records them as its last action.
"""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

from rondo_tools import catalog
from rondo_tools.catalog import Series

_THREAD_CLOCK = 6  # ~tid << 3 | 6 is the clock id of pthread_getcpuclockid(3)


class Times(NamedTuple):
    """The times of one thread, or a sum over several, in ns."""

    cpu_ns: int = 0
    wait_ns: int = 0


def thread_times(tid: int, proc: str = "/proc/self") -> Times | None:
    """The times of a thread of this process; None if they cannot be read."""
    try:
        with open(f"{proc}/task/{tid}/schedstat", "rb") as file:
            ran_ns, waited_ns, _ = map(int, file.read().split())
        cpu_ns = time.clock_gettime_ns(~tid << 3 | _THREAD_CLOCK)
    except (OSError, ValueError, OverflowError):
        return None
    return Times(cpu_ns, waited_ns) if ran_ns else None  # a kernel without this accounting returns zeros


def known_series(proc: str = "/proc/self") -> tuple[Series, ...]:
    """The CPU series of the catalogue that this machine can measure."""
    if thread_times(threading.get_native_id(), proc) is not None:
        return catalog.CPU
    return tuple(one for one in catalog.CPU if one.name == "vmm_cpu_seconds_total")


class VcpuTimes:
    """The sum over the threads of a VM's vCPUs, running and ended ones."""

    def __init__(self, vcpus: int, proc: str = "/proc/self") -> None:
        self._proc = proc
        self._tids = [0] * vcpus
        self._last = [Times()] * vcpus  # of the last read
        self._final: list[Times | None] = [None] * vcpus  # of threads that have ended

    def begin(self, number: int) -> None:
        """Register a vCPU; called in its thread before anything else."""
        self._tids[number] = threading.get_native_id()

    def end(self, number: int) -> None:
        """Record a vCPU's final times; called in its thread after everything else."""
        self._final[number] = thread_times(self._tids[number], self._proc) or self._last[number]

    def read(self) -> Times:
        """The sum now. A value that cannot be read keeps its last one."""
        for number, tid in enumerate(self._tids):
            now = thread_times(tid, self._proc) if tid and self._final[number] is None else None
            # A thread that ended meanwhile has recorded its final times, which are the largest.
            self._last[number] = self._final[number] or now or self._last[number]
        return Times(sum(one.cpu_ns for one in self._last), sum(one.wait_ns for one in self._last))
