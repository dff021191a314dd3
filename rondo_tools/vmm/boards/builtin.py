"""The board of the built-in guest: one vCPU, one disk, the workload port; no interrupts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from rondo_tools.vmm import layout
from rondo_tools.vmm.accel.choose import open_accelerator
from rondo_tools.vmm.boards.base import Assembly
from rondo_tools.vmm.boot import builtin
from rondo_tools.vmm.bus import Bus
from rondo_tools.vmm.counters import Counters
from rondo_tools.vmm.devices.i8042 import I8042
from rondo_tools.vmm.devices.power import PowerSwitch
from rondo_tools.vmm.devices.serial import Serial
from rondo_tools.vmm.devices.virtio.block import Block
from rondo_tools.vmm.devices.virtio.disk import Disk
from rondo_tools.vmm.devices.virtio.mmio import MmioTransport
from rondo_tools.vmm.devices.workload import FAULTS, Schedule, WorkloadPort
from rondo_tools.vmm.memory import GuestMemory
from rondo_tools.vmm.vcpu import Ending, RunLoop

_log = logging.getLogger(__name__)


class BuiltinBoard(NamedTuple):
    """A board. `boot` loads a guest into the memory and returns its entry point."""

    accelerator: str
    memory_bytes: int
    schedule_ms: int
    boot: Callable[[GuestMemory], builtin.Entry] = builtin.load

    def assemble(self, owned: ExitStack, disks: Sequence[Disk], console: Callable[[bytes], None]) -> Assembly:
        """Build the VM; it has one disk."""
        (disk,) = disks
        ending, counters = Ending(), Counters()
        memory = owned.enter_context(GuestMemory(self.memory_bytes))
        entry = self.boot(memory)
        accelerator = open_accelerator(self.accelerator, memory.mapping)
        owned.callback(accelerator.close)
        workload = WorkloadPort(Schedule(self.schedule_ms * 1_000_000), _reported)
        serial = Serial(console)
        ports = Bus("ports")
        ports.add(layout.I8042_BASE, layout.I8042_LENGTH, I8042(lambda: ending.finish("reset")))
        ports.add(layout.COM1_BASE, layout.COM1_LENGTH, serial)
        ports.add(layout.WORKLOAD_BASE, layout.WORKLOAD_LENGTH, workload)
        ports.add(layout.POWER_BASE, layout.POWER_LENGTH, PowerSwitch(lambda: ending.finish("poweroff")))
        mmio = Bus("mmio")
        block = Block(disk, memory, counters.count_block)
        mmio.add(layout.VIRTIO_BLOCK_BASE, layout.VIRTIO_BLOCK_LENGTH, MmioTransport(block, memory))
        vcpu = accelerator.vcpu
        loop = RunLoop(vcpu, ports, mmio, counters.count_exit, halt_ns=workload.idle_ns, ending=ending)
        vcpu.enter_flat(entry.rip, entry.rsp)
        return Assembly([loop], ending, counters, serial.flush)


def _reported(code: int) -> None:
    fault = FAULTS.get(code, f"wrote {code:#x} to the workload port, which is no fault code")
    _log.warning("the guest %s", fault)
