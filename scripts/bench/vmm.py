"""The cost of rondo-vmm: its start, counting an exit, an exit on KVM and beside QEMU, and the lateness of
its ticks meanwhile.

    scripts/bench.py vmm [--seconds 60]    how long ticks are watched

Strategy: every figure is measured alternately with its peer in the same run. It is the median of the
rounds, or their minimum for CPU time, because machines are noisy. Start-up is timed from outside: from
before the process starts until the first line of the guest's console arrives, which is later than the
guest's first instruction.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bench.measure import program
from bench.report import Peer, Report, run_part
from devtools import exit_loop
from rondo_tools.vmm.accel.base import IO, Exit, ScriptedVcpu
from rondo_tools.vmm.bus import Bus
from rondo_tools.vmm.counters import Counters
from rondo_tools.vmm.devices.serial import Serial
from rondo_tools.vmm.layout import COM1_BASE, COM1_LENGTH
from rondo_tools.vmm.memory import GuestMemory
from rondo_tools.vmm.vcpu import RunLoop

STARTS = 15
START_BAR = 8.0  # times `python3 -c pass`
SCRIPT = 100_000  # exits of the scripted vCPU
ROUNDS = 9
COUNT_BAR_NS = 800.0
KVM_SECONDS = 2.0
PEER_ROUNDS = 15
PEER_SECONDS = 0.5  # of rondo-vmm, each round
PEER_EXITS = 40_000  # of QEMU's guest, each round
PEER_BAR = 0.6  # of QEMU's exits for the same CPU time, where KVM is the slow part
LATE_BAR_MS, LATEST_BAR_MS = 20.0, 250.0  # 95th percentile, and all


def main(report: Report, arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench.py vmm", description="Measure rondo-vmm.")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="how long ticks are watched (default: 60)"
    )
    seconds = parser.parse_args(arguments).seconds
    start_up(report)
    counting(report)
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        exits_on_kvm(report)
        beside_qemu(report)
        ticks_under_exits(report, seconds)
    else:
        report.note("exits on KVM, QEMU's, ticks: skipped, /dev/kvm does not open")


def start_up(report: Report) -> None:
    bare, first = [], []
    for _ in range(STARTS):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        bare.append(time.perf_counter() - began)
        first.append(first_line())
    nothing, guest = statistics.median(bare), statistics.median(first)
    report.row("start to the guest's first line", guest * 1e3, "ms",
               peer=Peer("python3 -c pass", nothing * 1e3), times=1 / START_BAR)  # fmt: skip


def first_line() -> float:
    """Seconds from making a rondo-vmm until its guest has printed a line."""
    command = program("rondo-vmm", "-q", "--duration", "1s")
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as vmm:
        assert vmm.stderr is not None
        line = vmm.stderr.readline()
        took = time.perf_counter() - began
        vmm.terminate()
        vmm.stderr.read()
    if not line.startswith(b"rondo guest"):
        raise SystemExit(f"rondo-vmm printed {line!r} instead of starting its guest")
    return took


class UntimedVcpu(ScriptedVcpu):
    """Runs a script without reading the clock, because nothing is counted."""

    def run_untimed(self, handle: Callable[..., bytes]) -> None:
        stopped, answer = self._stopped.is_set, self.answers.append
        for exit in self._script:
            if stopped():
                return
            answer(handle(*exit))


def counting(report: Report) -> None:
    """The same exits through the same loop, handled and counted against only handled."""
    script = [Exit(IO, True, COM1_BASE + 7, 1, 1, b"x")] * SCRIPT  # the scratch register: a cheap exit
    counted, uncounted = [], []
    for _ in range(ROUNDS):
        vcpu, loop = scripted(script)
        began = time.thread_time_ns()
        vcpu.run(loop.handle)
        counted.append((time.thread_time_ns() - began) / SCRIPT)
        vcpu, loop = scripted(script)
        began = time.thread_time_ns()
        vcpu.run_untimed(loop.dispatch)
        uncounted.append((time.thread_time_ns() - began) / SCRIPT)
    with_count, without = min(counted), min(uncounted)
    report.row("an exit on the scripted vCPU, counted", with_count, "ns", peer=Peer("not counted", without))
    report.row("counting it: reason, both durations", with_count - without, "ns", at_most=COUNT_BAR_NS)


def scripted(script: list[Exit]) -> tuple[UntimedVcpu, RunLoop]:
    ports = Bus("ports")
    ports.add(COM1_BASE, COM1_LENGTH, Serial(nowhere))
    vcpu = UntimedVcpu(script)
    return vcpu, RunLoop(vcpu, ports, Bus("mmio"), Counters().count_exit)


def nowhere(line: bytes) -> None:
    """Where the serial port's lines go: there are none."""


