"""rondo-attach as a program: permissions, outputs, ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rondo_tools.attach import cli
from rondo_tools.attach.counters.bpf import BpfCounters
from tests.support.attach.attach_host import (
    ATTACH,
    FORGETFUL,
    NOBODY,
    NOBODY_WITH_BPF,
    OWN_NETWORK,
    ROOT,
    ROOT_WITHOUT_BPF,
    Receiver,
    Watcher,
    has_series,
    needs_kvm_and_bpf,
    own,
    small_guest,
    watching,
)
from tests.support.fixtures import Run
from tests.support.needs import PATIENCE_S

PROCESS_SERIES = {"vmm_rss_bytes", "vmm_open_fds", "vmm_uptime_seconds", "vmm_cpu_seconds_total"}
MANY = [sys.executable, str(ROOT / "tests" / "support" / "attach" / "many_vms.py")]


# --- permissions ---------------------------------------------------------------------------------


def test_without_permissions_the_process_series_remain(receiver: Receiver) -> None:
    with watching("--output", receiver.address, wrapper=NOBODY) as watcher, small_guest(name="poor") as guest:
        guest.do("make", "run 10")
        receiver.wait("poor", ticks=1)
        guest.quit()
        (session,) = receiver.wait("poor", ended=1)
        assert "CAP_BPF and CAP_PERFMON" in watcher.log
        assert "vcpu_exits_total" in watcher.log
    assert has_series(session.header) == PROCESS_SERIES  # and no zero for series without counts
    assert session.last()["vmm_cpu_seconds_total"] > 0


def test_perf_counts_where_bpf_is_refused(receiver: Receiver) -> None:
    with watching("--output", receiver.address, wrapper=ROOT_WITHOUT_BPF) as watcher:
        watcher.wait_for("counted by perf")
        with small_guest(name="perf") as guest:
            guest.do("make")
            receiver.wait("perf", ticks=1)  # the counters are open
            guest.do("run 1000")
            guest.quit()
            (session,) = receiver.wait("perf", ended=1)
    assert session.exits() == {"io": 1000, "mmio": 0, "hlt": 1, "shutdown": 0, "other": 0}
    assert has_series(session.header) == PROCESS_SERIES | {"vcpu_exits_total"}


def test_the_map_is_bounded_and_lost_exits_are_counted() -> None:
    needs_kvm_and_bpf()
    counters = BpfCounters(max_threads=1)
    try:
        with small_guest(name="first") as first, small_guest(name="second") as second:
            first.do("make", "run 10")
            second.do("make", "run 20")
            counted = counters.read()
            assert counters.lost() >= 21 - 11 * (first.pid not in counted)
            assert len(counted) == 1
            for pid in counted:
                counters.forget(pid)
            assert not counters.read().get(first.pid)
    finally:
        counters.close()


def listed(*wrapper: str) -> dict[str, list[dict[str, str]]]:
    done = subprocess.run(
        [*wrapper, *ATTACH, "list", "--format", "json"], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, list[dict[str, str]]] = json.loads(done.stdout)
    return result


def test_list_shows_each_vm_and_refusals() -> None:
    needs_kvm_and_bpf()
    with small_guest(name="in the list") as guest:
        guest.do("make")
        (vm,) = [vm for vm in listed()["vms"] if int(vm["pid"]) == guest.pid]
        refused = listed(*NOBODY)["refused"]
        table = subprocess.run([*ATTACH, "list"], capture_output=True, text=True, timeout=PATIENCE_S).stdout
    assert (vm["name"], vm["name_from"], vm["vmm"], vm["exits"]) == (
        own("in the list"),
        "-name",
        "qemu",
        "bpf",
    )
    assert own("in the list") in table
    assert {one["source"]: one["needs"] for one in refused}["bpf"] == "CAP_BPF and CAP_PERFMON"


def test_another_pid_namespace_is_refused() -> None:
    needs_kvm_and_bpf()
    for arguments in (["--text"], ["list"]):
        inside = ["unshare", "--pid", "--fork", "--mount-proc", *ATTACH, *arguments]
        done = subprocess.run(inside, capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 69
        assert "PID namespace" in done.stderr


# --- outputs -------------------------------------------------------------------------------------


def test_one_vm_as_a_pipe_into_a_store(tmp_path: Path, run: Run) -> None:
    needs_kvm_and_bpf()
    store = tmp_path / "store"
    with small_guest(name="piped") as guest:
        guest.do("make")
        with watching("--pid", str(guest.pid)) as watcher:
            watcher.wait_for(own("piped begins"))
            into = subprocess.Popen(
                [sys.executable, ROOT / "bin" / "rondo-store", store], stdin=watcher.process.stdout
            )
            guest.do("run 40")
            guest.quit()
            assert watcher.wait() == 0  # it ends with the watched process
            assert into.wait(PATIENCE_S) == 0
    exits = run("rondo-query", store, "read", 'vcpu_exits_total{reason="io"}')
    assert exits.stdout.endswith(b"  40\n"), exits.stdout


def test_text_ends_with_its_reader() -> None:
    needs_kvm_and_bpf()
    with watching("--text", "--match", f"name={own('shown')}") as watcher, small_guest(name="shown") as guest:
        assert watcher.process.stdout is not None
        guest.do("make", "run 40")
        assert own("shown") + "  begins: vmm=qemu interval=1s" in watcher.process.stdout.readline()
        assert "  cpu " in watcher.process.stdout.readline()
        guest.quit()
        lines = iter(watcher.process.stdout.readline, "")
        assert any("ends: gone; exits: io 40, mmio 0, hlt 1, shutdown 0, other 0" in line for line in lines)
        watcher.process.stdout.close()
        with small_guest(name="shown") as guest:
            guest.do("make")
            assert watcher.wait() == 0


def test_a_returning_store_gets_all_ticks(tmp_path: Path, receiver: Receiver) -> None:
    late = tmp_path / "late.sock"
    with watching("--output", f"unix:{late}", "--interval", "100ms") as watcher:
        with small_guest(name="kept") as guest:
            guest.do("make", "run 12")
            watcher.wait_for("trying again")
            guest.quit()
        watcher.wait_for(own("kept ends"))
        store = Receiver(late)
        try:
            (session,) = store.wait("kept", ended=1)
        finally:
            watcher.close()
            store.close()
    assert session.exits()["io"] == 12


def test_stopping_the_watcher_ends_no_session(receiver: Receiver) -> None:
    with small_guest(name="lives on") as guest:
        with watching("--output", receiver.address) as watcher:
            guest.do("make")
            receiver.wait("lives on", ticks=1)
            assert watcher.stop() == 0
        assert all(session.end is None for session in receiver.of("lives on"))
        guest.do("run 5")  # the VM continues


def test_a_second_watcher_of_all_vms_is_refused(receiver: Receiver) -> None:
    with watching("--output", receiver.address) as first:
        same = ["nsenter", f"--net=/proc/{first.process.pid}/ns/net"]
        second = Watcher("--output", receiver.address, network=same)
        try:
            assert second.wait() == 69
            assert f"already watches all VMs of this host (process {first.process.pid})" in second.log
        finally:
            second.close()


def test_another_user_cannot_block_the_start(receiver: Receiver) -> None:
    code = "import socket, time; s = socket.socket(socket.AF_UNIX); s.bind('\\0rondo-attach'); s.listen()"
    stranger = [*OWN_NETWORK, *NOBODY, sys.executable, "-uc", f"{code}; print(); time.sleep(3600)"]
    with subprocess.Popen(stranger, stdout=subprocess.PIPE) as squatter:
        try:
            assert squatter.stdout is not None
            squatter.stdout.readline()
            same = ["nsenter", f"--net=/proc/{squatter.pid}/ns/net"]
            watcher = Watcher("--output", receiver.address, network=same)
            try:
                watcher.wait_for("watching")
                assert "has the name of rondo-attach's lock; continuing without it" in watcher.log
            finally:
                watcher.close()
        finally:
            squatter.kill()


def test_a_clock_set_back_begins_a_new_session(receiver: Receiver, tmp_path: Path) -> None:
    """The session ends at its last time; another begins at the new time, with counters from 0."""
    offset = tmp_path / "clock"
    offset.write_text("0")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "set_clock"), "SET_CLOCK": str(offset)}
    with (
        watching("--output", receiver.address, environment=environment) as watcher,
        small_guest(name="clocked") as guest,
    ):
        guest.do("make", "run 50")
        receiver.wait("clocked", ticks=1)
        new = tmp_path / "new"
        new.write_text("-3600000")
        new.replace(offset)
        watcher.wait_for("set back by 3")
        guest.do("run 6")
        guest.quit()
        second, first = receiver.wait("clocked", ended=2)
    assert first.end is not None
    assert (first.end.reason, first.exits()["io"]) == ("clock", 50)
    assert first.header.start_ms - second.header.start_ms > 3_590_000
    assert second.exits()["io"] == 6


# --- many ----------------------------------------------------------------------------------------


def pids_of(many: subprocess.Popen[str]) -> list[str]:
    assert many.stdout is not None
    with many.stdout:
        pids = many.stdout.readline().split()
    assert many.wait(PATIENCE_S) == 0
    return pids


@pytest.mark.long
def test_three_hundred_lives_are_all_seen(receiver: Receiver) -> None:
    with watching("--output", receiver.address, wrapper=NOBODY_WITH_BPF):
        many = subprocess.Popen([*MANY, "300", "100", "1", "0.02"], stdout=subprocess.PIPE, text=True)
        sessions = [receiver.wait(f"pid-{pid}", ended=1) for pid in pids_of(many)]
    assert [got.exits()["io"] for (got,) in sessions] == [100] * 300


@pytest.mark.parametrize("count", [30, pytest.param(300, marks=pytest.mark.long)])
def test_a_stopped_watcher_misses_no_birth(count: int, receiver: Receiver) -> None:
    """Its socket's buffer is too small for all events: the others are found by their exits."""
    flags = ("--output", receiver.address)
    with watching(*flags, wrapper=NOBODY_WITH_BPF, command=FORGETFUL) as watcher:
        many = subprocess.Popen([*MANY, str(count), "100", "1", "0"], stdout=subprocess.PIPE, text=True)
        watcher.process.send_signal(signal.SIGSTOP)
        pids = pids_of(many)
        watcher.process.send_signal(signal.SIGCONT)
        sessions = [receiver.wait(f"pid-{pid}", ended=1) for pid in pids]
        watcher.wait_for("events of KVM were lost")
    assert [got.exits()["io"] for (got,) in sessions] == [100] * count


