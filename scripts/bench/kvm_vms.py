"""Runs COUNT processes, each a VM with two vCPU threads that make some exits a second.

    python -m bench.kvm_vms COUNT LIFE_S PAUSE_S

They are forks with one page of guest memory, so a thousand fit into a small machine. A process ends LIFE_S
after it began, or, if that is 0, at the end of standard input; the next begins PAUSE_S later. It prints
"made" when all have begun, and ends when all have ended.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
import sys
import threading
import time

VCPUS = 2
EXITS = 5  # of a vCPU each second
_CREATE_VM, _CREATE_VCPU, _RUN = 0xAE01, 0xAE41, 0xAE80
_GET_VCPU_MMAP_SIZE, _SET_MEMORY = 0xAE04, 0x4020AE46
_TOP = 0xFFFF_F000  # the last page below 4 GiB, with the reset vector
_LOOP = b"\xee\xeb\xfd"  # 1: out dx, al; jmp 1b


class Guest:
    """A VM whose vCPUs only write to a port."""

    def __init__(self) -> None:
        self._kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        self._vm = fcntl.ioctl(self._kvm, _CREATE_VM, 0)
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        self._memory[0xFF0 : 0xFF0 + len(_LOOP)] = _LOOP
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        fcntl.ioctl(self._vm, _SET_MEMORY, struct.pack("<IIQQQ", 0, 0, _TOP, mmap.PAGESIZE, address))

    def vcpu(self, number: int) -> int:
        vcpu = fcntl.ioctl(self._vm, _CREATE_VCPU, number)
        mmap.mmap(vcpu, fcntl.ioctl(self._kvm, _GET_VCPU_MMAP_SIZE, 0))
        return vcpu


def run(vcpu: int, exits: int) -> None:
    ioctl = fcntl.ioctl
    for _ in range(exits):
        ioctl(vcpu, _RUN, 0)


def live(life_s: float) -> None:
    guest, over = Guest(), threading.Event()

    def work(vcpu: int) -> None:
        while not over.is_set():
            run(vcpu, EXITS)
            over.wait(1.0)

    threads = [threading.Thread(target=work, args=(guest.vcpu(number),)) for number in range(VCPUS)]
    for thread in threads:
        thread.start()
    if life_s:
        time.sleep(life_s)
    else:
        os.read(0, 1)
    over.set()
    for thread in threads:
        thread.join()


def main() -> None:
    count, life_s, pause_s = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    children = []
    for _ in range(count):
        pid = os.fork()
        if not pid:
            live(life_s)
            os._exit(0)
        children.append(pid)
        time.sleep(pause_s)
    print("made", flush=True)
    for pid in children:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
