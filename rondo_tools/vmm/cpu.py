"""CPU time of the vCPUs' threads and of this process, as Linux accounts it.

Strategy: a thread's CPU clock is exact to the moment; its wait for a CPU is the second number of its
schedstat. Both are gone with the thread, so a thread's last act is to note them.
"""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

from rondo_tools import catalog
from rondo_tools.catalog import Series

_THREAD_CLOCK = 6  # what makes of ~tid << 3 the clock id that pthread_getcpuclockid(3) gives


class Times(NamedTuple):
    """Of one thread, or the sum over several, in ns."""

    cpu_ns: int = 0
    wait_ns: int = 0


def thread_times(tid: int, proc: str = "/proc/self") -> Times | None:
    """Those of a thread of this process; None if they cannot be had, or no longer."""
    try:
        with open(f"{proc}/task/{tid}/schedstat", "rb") as file:
            ran_ns, waited_ns, _ = map(int, file.read().split())
        cpu_ns = time.clock_gettime_ns(~tid << 3 | _THREAD_CLOCK)
    except (OSError, ValueError, OverflowError):
        return None
    return Times(cpu_ns, waited_ns) if ran_ns else None  # a kernel that does not account for waits has zeros


def known_series(proc: str = "/proc/self") -> tuple[Series, ...]:
    """Which of the catalogue's CPU series this machine tells."""
    if thread_times(threading.get_native_id(), proc) is not None:
        return catalog.CPU
    return tuple(one for one in catalog.CPU if one.name == "vmm_cpu_seconds_total")


class VcpuTimes:
    """The sum over the threads of a VM's vCPUs: those that run, and those that have ended."""

    def __init__(self, vcpus: int, proc: str = "/proc/self") -> None:
        self._proc = proc
        self._tids = [0] * vcpus
        self._last = [Times()] * vcpus  # as read before
        self._final: list[Times | None] = [None] * vcpus  # of threads that have ended

    def begin(self, number: int) -> None:
        """In the thread of a vCPU, before anything else."""
        self._tids[number] = threading.get_native_id()

    def end(self, number: int) -> None:
        """In the same thread, when all else is done."""
        self._final[number] = thread_times(self._tids[number], self._proc) or self._last[number]

    def read(self) -> Times:
        """Their sum now. What cannot be read stays what it was."""
        for number, tid in enumerate(self._tids):
            now = thread_times(tid, self._proc) if tid and self._final[number] is None else None
            # A thread that ended meanwhile has noted its last, which nothing that was read before exceeds.
            self._last[number] = self._final[number] or now or self._last[number]
        return Times(sum(one.cpu_ns for one in self._last), sum(one.wait_ns for one in self._last))
