"""A VMM's process in /proc: opened once, read each tick.

Strategy: a pidfd is opened first and polled when all files are open, so all of them belong to one process,
even if its id is used again. Files stay open and are read with pread: a fifth of the cost of opening. The
CPU time is that of the process's CPU clock, exact to the nanosecond.

All of this needs no capability, also for a process of another user.
"""

from __future__ import annotations

import contextlib
import errno
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
_COMMAND_LINE_BYTES = 1 << 16  # read at most; the flags that name a VM are near the beginning
_OPEN = os.O_RDONLY | os.O_CLOEXEC

# PIDFD_GET_INFO of <linux/pidfd.h>, with its first 64 bytes: mask at 0, exit_code at 60.
_PIDFD_GET_INFO = 0xC040FF0B
_PIDFD_INFO_EXIT = 1 << 3
_INFO_BYTES, _EXIT_CODE_AT = 64, 60


class Process:
    """An open process. `started_ticks` distinguishes it from another one with the same id."""

    def __init__(self, pid: int, proc: str = "/proc") -> None:
        """Raises OSError: ProcessLookupError or FileNotFoundError if it is gone."""
        self.pid = pid
        self._folder = f"{proc}/{pid}"
        self._threads: dict[int, int] = {}  # descriptors of schedstat, by thread id; -1 after its end
        self._times: dict[int, tuple[int, int]] = {}  # the last reading of each
        self._cpu_s = 0.0
        with ExitStack() as opened:
            self.pidfd = os.pidfd_open(pid)
            opened.callback(os.close, self.pidfd)
            self.started_ticks = start_ticks(_read(f"{self._folder}/stat"))
            self._statm = os.open(f"{self._folder}/statm", _OPEN)
            opened.callback(os.close, self._statm)
            # Only for its size, which needs no permission: Linux 6.2.
            self._fds = os.open(f"{self._folder}/fd", os.O_PATH | os.O_CLOEXEC)
            opened.callback(os.close, self._fds)
            self._cpu_clock = ~pid << 3 | 2  # the value of clock_getcpuclockid(3)
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
        """Its start, in Unix milliseconds by the present wall clock; exact to 10 ms."""
        booted_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        return round((booted_s + self.started_ticks / _HZ) * 1000)

    def started_s(self) -> float:
        """Its start, by CLOCK_BOOTTIME."""
        return self.started_ticks / _HZ

    def age_s(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME) - self.started_s()

    def cpu_s(self) -> float:
        """CPU time of all its threads, including ended ones; the last reading once it has been reaped."""
        try:
            self._cpu_s = time.clock_gettime(self._cpu_clock)
        except OSError:
            pass
        return self._cpu_s

    def gauges(self) -> tuple[float, float]:
        """Resident memory in bytes, and the number of open descriptors; NaN if unknown."""
        try:
            pages = parse_resident_pages(os.pread(self._statm, 128, 0))
            fds = os.fstat(self._fds).st_size
        except (OSError, ValueError):
            return math.nan, math.nan
        if not pages:  # it has exited
            return math.nan, math.nan
        return pages * _PAGE, fds

    def thread_times(self, tids: Collection[int]) -> tuple[float, float]:
        """The sums of the time that threads ran, and that they waited for a CPU, in nanoseconds.

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
        """The times of each thread, which `thread_times` adds up. Their files do not stay open."""
        found: dict[int, tuple[int, int]] = {}
        for tid in tids:
            with contextlib.suppress(OSError, ValueError):
                found[tid] = parse_schedstat(_read(f"{self._folder}/task/{tid}/schedstat"))
        self._times.update(found)
        return found

    def _without_reading(self, tid: int) -> tuple[int, int] | None:
        """The times of a thread whose file is not open or has become unreadable; None if never read."""
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
            pass  # no descriptor is free: the next tick tries again
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
        """Its wait status, after its parent has reaped it (Linux 6.15); None if unknown."""
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
    """A process' start in clock ticks since boot, from /proc/PID/stat. Its name may contain anything."""
    try:
        return int(stat[stat.rindex(b")") + 1 :].split()[19])
    except (ValueError, IndexError):
        raise OSError(errno.EINVAL, "/proc/PID/stat is not as proc(5) says") from None


def parse_resident_pages(statm: bytes) -> int:
    """A process' resident pages, from /proc/PID/statm. Raises ValueError."""
    fields = statm.split(None, 2)
    if len(fields) < 2:
        raise ValueError("statm has no second field")
    return int(fields[1])


def parse_schedstat(schedstat: bytes) -> tuple[int, int]:
    """Nanoseconds that a thread ran, and that it waited for a CPU. Raises ValueError."""
    run, wait, _ = schedstat.split()
    return int(run), int(wait)


def exists(pid: int) -> bool:
    """Whether a process exists, even if /proc hides it (hidepid)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def is_process(tid: int) -> bool:
    """Whether a thread id is that of a process; quicker than `thread_group`."""
    try:
        os.close(os.pidfd_open(tid))
    except OSError:  # pidfd_open refuses other threads
        return False
    return True


def thread_group(tid: int, proc: str = "/proc") -> int | None:
    """The process of a thread; None if the thread is gone."""
    try:
        status = _read(f"{proc}/{tid}/status")
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith(b"Tgid:"):
            return int(line.split()[1])
    return None


def _read(path: str, most: int = 1 << 14) -> bytes:
    """Read a file of /proc/PID, which one read returns whole."""
    fd = os.open(path, _OPEN)
    try:
        return os.read(fd, most)
    finally:
        os.close(fd)
