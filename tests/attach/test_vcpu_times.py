"""CPU time and wait of vCPU threads, read from a /proc that the test writes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from rondo_tools.attach.counters.base import ProcessExits
from rondo_tools.attach.process import Process
from rondo_tools.attach.sources.base import Moment
from rondo_tools.attach.sources.vcpus import Base, VcpuSource
from rondo_tools.catalog import EXIT_REASONS

PID = os.getpid()  # a pidfd needs a process that exists
VCPU, OTHER = 7, 8  # threads


class Counters:
    """Counters that know threads; a test passes the counts by `Moment`."""

    name = "fake"
    reasons: tuple[str, ...] = EXIT_REASONS
    notes: tuple[str, ...] = ()
    counts_from_birth = knows_threads = True

    def read(self) -> Mapping[int, ProcessExits]:
        return {}

    def begin(self, pid: int) -> None: ...
    def forget(self, pid: int) -> None: ...
    def close(self) -> None: ...

    def lost(self) -> int:
        return 0


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    folder = tmp_path / str(PID)
    folder.mkdir()
    for name in ("stat", "statm"):
        (folder / name).write_bytes(Path("/proc/self", name).read_bytes())
    (folder / "fd").mkdir()
    return tmp_path


def spend(proc: Path, tid: int, run_ns: int, wait_ns: int) -> None:
    """Let a thread have run and waited for so long since it began."""
    file = proc / str(PID) / "task" / str(tid) / "schedstat"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{run_ns} {wait_ns} 1\n")


def exits(*tids: int) -> ProcessExits:
    return ProcessExits(dict.fromkeys(tids, (1, 0, 0, 0, 0, 1)))


def times_s(source: VcpuSource, counts: ProcessExits | None) -> list[float]:
    moment = Moment(1000, 1.0, {} if counts is None else {PID: counts})
    return [*source.values(moment)][len(EXIT_REASONS) :]


@pytest.mark.parametrize("is_restarted", [False, True], ids=["", "restarted"])
def test_a_late_vcpu_without_exits_begins_at_0(proc: Path, *, is_restarted: bool) -> None:
    """The counters do not know the thread when the VM is found, nor after a restart."""
    process = Process(PID, str(proc))
    spend(proc, VCPU, 5_000_000_000, 26_000_000_000)
    spend(proc, OTHER, 1_000_000_000, 1_000_000_000)
    source = VcpuSource(PID, process, Counters(), None, is_late=True)
    assert times_s(source, None) == [0, 0]
    if is_restarted:
        process = Process(PID, str(proc))
        source = VcpuSource(PID, process, Counters(), None, base=Base(*source.base))
    spend(proc, VCPU, 5_250_000_000, 26_500_000_000)
    assert times_s(source, exits(VCPU)) == [0.25, 0.5]


def test_a_late_vcpu_with_exits_begins_at_0(proc: Path) -> None:
    spend(proc, VCPU, 5_000_000_000, 26_000_000_000)
    source = VcpuSource(PID, Process(PID, str(proc)), Counters(), exits(VCPU), is_late=True)
    spend(proc, VCPU, 5_250_000_000, 26_500_000_000)
    assert times_s(source, exits(VCPU)) == [0.25, 0.5]


def test_a_vm_that_is_not_late_has_all_its_time(proc: Path) -> None:
    spend(proc, VCPU, 250_000_000, 500_000_000)
    source = VcpuSource(PID, Process(PID, str(proc)), Counters(), None)
    assert times_s(source, exits(VCPU)) == [0.25, 0.5]


def test_a_late_vcpu_that_ends_before_a_tick_subtracts_nothing(proc: Path) -> None:
    spend(proc, VCPU, 5_000_000_000, 26_000_000_000)
    spend(proc, OTHER, 1_000_000_000, 1_000_000_000)
    source = VcpuSource(PID, Process(PID, str(proc)), Counters(), None, is_late=True)
    (proc / str(PID) / "task" / str(VCPU) / "schedstat").unlink()
    spend(proc, OTHER, 1_250_000_000, 1_500_000_000)
    assert times_s(source, exits(VCPU, OTHER)) == [0.25, 0.5]


def test_after_the_clock_is_set_back_times_begin_at_0(proc: Path) -> None:
    """Also those of a vCPU that has its first exit only then."""
    spend(proc, VCPU, 100_000_000, 100_000_000)
    source = VcpuSource(PID, Process(PID, str(proc)), Counters(), None)
    source.begin_anew()
    spend(proc, VCPU, 350_000_000, 600_000_000)
    assert times_s(source, exits(VCPU)) == [0.25, 0.5]
