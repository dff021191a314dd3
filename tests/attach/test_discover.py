"""KVM's events as bytes, and the scan of a made-up /proc and debugfs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rondo_tools.attach import discover
from rondo_tools.attach.discover import Found, KvmEvent, parse

CREATE = (
    b"change@/devices/virtual/misc/kvm\0ACTION=change\0DEVPATH=/devices/virtual/misc/kvm\0SUBSYSTEM=misc\0"
    b"CREATED=12\0COUNT=1\0EVENT=create\0PID=4711\0STATS_PATH=/kvm/4711-14\0MAJOR=10\0MINOR=232\0DEVNAME=kvm\0"
    b"SEQNUM=2222\0"
)


def test_a_create_and_a_destroy() -> None:
    assert parse(CREATE) == KvmEvent(is_create=True, tid=4711, path="/kvm/4711-14")
    destroy = CREATE.replace(b"EVENT=create", b"EVENT=destroy")
    assert parse(destroy) == KvmEvent(is_create=False, tid=4711, path="/kvm/4711-14")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\0",
        CREATE.replace(b"misc/kvm", b"misc/kvmx"),
        CREATE.replace(b"EVENT=create", b"EVENT=paused"),
        CREATE.replace(b"PID=4711", b"PID=self"),
        CREATE.replace(b"PID=4711", b"PID="),
        CREATE.replace(b"PID=4711\0", b""),
        CREATE.replace(b"EVENT=create\0", b""),
        b"libudev\0\xfe\xed\xca\xfe" + CREATE,
        b"add@/devices/virtual/net/tap0\0ACTION=add\0DEVPATH=/devices/virtual/net/tap0\0",
    ],
)
def test_other_messages_are_not_events(message: bytes) -> None:
    assert parse(message) is None


def test_an_old_kernel_sends_no_path() -> None:
    assert parse(CREATE.replace(b"STATS_PATH=/kvm/4711-14\0", b"")) == KvmEvent(True, 4711, "")


@given(st.binary(max_size=300), st.integers(0, 200))
def test_arbitrary_bytes_never_raise(noise: bytes, at: int) -> None:
    parse(noise)
    parse(CREATE[:at] + noise + CREATE[at:])


def process(
    proc: Path, pid: int, *, threads: tuple[int, ...] = (), links: dict[int, str] | None = None
) -> None:
    """A process in /proc: its descriptors, and the status of each thread."""
    (proc / str(pid) / "fd").mkdir(parents=True)
    for number, target in (links or {}).items():
        (proc / str(pid) / "fd" / str(number)).symlink_to(target)
    for tid in (pid, *threads):
        (proc / str(tid)).mkdir(exist_ok=True)
        (proc / str(tid) / "status").write_text(f"Name:\tTgid: 1\nTgid:\t{pid}\nPid:\t{tid}\n")


def test_debugfs_names_each_vm_by_its_creating_thread(tmp_path: Path) -> None:
    proc, debugfs = tmp_path / "proc", tmp_path / "kvm"
    process(proc, 10, threads=(12,))
    for name in ("10-5", "12-9", "77-3", "halt_exits", "not-a-vm"):
        (debugfs / name).mkdir(parents=True)
    scan = discover.scan(str(proc), str(debugfs))
    assert sorted(scan.found) == [Found(10, "/kvm/10-5"), Found(10, "/kvm/12-9")]  # 77 is gone
    assert scan.is_complete


def test_without_debugfs_descriptors_are_scanned(tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    process(proc, 10, links={4: "anon_inode:kvm-vm", 5: "anon_inode:kvm-vcpu:0", 1: "/dev/null"})
    process(proc, 11, links={4: "/dev/kvm"})
    (proc / "self").mkdir()
    scan = discover.scan(str(proc), str(tmp_path / "absent"))
    assert scan.found == (Found(10, "/kvm/10-4"),)
    assert scan.is_complete


def test_hidden_descriptors_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proc = tmp_path / "proc"
    process(proc, 10, links={4: "anon_inode:kvm-vm"})
    process(proc, 11, links={4: "anon_inode:kvm-vm"})

    listed = os.listdir

    def listdir(path: str) -> list[str]:
        if path.endswith("/10/fd"):
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "listdir", listdir)
    scan = discover.scan(str(proc), str(tmp_path / "absent"))
    monkeypatch.undo()
    assert scan.found == (Found(11, "/kvm/11-4"),)
    assert not scan.is_complete
    assert scan.refused.startswith("1 process ")


def test_the_vcpu_threads_of_a_vm(tmp_path: Path) -> None:
    for name, tid in (("vcpu0", "11"), ("vcpu1", "12"), ("vcpu2", "0")):
        (tmp_path / "kvm" / "10-5" / name).mkdir(parents=True)
        (tmp_path / "kvm" / "10-5" / name / "pid").write_text(f"{tid}\n")
    assert discover.vcpu_threads("/kvm/10-5", str(tmp_path / "kvm")) == (11, 12)
    assert discover.vcpu_threads("/kvm/99-5", str(tmp_path / "kvm")) == ()
