"""A VMM's process, as /proc shows it: opened once, read each tick, for as long as it lives.

Strategy: a pidfd is taken first and looked at again when all files are open, so that everything is of one
process even if its id is used again. Descriptors are kept open and read with pread: a fifth of the cost of
opening. The CPU time is the process's CPU clock: exact to the nanosecond, for anybody.

What a process of another user shows to one without capabilities: all of this.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import select
import struct
import time
from collections.abc import Collection, Iterable
from contextlib import ExitStack

_HZ = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_COMMAND_LINE_BYTES = 1 << 16  # of a command line; what names a VM stands near its beginning
_OPEN = os.O_RDONLY | os.O_CLOEXEC

# PIDFD_GET_INFO of <linux/pidfd.h>, with its first 64 bytes: mask at 0, exit_code at 60.
_PIDFD_GET_INFO = 0xC040FF0B
_PIDFD_INFO_EXIT = 1 << 3
_INFO_BYTES, _EXIT_CODE_AT = 64, 60


class Process:
    """An open process. `started_ticks` tells it apart from an earlier one of the same id."""

    def __init__(self, pid: int, proc: str = "/proc") -> None:
        """Raises OSError: ProcessLookupError or FileNotFoundError if it is gone."""
        self.pid = pid
        self._folder = f"{proc}/{pid}"
        self._threads: dict[int, int] = {}  # descriptors of schedstat, by thread id; -1 when it is gone
        self._times: dict[int, tuple[int, int]] = {}  # the last reading of each
        self._cpu_s = 0.0
        with ExitStack() as opened:
            self.pidfd = os.pidfd_open(pid)
            opened.callback(os.close, self.pidfd)
            self.started_ticks = start_ticks(_read(f"{self._folder}/stat"))
            self._statm = os.open(f"{self._folder}/statm", _OPEN)
            opened.callback(os.close, self._statm)
            # Only its size is asked for, which needs no permission on it: Linux 6.2.
            self._fds = os.open(f"{self._folder}/fd", os.O_PATH | os.O_CLOEXEC)
            opened.callback(os.close, self._fds)
            self._cpu_clock = ~pid << 3 | 2  # as clock_getcpuclockid(3) makes it
            self.cpu_s()
            if self.is_over():
                raise ProcessLookupError(3, "No such process")
            self.counts_fds = os.fstat(self._fds).st_size > 0
            opened.pop_all()

    def is_over(self) -> bool:
        """Whether it has exited; it may not have been reaped."""
        poll = select.poll()  # select() takes no descriptor beyond 1023
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def started_ms(self) -> int:
        """When it began, by the wall clock as it stands now; to 10 ms."""
        booted_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        return round((booted_s + self.started_ticks / _HZ) * 1000)

    def started_s(self) -> float:
        """When it began, by CLOCK_BOOTTIME."""
        return self.started_ticks / _HZ

    def age_s(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME) - self.started_s()

    def cpu_s(self) -> float:
        """CPU time of all its threads, also those that ended; when it has been reaped, the last reading."""
        try:
            self._cpu_s = time.clock_gettime(self._cpu_clock)
        except OSError:
            pass
        return self._cpu_s

    def gauges(self) -> tuple[float, float]:
        """Bytes of memory that it has, and how many open descriptors; NaN where that is not known now."""
        try:
            pages = parse_resident_pages(os.pread(self._statm, 128, 0))
            fds = os.fstat(self._fds).st_size
        except (OSError, ValueError):
            return math.nan, math.nan
        if not pages:  # it has exited
            return math.nan, math.nan
        return pages * _PAGE, fds

    def thread_times(self, tids: Collection[int]) -> tuple[float, float]:
        """How long some threads ran, and how long they waited for a CPU, in nanoseconds.

        A thread that ended keeps its last times; NaN if all of them ended before any was read.
        """
        run = wait = known = 0
        times: tuple[int, int] | None
        for tid in tids:
            try:
                times = self._times[tid] = parse_schedstat(os.pread(self._threads[tid], 128, 0))
            except (KeyError, OSError, ValueError):
                times = self._without_reading(tid)
                if times is None:
                    continue
            known += 1
            run += times[0]
            wait += times[1]
        return (run, wait) if known or not tids else (math.nan, math.nan)

    def thread_ids(self) -> list[int]:
        with contextlib.suppress(OSError):
            return [int(name) for name in os.listdir(f"{self._folder}/task")]
        return []

    def read_times(self, tids: Iterable[int]) -> dict[int, tuple[int, int]]:
        """The times of each thread, as `thread_times` adds them up; no file stays open for them."""
        found: dict[int, tuple[int, int]] = {}
        for tid in tids:
            with contextlib.suppress(OSError, ValueError):
                found[tid] = parse_schedstat(_read(f"{self._folder}/task/{tid}/schedstat"))
        self._times.update(found)
        return found

    def _without_reading(self, tid: int) -> tuple[int, int] | None:
        """The times of a thread whose file is not open, or no longer to be read; None if there were none."""
        fd = self._threads.get(tid)
        try:
            if fd is None:
                fd = self._threads[tid] = os.open(f"{self._folder}/task/{tid}/schedstat", _OPEN)
            if fd >= 0:
                self._times[tid] = parse_schedstat(os.pread(fd, 128, 0))
        except (FileNotFoundError, ProcessLookupError):
            if fd is not None and fd >= 0:
                os.close(fd)
            self._threads[tid] = -1
        except (OSError, ValueError):
            pass  # out of descriptors: perhaps at the next tick
        return self._times.get(tid)

    def command_line(self) -> bytes:
        """Its first 64 KiB; arguments end with a zero byte."""
        with contextlib.suppress(OSError):
            return _read(f"{self._folder}/cmdline", _COMMAND_LINE_BYTES)
        return b""

    def cgroups(self) -> bytes:
        with contextlib.suppress(OSError):
            return _read(f"{self._folder}/cgroup")
        return b""

    def comm(self) -> str:
        with contextlib.suppress(OSError):
            return _read(f"{self._folder}/comm").decode(errors="replace").removesuffix("\n")
        return ""

    def exit_status(self) -> int | None:
        """Its wait status, where the kernel tells it: Linux 6.15, once its parent has reaped it."""
        info = bytearray(_INFO_BYTES)
        struct.pack_into("<Q", info, 0, _PIDFD_INFO_EXIT)
        try:
            fcntl.ioctl(self.pidfd, _PIDFD_GET_INFO, info)
        except OSError:
            return None
        (mask,) = struct.unpack_from("<Q", info)
        (status,) = struct.unpack_from("<i", info, _EXIT_CODE_AT)
        return int(status) if mask & _PIDFD_INFO_EXIT else None

    def close(self) -> None:
        for fd in (self.pidfd, self._statm, self._fds, *self._threads.values()):
            if fd >= 0:
                os.close(fd)
        self._threads.clear()
        self.pidfd = self._statm = self._fds = -1


def start_ticks(stat: bytes) -> int:
    """When a process started, in clock ticks since boot, from /proc/PID/stat. Its name may hold anything."""
    try:
        return int(stat[stat.rindex(b")") + 1 :].split()[19])
    except (ValueError, IndexError):
        raise OSError(22, "/proc/PID/stat is not as proc(5) says") from None


def parse_resident_pages(statm: bytes) -> int:
    """Pages of memory that a process has, from /proc/PID/statm. Raises ValueError."""
    fields = statm.split(None, 2)
    if len(fields) < 2:
        raise ValueError("statm has no second field")
    return int(fields[1])


def parse_schedstat(schedstat: bytes) -> tuple[int, int]:
    """Nanoseconds that a thread ran, and waited for a CPU. Raises ValueError."""
    run, wait, _ = schedstat.split()
    return int(run), int(wait)


def exists(pid: int) -> bool:
    """Whether there is such a process, even one that /proc hides from us (hidepid)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def is_process(tid: int) -> bool:
    """Whether a thread is the one that its process is called by; quicker than `thread_group`."""
    try:
        os.close(os.pidfd_open(tid))
    except OSError:  # no pidfd is opened of another thread
        return False
    return True


def thread_group(tid: int, proc: str = "/proc") -> int | None:
    """The process of a thread; None if it is gone."""
    try:
        status = _read(f"{proc}/{tid}/status")
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith(b"Tgid:"):
            return int(line.split()[1])
    return None


def _read(path: str, most: int = 1 << 14) -> bytes:
    """A file of /proc/PID: one read has all of it."""
    fd = os.open(path, _OPEN)
    try:
        return os.read(fd, most)
    finally:
        os.close(fd)
