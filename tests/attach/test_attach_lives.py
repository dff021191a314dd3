"""Lives of VMs, each with exactly its exits: the first and the last second included."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rondo_tools.attach.naming import bounded
from rondo_tools.attach.self_metrics import INSTANCE
from tests.support.attach.attach_host import (
    LOOP_EXITS,
    NOBODY_WITH_BPF,
    ROOT,
    Receiver,
    has_series,
    own,
    small_guest,
    start_qemu,
    watching,
)
from tests.support.needs import PATIENCE_S


@pytest.mark.parametrize("lives", [4, pytest.param(50, marks=pytest.mark.long)])
def test_each_life_of_a_qemu_has_exactly_its_exits(
    lives: int, receiver: Receiver, program: Callable[[str], Path], tmp_path: Path
) -> None:
    qemu = program("qemu-system-x86_64")
    names = [f"life-{number}" for number in range(lives)]
    with watching("--output", receiver.address, "--match", f"name={own('life-*')}", wrapper=NOBODY_WITH_BPF):
        for at in range(0, lives, 2):
            running = [start_qemu(qemu, name, 20_000, tmp_path) for name in names[at : at + 2]]
            assert [one.wait(PATIENCE_S) for one in running] == [1] * len(running)
        got = [receiver.wait(name, ended=1) for name in names]
    assert all(len(sessions) == 1 for sessions in got)
    counts = [sessions[0].exits()["io"] for sessions in got]
    assert counts == [20_000 + LOOP_EXITS] * lives
    for (session,) in got:
        assert session.end is not None
        assert session.end.reason == "gone"  # an exit status does not tell how the guest ended
        assert session.labels == {"vmm": "qemu"}
        assert session.last()["vcpu_cpu_seconds_total"] != 0  # NaN if no tick fell into its life
        assert session.last()["vmm_cpu_seconds_total"] > 0


@pytest.mark.parametrize("lives", [2, pytest.param(20, marks=pytest.mark.long)])
def test_the_counts_equal_those_of_rondo_vmm(lives: int, receiver: Receiver) -> None:
    reasons = ("io", "mmio", "hlt", "shutdown", "other")
    with watching("--output", receiver.address, "--match", "vmm=rondo-vmm"):
        for number in range(lives):
            name = own(f"oracle-{number}")
            vmm = [sys.executable, str(ROOT / "bin" / "rondo-vmm"), "--duration", "1s", "--instance", name]
            done = subprocess.run(
                [*vmm, "--output", "/dev/null"], capture_output=True, text=True, timeout=PATIENCE_S
            )
            counted = re.search("".join(rf"{reason} (\d+),? ?;?" for reason in reasons), done.stderr)
            assert counted is not None, done.stderr
            (session,) = receiver.wait(name, ended=1)
            assert session.exits() == dict(zip(reasons, map(int, counted.groups()), strict=True))


def test_a_killed_vm_ends_with_signal(receiver: Receiver) -> None:
    with watching("--output", receiver.address) as watcher, small_guest(name="killed") as guest:
        guest.do("make", "run 1000")
        watcher.wait_for(own("killed begins"))
        guest.process.send_signal(signal.SIGKILL)
        guest.process.wait(PATIENCE_S)
        (session,) = receiver.wait("killed", ended=1)
    assert session.exits() == {"io": 1000, "mmio": 0, "hlt": 1, "shutdown": 0, "other": 0}
    assert session.end is not None
    assert session.end.reason in ("signal", "gone")  # where the kernel is older than 6.15
    if _tells_exit_status():
        assert session.end.reason == "signal"


def _tells_exit_status() -> bool:
    release = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
    return release >= (6, 15)


def test_a_vm_created_in_another_thread_belongs_to_its_process(receiver: Receiver) -> None:
    with watching("--output", receiver.address) as watcher, small_guest(name="thread") as guest:
        guest.do("make STAYING", "run 500")
        watcher.wait_for(own("thread begins"))
        guest.quit()
        (session,) = receiver.wait("thread", ended=1)
    assert session.exits()["io"] == 500


def test_a_vm_whose_creating_thread_ended_is_found_by_its_exits(receiver: Receiver) -> None:
    with watching("--output", receiver.address), small_guest(name="other") as other:
        other.do("make")
        receiver.wait(
            "other", ticks=1
        )  # so the next process is younger than the counters by the 10 ms of its start
        with small_guest(name="found") as guest:
            guest.do("make THREAD", "run 500")
            receiver.wait("found", ticks=1)
            guest.quit()
            (session,) = receiver.wait("found", ended=1)
    assert session.exits()["io"] == 500
    assert "attached" not in session.labels  # its process is younger than the counters


def test_one_vm_after_another_in_one_process(receiver: Receiver) -> None:
    """The second has the descriptor and the threads of the first; neither has exits of the other."""
    with watching("--output", receiver.address), small_guest(name="again") as guest:
        guest.do("make", "run 100 HERE", "drop")
        receiver.wait("again", ended=1)
        guest.do("make", "run 20 HERE")
        receiver.wait("again", ticks=1)
        guest.quit()
        first, second = receiver.wait("again", ended=2)
    assert first.exits()["io"] == 100
    assert second.exits()["io"] == 20
    assert first.end is not None
    assert first.end.reason == "gone"
    assert "attached" not in second.labels


def test_an_unseen_life_has_its_exits(receiver: Receiver) -> None:
    """It may end before its name can be read."""
    with watching("--output", receiver.address), small_guest(name="blink") as guest:
        guest.do("make", "run 77")
        guest.quit()
        with small_guest(name="after") as after:
            after.do("make")
            receiver.wait("after", ticks=1)
        receiver.wait("after", ended=1)
    sessions = [*receiver.of("blink"), *receiver.of(f"pid-{guest.pid}")]
    assert [session.exits()["io"] for session in sessions] == [77]
    assert sessions[0].end is not None


def test_a_vm_after_execve_is_another_session(receiver: Receiver) -> None:
    with watching("--output", receiver.address), small_guest(name="exec") as guest:
        guest.do("make", "run 30")
        receiver.wait("exec", ticks=1)
        guest.do("exec")
        receiver.wait("exec", ended=1)
        guest.do("make", "run 4")
        receiver.wait("exec", ticks=1)
        guest.quit()
        first, second = receiver.wait("exec", ended=2)
    assert first.exits()["io"] == 30
    assert second.exits()["io"] == 4


def test_two_vms_in_one_process_without_debugfs_are_one(receiver: Receiver) -> None:
    with watching("--output", receiver.address) as watcher, small_guest(name="two") as guest:
        guest.do("make", "run 10")
        receiver.wait("two")
        guest.do("make", "run 5")
        guest.quit()
        (session,) = receiver.wait("two", ended=1)
        watcher.wait_for(f"several VMs, counted as one ({own('two')})")
    assert session.exits()["io"] == 15


def test_two_vms_in_one_process_with_debugfs_are_two(receiver: Receiver) -> None:
    debugfs = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        'mount -t debugfs debugfs /sys/kernel/debug && exec "$@"',
        "sh",
    ]
    with watching("--output", receiver.address, wrapper=debugfs), small_guest(name="pair") as guest:
        guest.do("make", "run 10")
        receiver.wait("pair", ticks=1)
        guest.do("make", "run 5")
        receiver.wait(f"pair-{guest.pid}", ticks=1)
        guest.do("drop 0")
        receiver.wait("pair", ended=1)
        guest.quit()
        (second,) = receiver.wait(f"pair-{guest.pid}", ended=1)
        (first,) = receiver.of("pair")
    assert first.exits()["io"] == 10
    assert second.exits()["io"] == 5


def test_a_late_vm_begins_at_zero(receiver: Receiver) -> None:
    """Also the CPU time of a vCPU whose first counted exit comes after the VM is found."""
    with small_guest(name="before") as guest:
        guest.do("make", "run 1000 HERE")
        before_ns = guest.main_thread_ns()
        with watching("--output", receiver.address):
            (session,) = receiver.wait("before", ticks=1)
            assert session.exits()["io"] == 0
            guest.do("run 7 HERE")
            session = receiver.wait_for("before", lambda got: got.exits()["io"] == 7)
            spent_s = (guest.main_thread_ns() - before_ns) / 1e9
            assert 0 < session.last()["vcpu_cpu_seconds_total"] <= spent_s
            guest.quit()
            (session,) = receiver.wait("before", ended=1)
    assert session.labels["attached"] == "late"
    assert session.exits()["io"] == 7
    assert session.last()["vmm_uptime_seconds"] > (session.ticks[-1].t_ms - session.header.start_ms) / 1000


def test_two_vms_with_one_name_get_different_names(receiver: Receiver) -> None:
    with watching("--output", receiver.address) as watcher, small_guest(name="same") as one:
        one.do("make", "run 1")
        receiver.wait("same")
        with small_guest(name="same") as other:
            other.do("make", "run 2")
            watcher.wait_for(own(f"same-{other.pid} begins"))
            other.quit()
            (session,) = receiver.wait(f"same-{other.pid}", ended=1)
            watcher.wait_for(f"this one is {own('same')}-{other.pid}")
    assert session.exits()["io"] == 2


@pytest.mark.parametrize("hostile", ["a\nb", "\x1b[31m", "x" * 100_000])
def test_a_hostile_name_does_no_harm(hostile: str, receiver: Receiver) -> None:
    long = ["y" * 100_000] * 9
    with watching("--output", receiver.address) as watcher, small_guest(*long, name=hostile) as guest:
        guest.do("make", "run 3")
        with small_guest(name="after") as after:
            after.do("make", "run 1")
            watcher.wait_for(own("after begins"))
            guest.quit()
            after.quit()
            receiver.wait("after", ended=1)
        name = bounded(own(hostile))
        (session,) = receiver.wait(name, ended=1)
    assert session.exits()["io"] == 3
    assert name.isprintable()
    assert len(name.encode()) <= 1024


def test_flags_select_and_rename_vms(receiver: Receiver) -> None:
    flags = ["--match", f"name={own('ci-*')}", "--ignore", "name=*-x"]
    flags += ["--name", "n/{name}", "--label", "rack=a1"]
    with watching("--output", receiver.address, *flags) as watcher:
        for name in ("ci-x", "web", "ci-1"):
            with small_guest(name=name) as guest:
                guest.do("make", "run 1")
                if name == "ci-1":
                    watcher.wait_for(f"n/{own('ci-1')} begins")
                guest.quit()
        (session,) = receiver.wait(f"n/{own('ci-1')}", ended=1)
    assert session.labels == {"rack": "a1", "vmm": "qemu"}
    assert {one.header.instance for one in receiver.sessions()} == {f"n/{own('ci-1')}", INSTANCE}
    assert has_series(session.header) == {
        *("vcpu_exits_total", "vcpu_cpu_seconds_total", "vcpu_wait_seconds_total"),
        *("vmm_rss_bytes", "vmm_open_fds", "vmm_uptime_seconds", "vmm_cpu_seconds_total"),
    }