def test_without_free_descriptors_it_warns_and_continues(receiver: Receiver) -> None:
    few = ["prlimit", "--nofile=24:24"]
    with watching("--output", receiver.address, wrapper=few) as watcher:
        many = subprocess.Popen([*MANY, "40", "10", "2", "0"], stdout=subprocess.PIPE, text=True)
        pids_of(many)
        watcher.wait_for("cannot be watched: Too many open files")
        assert watcher.stop() == 0


# --- wrong command lines -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 64, "--output is missing"),
        (["--output", "-"], 64, "--output is missing"),
        (["--output", "file"], 64, "unix:PATH or tcp:HOST:PORT"),
        (["--output", "unix:x", "--text"], 64, "--text is for people"),
        (["--text", "--interval", "99ms"], 64, "100ms is the shortest"),
        (["--text", "--match", "web"], 64, "name=PATTERN"),
        (["--text", "--name", "{nome}"], 64, "{name}"),
        (["--text", "--label", "a"], 64, "NAME=VALUE"),
        (["--text", "--label", "reason=x"], 64, "reason"),
        (["--text", "--label", "a=1", "--label", "a=2"], 64, "more than once"),
        (["--text", *(part for n in range(30) for part in ("--label", f"l{n}=x"))], 64, "more than 32"),
        (["--pid", "99999999", "--text"], 69, "no such process"),
        (["list", "--output", "x"], 64, "there is no flag --output"),
    ],
)
def test_invalid_flags_get_a_message(
    arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        ended = cli.main(arguments)
    except SystemExit as exc:
        ended = int(str(exc.code))
    assert ended == status
    assert message in capsys.readouterr().err


def test_standard_output_may_not_be_closed() -> None:
    closed = ["sh", "-c", '"$@" >&-', "sh", *ATTACH, "--text"]
    done = subprocess.run(closed, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_S)
    assert done.returncode == 64
    assert "standard output is closed" in done.stderr


def test_events_reach_another_network_namespace() -> None:
    """An assumption of the tests: KVM's events arrive in every network namespace."""
    needs_kvm_and_bpf()
    code = (
        "from rondo_tools.attach.discover import Uevents; import select, sys; u = Uevents();"
        "print(flush=True); select.select([u], [], []); sys.exit(not u.receive())"
    )
    with subprocess.Popen(
        [*OWN_NETWORK, sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with small_guest() as guest:
            guest.do("make")
            assert process.wait(PATIENCE_S) == 0