def exits_on_kvm(report: Report) -> None:
    """A guest that does nothing but write to a port."""
    from rondo_tools.vmm.accel.kvm import Kvm

    counters, ports = Counters(), Bus("ports")
    ports.add(COM1_BASE, COM1_LENGTH, Serial(nowhere))
    with GuestMemory(1 << 20) as memory:
        memory.write(0x1000, bytes.fromhex("66baff03 ee ebfd"))  # mov dx, 0x3ff; out dx, al; jmp -3
        kvm = Kvm(memory.mapping)
        loop = RunLoop(kvm.vcpu, ports, Bus("mmio"), counters.count_exit)
        kvm.vcpu.enter_flat(0x1000, 0x8000)
        threading.Timer(KVM_SECONDS, loop.finish, ("deadline",)).start()
        loop.run()
        kvm.close()
    snapshot = counters.snapshot()
    exits = sum(snapshot.exits)
    report.row("exits on KVM", exits / KVM_SECONDS / 1e3, "k/s")
    report.row("of an exit, in KVM_RUN", snapshot.run_ns / exits / 1e3, "µs")
    report.row("of an exit, handling", snapshot.exit_ns / exits / 1e3, "µs")


def beside_qemu(report: Report) -> None:
    """The same loop of exits under both, alternately.

    The bar is on CPU time and on the best of many short rounds: a busy machine takes time from both, but
    seldom evenly.
    """
    own, peers = [], []
    try:
        for _ in range(PEER_ROUNDS):
            own.append(exit_loop.rondo(PEER_SECONDS))
            peers.append(exit_loop.qemu(PEER_EXITS))
    except LookupError as exc:
        report.note(f"exits beside QEMU: skipped, {exc}")
        return
    slow = Path("/sys/module/kvm_pvm").exists()
    name = "CPU time of an exit, the whole of rondo-vmm"
    report.row(
        name if slow else f"{name} (no bar: KVM is quick here)",
        min(life.cpu_us for life in own), "µs", peer=Peer("QEMU", min(peer.cpu_us for peer in peers)),
        times=PEER_BAR if slow else None,
    )  # fmt: skip
    report.row(
        "exits of a whole rondo-vmm", statistics.median(life.exits_per_s for life in own) / 1e3, "k/s",
        peer=Peer("QEMU", statistics.median(peer.exits_per_s for peer in peers) / 1e3), more_is_better=True,
    )  # fmt: skip


def ticks_under_exits(report: Report, seconds: float) -> None:
    """How late ticks are while a guest does nothing but exit."""
    late = sorted(exit_loop.rondo(seconds).late_ms)
    if len(late) < 2:
        report.note("lateness of ticks: skipped, --seconds is too short")
        return
    most, latest = statistics.quantiles(late, n=20)[-1], late[-1]
    watched = f"lateness of {len(late)} ticks while the guest only exits"
    report.row(f"{watched}: median", statistics.median(late), "ms")
    report.row(f"{watched}: 95th percentile", most, "ms", at_most=LATE_BAR_MS)
    report.row(f"{watched}: the latest", latest, "ms", at_most=LATEST_BAR_MS)


if __name__ == "__main__":
    sys.exit(run_part(main))
