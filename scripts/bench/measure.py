"""Measuring a process, and starting programs, for the benches."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from devtools import ROOT


def program(name: str, *arguments: str | Path, checkout: Path = ROOT) -> list[str]:
    """The command line of one of rondo's tools, in this checkout or another."""
    return [sys.executable, str(checkout / "bin" / name), *map(str, arguments)]


def process_cpu_s(pid: int) -> float:
    """CPU time, user and system, of a running process: utime and stime of proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_ns(pid: int) -> int:
    """The same by the CPU clock, which is finer."""
    return time.clock_gettime_ns(~pid << 3 | 2)  # the value of clock_getcpuclockid(3)


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def command_cpu_s(command: list[str], stdin: Path | None = None) -> float:
    """CPU time, user and system, of a command that must succeed; its output is discarded."""
    with (stdin or Path(os.devnull)).open("rb") as standard_input:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, stdin=standard_input, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def least(rounds: int, work: Callable[[], float]) -> float:
    """The least of several rounds, because other work of the machine only adds to them."""
    return min(work() for _ in range(rounds))


def disk_bytes(folder: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())


@contextmanager
def serving(store: Path, address: str, *flags: str, checkout: Path = ROOT) -> Iterator[int]:
    """A rondo-store that listens on the Unix socket at `address`; yields its process id."""
    command = program("rondo-store", store, "-q", *flags, "--listen", f"unix:{address}", checkout=checkout)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        try:
            while not Path(address).exists():
                if process.poll() is not None:
                    raise RuntimeError(f"rondo-store ended with {process.returncode}")
                time.sleep(0.01)
            yield process.pid
        finally:
            process.terminate()


@contextmanager
def serving_http(store: Path) -> Iterator[tuple[int, int]]:
    """A rondo-serve that listens on loopback; yields its port and its process id."""
    command = program("rondo-serve", store, "--listen", "tcp:127.0.0.1:0")
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if " at tcp:127.0.0.1:" in line:
                    yield int(line.rpartition(":")[2]), process.pid
                    return
            raise RuntimeError(f"rondo-serve ended with {process.wait()}")
        finally:
            process.terminate()
