"""A guest that only makes exits: a loop of `out` to an unclaimed port. For both VMMs.

Strategy: both run the same bytes. rondo-vmm loads the loop into memory and enters it in 32-bit mode. QEMU
gets it as its BIOS, which switches to that mode first, and prints 'S' and 'E' on the debug console around the
loop, so that its start-up does not count.
"""

from __future__ import annotations

import struct
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

from devtools.programs import fetch
from rondo_tools.catalog import SERIES
from rondo_tools.stream import Header, Tick, encode
from rondo_tools.vmm.boards.builtin import BuiltinBoard
from rondo_tools.vmm.boot.builtin import Entry
from rondo_tools.vmm.devices.virtio.disk import temporary_disk
from rondo_tools.vmm.machine import Machine
from rondo_tools.vmm.memory import GuestMemory
from rondo_tools.vmm.run import run_vm
from rondo_tools.vmm.wakeup import Wakeup

PORT = 0x7E0
CODE = 0x1_0000
ENDLESS = 0xFFFF_FFFF  # times: longer than any run
LIMIT_S = 300.0  # bounds a hang

_SAY, _LEAVE = 0xE9, 0xF4  # QEMU's debug console, and its exit device if there is one
_BIOS_BYTES = 0x1_0000
_BIOS = 0xFFFF_0000
_HALT = b"\xf4\xeb\xfd"  # 1: hlt; jmp 1b


class Life(NamedTuple):
    """`cpu_us` is the process's CPU time per exit. `late_ms` is the delay of each tick."""

    exits_per_s: float
    cpu_us: float
    late_ms: list[float]


class Peer(NamedTuple):
    """The same figures of QEMU, between the guest's start and end."""

    exits_per_s: float
    cpu_us: float


def loop(times: int) -> bytes:
    """mov dx, PORT; mov ecx, times; 1: out dx, al; dec ecx; jnz 1b"""
    return b"\x66\xba" + struct.pack("<H", PORT) + b"\xb9" + struct.pack("<I", times) + b"\xee\x49\x75\xfc"


def rondo(seconds: float, accelerator: str = "kvm") -> Life:
    """A run of rondo-vmm with its ticks, up to its deadline."""

    def boot(memory: GuestMemory) -> Entry:
        memory.write(CODE, loop(ENDLESS) + _HALT)
        return Entry(CODE, CODE)

    late_ms: list[float] = []

    def emit(tick: Tick) -> None:
        encode(tick)
        late_ms.append(time.time_ns() / 1e6 - tick.t_ms)

    plan = BuiltinBoard(accelerator, 1 << 20, 0, boot)
    header = Header("exits", time.time_ns() // 1_000_000, (), 1000, SERIES)
    with Wakeup() as wakeup, Machine(plan, [temporary_disk(1 << 20)], _nowhere, wakeup.wake) as machine:
        header = header._replace(start_ms=time.time_ns() // 1_000_000)
        summary = run_vm(machine, header, emit, lambda *_: None, wakeup, deadline_ms=round(seconds * 1000))
    counters = summary.counters
    exits = sum(counters.exits_by_reason().values())
    # The last tick has no due time.
    return Life(exits / summary.lived_s, counters.vmm_cpu_ns / exits / 1e3, late_ms[:-1])


def qemu(exits: int, accelerator: str = "kvm") -> Peer:
    """The loop under QEMU. Raises LookupError if QEMU is not available or does not run it."""
    program = fetch("qemu-system-x86_64")
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "bios")
        image.write_bytes(bios(exits))
        machine = ["-machine", f"pc,accel={accelerator}", "-m", "16", "-bios", str(image)]
        console = ["-chardev", "stdio,id=out", "-device", f"isa-debugcon,iobase={_SAY},chardev=out"]
        quiet = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        with subprocess.Popen(
            [program, *quiet, *machine, *console],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            limit = threading.Timer(LIMIT_S, process.kill)
            limit.start()
            first = process.stdout.read(1)
            began, cpu_before_ns = time.perf_counter(), _cpu_ns(process.pid)
            last = process.stdout.read(1)
            took, cpu_ns = time.perf_counter() - began, _cpu_ns(process.pid) - cpu_before_ns
            process.kill()  # without an exit device its guest has halted
            limit.cancel()
            error_text = process.stderr.read().decode(errors="replace").strip()
    if (first, last) != (b"S", b"E"):
        raise LookupError(f"QEMU does not run the loop: {error_text or 'it ended, or took too long'}")
    return Peer(exits / took, cpu_ns / exits / 1e3)


def _cpu_ns(pid: int) -> int:
    """The CPU time of a process with all threads: clock_getcpuclockid(3), which Python lacks."""
    return time.clock_gettime_ns(~pid << 3 | 2)


def bios(times: int) -> bytes:
    """64 KiB that end at 4 GiB: from the reset vector to 32-bit mode, then the loop."""
    return bios_of(_out(_SAY, b"S") + loop(times) + _out(_SAY, b"E") + _out(_LEAVE, b"\0") + _HALT)


def bios_of(code: bytes) -> bytes:
    """A BIOS that runs this 32-bit code."""
    table = struct.pack("<3Q", 0, 0x00CF9B00_0000FFFF, 0x00CF9300_0000FFFF)  # flat, already accessed
    flat = b"\x66\xb8\x10\x00\x8e\xd8\x8e\xc0\x8e\xd0" + code  # mov ax, 0x10; mov ds, es, ss
    table_at, pointer_at, flat_at = 0x100, 0x180, 0x200
    real = b"\xfa\x2e\x66\x0f\x01\x16" + struct.pack("<H", pointer_at)  # cli; lgdt cs:[pointer]
    real += b"\x0f\x20\xc0\x0c\x01\x0f\x22\xc0"  # cr0 |= PE
    real += b"\x66\xea" + struct.pack("<IH", _BIOS + flat_at, 8)  # jmp 8:flat
    image = bytearray(_BIOS_BYTES)
    for at, part in (
        (0, real),
        (table_at, table),
        (pointer_at, struct.pack("<HI", len(table) - 1, _BIOS + table_at)),
        (flat_at, flat),
        (0xFFF0, b"\xe9" + struct.pack("<H", -0xFFF3 % 0x10000)),  # jmp to offset 0
    ):
        image[at : at + len(part)] = part
    return bytes(image)


def _out(port: int, value: bytes) -> bytes:
    """mov al, value; out port, al"""
    return b"\xb0" + value + bytes((0xE6, port))


def _nowhere(data: bytes) -> None:
    """Ignore the console."""
