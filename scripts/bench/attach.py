"""The cost of rondo-attach: a VM and tick, a life, an exit of a guest, its start; memory without a store.

    scripts/bench.py attach [--seconds 20]    how long each number of VMs is watched

Strategy: the watcher runs like its unit, as nobody with CAP_BPF and CAP_PERFMON, and sends to a real
rondo-store. Its CPU time is that of its process's CPU clock. VMs are forks with two vCPUs each that make
exits every second. Other VMs on the host cost the watcher, too, so there should be none. The cost of an exit
to the guest is the CPU time of its thread, alternately with the programs and without: the least of some
rounds each.
"""

from __future__ import annotations

import argparse
import logging
import os
import select
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import kvm_vms
from bench.measure import cpu_ns, program, resident_bytes, serving
from bench.report import Peer, Report, run_part
from rondo_tools.attach.counters.bpf import BpfCounters
from rondo_tools.attach.sinks import StoreSink
from rondo_tools.catalog import CPU, NET, SERIES
from rondo_tools.files import raise_descriptor_limit
from rondo_tools.producer.address import UnixAddress
from rondo_tools.stream import Header, Tick

BARS_US = {10: None, 100: 40.0, 1000: 50.0}  # for a VM and tick, by the number of VMs
LIFE_BAR_MS, EXIT_BAR_NS, START_BAR_S = 2.0, 400.0, 0.4
AWAY_VMS, AWAY_TICKS, AWAY_BAR_MB = 1000, 700, 200.0  # more ticks than are kept
LIVES, LIVES_PAUSE_S, LIFE_S = 200, 0.02, 0.3
EXITS, ROUNDS = 50_000, 7
STARTS = 7
NOW_MS = 1_790_000_000_000
SETTLE_S = 3.0
VMM = "rondo-bench-vm"
AS_THE_UNIT = (
    *("unshare", "--net", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *("--inh-caps=+bpf,+perfmon", "--ambient-caps=+bpf,+perfmon"),
)


def main(report: Report, arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench.py attach", description="Measure rondo-attach.")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="how long each number of VMs is watched (default: 20)"
    )
    seconds = parser.parse_args(arguments).seconds
    if os.geteuid() or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        report.note("skipped: it needs root, for VMs to watch with CAP_BPF, and /dev/kvm")
        return
    raise_descriptor_limit()
    start(report)
    an_exit(report)
    memory(report)
    with tempfile.TemporaryDirectory(prefix="rondo-bench-attach-") as folder:
        Path(folder).chmod(0o755)
        socket = f"{folder}/store.sock"
        with serving(Path(folder, "store"), socket, "--no-health"):
            Path(socket).chmod(0o666)
            for count, bar_us in BARS_US.items():
                with watching(socket) as pid, made(count):
                    time.sleep(SETTLE_S)
                    report.row(f"a VM and tick, {count:,} VMs", a_tick_us(pid, count, seconds), "µs of CPU",
                               at_most=bar_us)  # fmt: skip
            with watching(socket) as pid:
                before = cpu_ns(pid)
                with made(LIVES, LIFE_S, LIVES_PAUSE_S):
                    pass
                time.sleep(1.5)  # ends are held for half a second
                cost_ms = (cpu_ns(pid) - before) / LIVES / 1e6
                report.row(f"a life of {LIFE_S:g} s", cost_ms, "ms of CPU", at_most=LIFE_BAR_MS)


def a_tick_us(pid: int, count: int, seconds: float) -> float:
    before, began = cpu_ns(pid), time.monotonic()
    time.sleep(seconds)
    return (cpu_ns(pid) - before) / 1e3 / count / (time.monotonic() - began)


@contextmanager
def watching(socket: str, match: str = f"vmm={VMM}", *flags: str) -> Iterator[int]:
    """A ready rondo-attach; yields its process id."""
    arguments = ("--verbose", "--output", f"unix:{socket}", "--match", match, *flags)
    command = [*AS_THE_UNIT, *program("rondo-attach", *arguments)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            wait_for(process, b"watching")
            assert process.stderr is not None
            threading.Thread(target=process.stderr.read, daemon=True).start()  # a line for each life
            yield process.pid
        finally:
            process.kill()


def wait_for(process: subprocess.Popen[bytes], text: bytes) -> None:
    """Wait for a text on standard error."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise RuntimeError(f"rondo-attach ended with {process.wait()}")


@contextmanager
def made(count: int, life_s: float = 0.0, pause_s: float = 0.005) -> Iterator[None]:
    """Run `count` VMs, until the block ends or before."""
    command = [VMM, "-m", "bench.kvm_vms", str(count), str(life_s), str(pause_s)]
    path = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # a Python of another name finds no venv
    with subprocess.Popen(
        command, executable=sys.executable, env=path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline() != b"made\n":
            raise RuntimeError(f"VMs cannot be made: {process.wait()}")
        yield
        process.stdin.close()
        process.wait()


def an_exit(report: Report) -> None:
    """Measure the same exits alternately with the programs and without."""
    vcpu = kvm_vms.Guest().vcpu(0)
    with_programs, without = [], []
    for _ in range(ROUNDS):
        without.append(exit_ns(vcpu))
        counters = BpfCounters()
        with_programs.append(exit_ns(vcpu))
        counters.close()
    counted, bare = min(with_programs), min(without)  # other work of the machine only adds to them
    report.row("an exit to the VMM, counted", counted, "ns", peer=Peer("not counted", bare))
    report.row("counting it", counted - bare, "ns", at_most=EXIT_BAR_NS)


def exit_ns(vcpu: int) -> float:
    kvm_vms.run(vcpu, EXITS // 10)
    began = time.thread_time_ns()
    kvm_vms.run(vcpu, EXITS)
    return (time.thread_time_ns() - began) / EXITS


def memory(report: Report) -> None:
    """Measure a sink's memory while the store is away, for VMs with all series of rondo-attach."""
    series = (*SERIES, *CPU, *NET)
    layout = struct.Struct(f"<{len(series)}d")
    before = resident_bytes(os.getpid())
    with select.epoll() as epoll, tempfile.TemporaryDirectory() as folder:
        logging.disable()  # warnings of the missing store, and of dropped ticks
        sink = StoreSink(epoll, UnixAddress(f"{folder}/none"), "none")
        header = Header("vm", 1, (), 1000, series)
        sessions = [sink.begin(header._replace(instance=f"vm-{number}")) for number in range(AWAY_VMS)]
        for second in range(1, AWAY_TICKS):
            for number, session in enumerate(sessions):
                values = layout.pack(*range(number, number + len(series)))
                session.tick(Tick(NOW_MS + 1000 * second, values))
        kept_mb = (resident_bytes(os.getpid()) - before) / 1e6
        sink.close()
        logging.disable(logging.NOTSET)
    report.row(
        f"memory for a store that is away: {AWAY_VMS:,} VMs of {len(series)} series, ten minutes",
        kept_mb, "MB", at_most=AWAY_BAR_MB,
    )  # fmt: skip


def start(report: Report) -> None:
    """Measure the start, until it counts and receives events."""
    took = []
    for _ in range(STARTS):
        began = time.perf_counter()
        command = [*AS_THE_UNIT, *program("rondo-attach", "--verbose", "--text")]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            wait_for(process, b"watching")
            took.append(time.perf_counter() - began)
            process.kill()
    report.row("start", statistics.median(took), "s", at_most=START_BAR_S)


if __name__ == "__main__":
    sys.exit(run_part(main))
