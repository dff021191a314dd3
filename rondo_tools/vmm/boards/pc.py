"""The board for Linux: vCPUs with interrupt controllers in KVM, and the few devices that Linux needs.

Strategy: every device that several threads may use has its own lock, so that a vCPU waits for another
one only if both use the same device. Every writer has its own counters: a vCPU for its exits, a disk
(under its lock) for its requests.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from rondo_tools.vmm import layout
from rondo_tools.vmm.accel.kvm_pc import KvmPc
from rondo_tools.vmm.boards.base import Assembly
from rondo_tools.vmm.boot import acpi, linux
from rondo_tools.vmm.bus import Bus, Locked
from rondo_tools.vmm.counters import Counters, CounterSum
from rondo_tools.vmm.devices.cmos import Cmos
from rondo_tools.vmm.devices.i8042 import I8042
from rondo_tools.vmm.devices.power import PowerSwitch
from rondo_tools.vmm.devices.serial import Serial
from rondo_tools.vmm.devices.virtio.block import Block
from rondo_tools.vmm.devices.virtio.disk import Disk
from rondo_tools.vmm.devices.virtio.mmio import MmioTransport, VirtioDevice
from rondo_tools.vmm.devices.virtio.rng import Rng
from rondo_tools.vmm.keyboard import Keyboard
from rondo_tools.vmm.memory import GuestMemory
from rondo_tools.vmm.vcpu import Ending, RunLoop

_log = logging.getLogger(__name__)

DISKS_MAX = layout.VIRTIO_MAX - 1  # the last one is the entropy device
CPUS_MAX = 64


class PcBoard:
    """A board: `guest` in `memory_bytes`, on `cpus` vCPUs. With a `keyboard` the console takes input.

    A PcBoard builds one VM: it drops the files' bytes once they are in guest memory.
    """

    def __init__(
        self, guest: linux.Guest, memory_bytes: int, cpus: int = 1, keyboard: Keyboard | None = None
    ) -> None:
        self._guest: linux.Guest | None = guest
        self._memory_bytes = memory_bytes
        self._cpus = cpus
        self._keyboard = keyboard

    def assemble(self, owned: ExitStack, disks: Sequence[Disk], console: Callable[[bytes], None]) -> Assembly:
        """Build the VM with the disks in order, followed by the entropy device."""
        guest, self._guest = self._guest, None
        assert guest is not None
        ending = Ending()
        memory = owned.enter_context(GuestMemory(self._memory_bytes))
        places = [_place(number) for number in range(len(disks) + 1)]
        entry = linux.load(memory, guest, acpi.tables(layout.PC_ACPI, self._cpus, places))
        del guest
        kvm = KvmPc(memory.mapping, cpus=self._cpus)
        owned.callback(kvm.close)

        by_vcpu = [Counters() for _ in range(self._cpus)]
        by_disk = [Counters() for _ in disks]
        devices: list[VirtioDevice] = [
            Block(disk, memory, counters.count_block, name=f"rondo{number}")
            for number, (disk, counters) in enumerate(zip(disks, by_disk, strict=True))
        ]
        devices.append(Rng(memory))
        mmio = Bus("mmio")
        for device, place in zip(devices, places, strict=True):
            transport = MmioTransport(device, memory, _pulse(kvm, place.interrupt))
            mmio.add(place.base, layout.VIRTIO_STEP, Locked(transport))

        keyboard = self._keyboard
        serial = Serial(
            console,
            lambda level: kvm.interrupt(layout.COM1_IRQ, level=level),
            keyboard.drained if keyboard else _nobody,
            by_line=keyboard is None,
        )
        locked = Locked(serial)
        if keyboard:
            keyboard.connect(serial, locked)
        ports = _ports(locked, ending)
        loops = [
            RunLoop(vcpu, ports, mmio, counters.count_exit, ending=ending)
            for vcpu, counters in zip(kvm.vcpus, by_vcpu, strict=True)
        ]
        kvm.vcpus[0].enter_long(**entry._asdict())
        if kvm.halts() is None:
            _log.warning("this KVM does not count the guest's halts (Linux 5.14 does): hlt stays 0")
        return Assembly(loops, ending, CounterSum([*by_vcpu, *by_disk], kvm.halts), serial.flush)


def _place(number: int) -> acpi.VirtioDevice:
    return acpi.VirtioDevice(
        layout.VIRTIO_BLOCK_BASE + number * layout.VIRTIO_STEP, layout.VIRTIO_IRQ + number
    )


def _pulse(kvm: KvmPc, line: int) -> Callable[[], None]:
    """A function that pulses an interrupt line."""

    def interrupt() -> None:
        kvm.interrupt(line, level=True)
        kvm.interrupt(line, level=False)

    return interrupt


def _ports(serial: Locked, ending: Ending) -> Bus:
    ports = Bus("ports")
    ports.add(layout.I8042_BASE, layout.I8042_LENGTH, I8042(lambda: ending.finish("reset")))
    ports.add(layout.CMOS_BASE, layout.CMOS_LENGTH, Locked(Cmos()))
    ports.add(layout.COM1_BASE, layout.COM1_LENGTH, serial)
    ports.add(layout.POWER_BASE, layout.POWER_LENGTH, PowerSwitch(lambda: ending.finish("poweroff")))
    return ports


def _nobody() -> None:
    """Ignores that the port is empty: there is no keyboard."""
