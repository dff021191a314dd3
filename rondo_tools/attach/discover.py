"""Finds the processes that have VMs: KVM's events over netlink, and a scan for VMs that already run.

Strategy: KVM sends a uevent when a VM is created and when its last reference is closed. Every user may
receive them, and they come before the VM's first exit. An event names the *thread* that created the VM.
Events that do not fit into the socket's buffer are lost (ENOBUFS): the caller scans again. The scan uses
debugfs, which has a folder for each VM, if that may be read, else the links in /proc/PID/fd.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from rondo_tools.attach.process import thread_group

DEBUGFS = "/sys/kernel/debug/kvm"

_NETLINK_KOBJECT_UEVENT = 15
_KERNEL_GROUP = 1
_SO_RCVBUFFORCE = 33
BUFFER_BYTES = 8 << 20  # the socket's: 10,000 events
_MOST_EVENT_BYTES = 1 << 13
_DEVPATH = b"/devices/virtual/misc/kvm"
_VM_LINK = "anon_inode:kvm-vm"
_STATS_NAME = re.compile(r"(\d+)-(\d+)")


class KvmEvent(NamedTuple):
    """A VM was created or is gone. `tid` is the thread that created it, `path` is unique for a VM."""

    is_create: bool
    tid: int
    path: str


class Found(NamedTuple):
    """A VM that ran before; `path` as in its events, if it is known."""

    pid: int
    path: str = ""


class Scan(NamedTuple):
    """The VMs found; `refused` is what could not be read, for messages."""

    found: tuple[Found, ...]
    is_complete: bool
    refused: str = ""


def parse(message: bytes) -> KvmEvent | None:
    """An event of KVM; None for any other."""
    head, *lines = message.split(b"\0")
    if not head.endswith(b"@" + _DEVPATH):
        return None
    fields = dict(line.split(b"=", 1) for line in lines if b"=" in line)
    event, pid = fields.get(b"EVENT"), fields.get(b"PID", b"")
    if fields.get(b"DEVPATH") != _DEVPATH or event not in (b"create", b"destroy") or not pid.isdigit():
        return None
    path = fields.get(b"STATS_PATH", b"").decode(errors="replace")
    return KvmEvent(event == b"create", int(pid), path)


class Uevents:
    """KVM's events, on a socket."""

    def __init__(self) -> None:
        self.overruns = 0  # times that the buffer was full and events were dropped
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, _NETLINK_KOBJECT_UEVENT)
        try:
            self._set_buffer(BUFFER_BYTES)
            self._socket.bind((0, _KERNEL_GROUP))
        except OSError:
            self._socket.close()
            raise

    def _set_buffer(self, size: int) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
        except PermissionError:  # without CAP_NET_ADMIN there is a limit
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> list[KvmEvent]:
        """All events that have arrived, in order."""
        events: list[KvmEvent] = []
        while True:
            try:
                message, sender = self._socket.recvfrom(_MOST_EVENT_BYTES)
            except BlockingIOError:
                return events
            except OSError as exc:
                if exc.errno != errno.ENOBUFS:
                    raise
                self.overruns += 1
                continue
            event = parse(message) if sender[0] == 0 else None  # from the kernel only
            if event is not None:
                events.append(event)

    def close(self) -> None:
        self._socket.close()


def scan(proc: str = "/proc", debugfs: str = DEBUGFS) -> Scan:
    """All VMs, from debugfs if it can be listed, else from the descriptors of all processes."""
    try:
        names = os.listdir(debugfs)
    except OSError:
        return _scan_descriptors(proc)
    return Scan(tuple(_in_debugfs(names, proc)), is_complete=True)


def _in_debugfs(names: Iterable[str], proc: str) -> Iterable[Found]:
    for name in names:
        if match := _STATS_NAME.fullmatch(name):
            pid = thread_group(int(match[1]), proc)
            if pid is not None:
                yield Found(pid, f"/kvm/{name}")


def _scan_descriptors(proc: str) -> Scan:
    found: list[Found] = []
    refused = 0
    for name in os.listdir(proc):
        if not name.isdigit():
            continue
        try:
            descriptors = os.listdir(f"{proc}/{name}/fd")
            for number in descriptors:
                try:
                    is_vm = os.readlink(f"{proc}/{name}/fd/{number}") == _VM_LINK
                except FileNotFoundError:
                    continue  # the descriptor was closed meanwhile
                if is_vm:
                    found.append(Found(int(name), f"/kvm/{name}-{number}"))
        except PermissionError:
            refused += 1
        except OSError:
            continue  # the process ended
    if not refused:
        return Scan(tuple(found), is_complete=True)
    hide = "1 process hides its" if refused == 1 else f"{refused} processes hide their"
    return Scan(tuple(found), is_complete=False, refused=f"{hide} descriptors, and {DEBUGFS} is not readable")


def knows_vcpus(path: str) -> bool:
    """Whether debugfs lists the vCPU threads of a VM."""
    try:
        os.listdir(Path(DEBUGFS).parent / path.removeprefix("/"))
    except OSError:
        return False
    return True


def vcpu_threads(path: str, debugfs: str = DEBUGFS) -> tuple[int, ...]:
    """The vCPU threads of the VM with this path; empty if debugfs does not list them."""
    folder = Path(debugfs).parent / path.removeprefix("/")
    tids = []
    try:
        for vcpu in folder.glob("vcpu*"):
            tid = int((vcpu / "pid").read_text())
            if tid > 0:
                tids.append(tid)
    except (OSError, ValueError):
        return ()
    return tuple(sorted(tids))
