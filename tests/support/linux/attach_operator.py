"""In the laboratory, under systemd: an operator's actions on rondo-attach.service while VMs run.

The exact number of the guests' exits is known. The script waits for each state, and prints its observations.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rondo_tools.attach.counters import bpf_syscall
from rondo_tools.store.reader import Store

PROG_GET_NEXT_ID, PROG_GET_FD_BY_ID, OBJ_GET_INFO_BY_FD = 11, 13, 15  # of bpf(2)
RAW_TRACEPOINT = 17  # BPF_PROG_TYPE_RAW_TRACEPOINT

UNIT = "rondo-attach.service"
STORE = Path("/var/lib/rondo/vmm_metrics")
LIVES = Path("/run/rondo-attach/lives")  # the sessions that a restarted watcher continues


class Guest:
    """small_guest.py, in a file with a VMM's name."""

    def __init__(self, name: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "/in/qemu-kvm", "-name", f"guest={name}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.name = name

    def begin(self, line: str) -> None:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin)

    def finish(self, line: str) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == f"{line}\n"

    def do(self, *lines: str) -> None:
        for line in lines:
            self.begin(line)
            self.finish(line)

    def quit(self) -> None:
        self.begin("quit 0")
        assert self._process.wait() == 0


def systemctl(*arguments: str) -> str:
    return subprocess.run(
        ["systemctl", *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def shown(what: str) -> str:
    return systemctl("show", "--property", what, "--value", UNIT)


def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        time.sleep(0.1)


def programs() -> int:
    """The number of the kernel's programs for raw tracepoints."""
    number, count = 0, 0
    while True:
        wanted = ctypes.create_string_buffer(struct.pack("<III", number, 0, 0), 12)
        try:
            bpf_syscall.bpf(PROG_GET_NEXT_ID, wanted, 12)
        except FileNotFoundError:  # there are no more
            return count
        number = int.from_bytes(wanted.raw[4:8], "little")
        fd = bpf_syscall.bpf(
            PROG_GET_FD_BY_ID, ctypes.create_string_buffer(struct.pack("<III", number, 0, 0), 12), 12
        )
        info = ctypes.create_string_buffer(8)  # of struct bpf_prog_info: type, id
        asked = struct.pack("<IIQ", fd, len(info), ctypes.addressof(info))
        bpf_syscall.bpf(OBJ_GET_INFO_BY_FD, ctypes.create_string_buffer(asked, 16), 16)
        os.close(fd)
        count += int.from_bytes(info.raw[:4], "little") == RAW_TRACEPOINT


def is_kept(name: str) -> bool:
    return LIVES.exists() and f'"{name}"' in LIVES.read_text()


def until_kept(name: str) -> None:
    until(lambda: is_kept(name))


def until_forgotten(name: str) -> None:
    until(lambda: not is_kept(name))


def is_stored(name: str) -> bool:
    return any(one.instance == name for one in Store(STORE).sessions())


def say_confinement() -> None:
    pid = shown("MainPID")
    wanted = ("Uid:", "CapEff:", "CapBnd:", "NoNewPrivs:", "Seccomp:")
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    print("confined", *(line.replace("\t", " ") for line in status if line.startswith(wanted)))


def say_kept(when: str) -> None:
    print(f"{when}: {programs()} programs, {shown('NFileDescriptorStore')} descriptors kept", flush=True)


def main() -> None:
    systemctl("start", "rondo-store.socket", "rondo-store.service", UNIT)
    say_confinement()
    print(f"before: {programs()} programs", flush=True)
    on, ends = Guest("on"), Guest("ends")
    for guest in (on, ends):
        guest.do("make", "run 1000")
        until_kept(guest.name)

    on.begin("run 20000")
    systemctl("restart", UNIT)
    on.finish("run 20000")
    say_kept("restarted")

    on.begin("run 20000")
    os.kill(int(shown("MainPID")), signal.SIGKILL)
    ends.do("run 30")
    ends.quit()
    born = Guest("born")
    born.do("make", "run 777")
    until(lambda: shown("NRestarts") == "1" and shown("ActiveState") == "active")
    on.finish("run 20000")
    say_kept("killed")
    born.do("run 3")
    on.do("run 5")
    for guest in (on, born):
        until_kept(guest.name)
        guest.quit()
        until_forgotten(guest.name)

    systemctl("stop", UNIT)
    until(lambda: programs() == 0)  # the kernel frees them a moment later
    say_kept("stopped")
    print("folder", LIVES.parent.exists(), flush=True)

    # The machine is shut down while the last VM runs, which outlives the watcher.
    late = Guest("late")
    late.do("make", "run 100")
    systemctl("start", UNIT)
    late.do("run 10")
    until(lambda: is_stored("late"))
    systemctl("exit", "--no-block")
    signal.pause()


if __name__ == "__main__":
    main()
