"""CPU time of vCPU threads: exact, up to the thread's end and beyond."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from rondo_tools import catalog
from rondo_tools.vmm.cpu import Times, VcpuTimes, known_series, thread_times
from tests.support.needs import PATIENCE_S


def schedstat(proc: Path, tid: int, text: str) -> None:
    folder = proc / "task" / str(tid)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "schedstat").write_text(text)


class Vcpu:
    """A thread that computes until it is stopped."""

    def __init__(self, times: VcpuTimes, number: int) -> None:
        self._times, self._number = times, number
        self.began, self._may_end = threading.Event(), threading.Event()
        self.cpu_ns = 0  # its own clock, at its end
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self._times.begin(self._number)
        self.began.set()
        while not self._may_end.is_set():
            pass
        self.before_end_ns = time.thread_time_ns()
        self._times.end(self._number)
        self.cpu_ns = time.thread_time_ns()

    def __enter__(self) -> Vcpu:
        self._thread.start()
        assert self.began.wait(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._may_end.set()
        self._thread.join(PATIENCE_S)


def test_the_sum_grows_while_threads_run_and_is_final_after_them() -> None:
    if not known_series()[1:]:
        pytest.skip("this kernel does not account for waits")
    times = VcpuTimes(2)
    assert times.read() == Times()
    read = [times.read()]
    with Vcpu(times, 0) as first:
        while len(read) < 5:
            if (now := times.read()).cpu_ns > read[-1].cpu_ns:
                read.append(now)
        with Vcpu(times, 1) as second:
            pass
        read.append(times.read())
    read.append(times.read())
    assert read == sorted(read)  # of both numbers none ever falls
    assert [one.wait_ns for one in read] == sorted(one.wait_ns for one in read)
    assert first.before_end_ns + second.before_end_ns <= read[-1].cpu_ns <= first.cpu_ns + second.cpu_ns
    assert times.read() == read[-1]


def test_unreadable_times_keep_the_last_value(tmp_path: Path) -> None:
    times, tid = VcpuTimes(1, str(tmp_path)), threading.get_native_id()
    times.begin(0)
    schedstat(tmp_path, tid, "1000 250 3\n")
    before = times.read()
    assert before.wait_ns == 250
    (tmp_path / "task" / str(tid) / "schedstat").unlink()
    assert times.read() == before
    times.end(0)
    assert times.read() == before


@pytest.mark.parametrize("text", [None, "0 0 0\n", "", "no numbers\n"])
def test_without_accounting_of_waits_there_are_no_thread_series(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        schedstat(tmp_path, threading.get_native_id(), text)
    assert [one.name for one in known_series(str(tmp_path))] == ["vmm_cpu_seconds_total"]


def test_linux_has_all_cpu_series() -> None:
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("no schedstat")
    assert known_series() == catalog.CPU


def test_an_unknown_thread_has_no_times() -> None:
    assert thread_times(2**22) is None  # beyond every thread id
