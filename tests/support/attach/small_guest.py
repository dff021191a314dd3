"""A VMM of sixty lines with commands on standard input: the number of its guests' exits is exactly known.

    make          create a VM; with THREAD in another thread, which ends, with STAYING in one that does not
    run TIMES     run a new vCPU of the newest VM in a thread, with HERE in the main one: TIMES port exits
                  and one HLT
    drop [N]      destroy the Nth VM (from 0), by default the newest
    tap NAME      move into a new network namespace, and open a tap there
    send COUNT    send COUNT frames of 100 bytes through the tap, as the guest
    get COUNT     send COUNT frames of 60 bytes through the tap, as the host
    exec          execute itself again with the same command line
    quit STATUS   exit

It answers each line with the same line, and ignores its command line.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

CREATE_VM, CREATE_VCPU, RUN = 0xAE01, 0xAE41, 0xAE80
GET_VCPU_MMAP_SIZE, SET_MEMORY = 0xAE04, 0x4020AE46
EXIT_IO, EXIT_HLT = 2, 5
BYTES = 0x1_0000
NEW_NETWORK, SET_TAP, SET_FLAGS = 0x4000_0000, 0x4004_54CA, 0x8914
IFF_UP, IFF_TAP, IFF_NO_PI = 1, 2, 0x1000
FRAME = b"\xff" * 6 + b"\2\0\0\0\0\1" + b"\x88\xb5"  # broadcast, with an experimental EtherType


def image(times: int) -> bytes:
    """The last 64 KiB below 4 GiB, with the reset vector and 16-bit code."""
    code = b"\xba\xe0\x07" + b"\x66\xb9" + struct.pack("<I", times)  # mov dx, 0x7e0; mov ecx, times
    code += b"\xee\x66\x49\x75\xfb" + b"\xf4\xeb\xfd"  # 1: out dx, al; dec ecx; jnz 1b; 2: hlt; jmp 2b
    return code.ljust(0xFFF0, b"\0") + (b"\xe9" + struct.pack("<H", -0xFFF3 % 0x10000)).ljust(16, b"\0")


class Guest:
    def __init__(self) -> None:
        self.kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        self.vm = fcntl.ioctl(self.kvm, CREATE_VM, 0)
        self.memory: mmap.mmap | None = None
        self.vcpus = 0

    def run(self, times: int) -> None:
        if self.memory is None:
            self.memory = mmap.mmap(-1, BYTES)
            address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
            fcntl.ioctl(self.vm, SET_MEMORY, struct.pack("<IIQQQ", 0, 0, 0xFFFF_0000, BYTES, address))
        self.memory[:] = image(times)
        vcpu = fcntl.ioctl(self.vm, CREATE_VCPU, self.vcpus)
        self.vcpus += 1
        shared = mmap.mmap(vcpu, fcntl.ioctl(self.kvm, GET_VCPU_MMAP_SIZE, 0))
        while True:
            fcntl.ioctl(vcpu, RUN, 0)
            (reason,) = struct.unpack_from("<I", shared, 8)
            if reason == EXIT_HLT:
                break
            assert reason == EXIT_IO, reason
        shared.close()
        os.close(vcpu)

    def close(self) -> None:
        os.close(self.vm)
        os.close(self.kvm)


class Tap:
    """A tap device that is up, and a socket on its host side."""

    def __init__(self, name: str) -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(NEW_NETWORK):
            raise OSError(ctypes.get_errno(), "unshare")
        # Otherwise the kernel sends its own frames when the device comes up.
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
        self.fd = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(self.fd, SET_TAP, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
        self.host = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        fcntl.ioctl(self.host, SET_FLAGS, struct.pack("16sH22x", name.encode(), IFF_UP))
        self.host.bind((name, 0x88B5))


def in_thread(work: Callable[..., None], *arguments: object) -> None:
    thread = threading.Thread(target=work, args=arguments)
    thread.start()
    thread.join()


def main() -> None:
    guests: list[Guest] = []

    def make() -> None:
        guests.append(Guest())

    made = threading.Event()

    def make_and_stay() -> None:
        make()
        made.set()
        time.sleep(3600)

    taps: list[Tap] = []
    for line in iter(sys.stdin.readline, ""):
        match line.split():
            case ["make"]:
                make()
            case ["make", "THREAD"]:
                in_thread(make)
            case ["make", "STAYING"]:
                threading.Thread(target=make_and_stay, daemon=True).start()
                made.wait()
            case ["run", times]:
                in_thread(guests[-1].run, int(times))
            case ["run", times, "HERE"]:
                guests[-1].run(int(times))
            case ["drop", *which]:
                guests.pop(*map(int, which)).close()
            case ["tap", name]:
                taps.append(Tap(name))
            case ["send", count]:
                for _ in range(int(count)):
                    os.write(taps[-1].fd, FRAME.ljust(100, b"\0"))
            case ["get", count]:
                for _ in range(int(count)):
                    taps[-1].host.send(FRAME.ljust(60, b"\0"))
                    os.read(taps[-1].fd, 2000)  # the kernel counts it only then
            case ["exec"]:
                print(line, end="", flush=True)
                os.execv("/proc/self/exe", sys.orig_argv)
            case ["quit", status]:
                os._exit(int(status))
        print(line, end="", flush=True)


if __name__ == "__main__":
    main()
