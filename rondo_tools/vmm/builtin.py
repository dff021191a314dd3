"""The VM of the built-in guest: one vCPU, one disk, the orders port; no interrupts at all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from rondo_tools.vmm import layout
from rondo_tools.vmm.accel.choose import open_accelerator
from rondo_tools.vmm.boot import builtin
from rondo_tools.vmm.bus import Bus
from rondo_tools.vmm.devices.i8042 import I8042
from rondo_tools.vmm.devices.orders import FAULTS, Orders, Schedule
from rondo_tools.vmm.devices.power import PowerSwitch
from rondo_tools.vmm.devices.serial import Serial
from rondo_tools.vmm.devices.virtio.block import Block
from rondo_tools.vmm.devices.virtio.disk import Disk
from rondo_tools.vmm.devices.virtio.mmio import MmioTransport
from rondo_tools.vmm.machine import Board
from rondo_tools.vmm.memory import GuestMemory
from rondo_tools.vmm.meter import Meter
from rondo_tools.vmm.vcpu import Ending, RunLoop

_log = logging.getLogger(__name__)


class Builtin(NamedTuple):
    """A plan. `boot` loads a guest into its memory and says where it begins."""

    accelerator: str
    memory_bytes: int
    schedule_ms: int
    boot: Callable[[GuestMemory], builtin.Entry] = builtin.load

    def assemble(self, owned: ExitStack, disks: Sequence[Disk], console: Callable[[bytes], None]) -> Board:
        """Make it; there is one disk."""
        (disk,) = disks
        ending, meter = Ending(), Meter()
        memory = owned.enter_context(GuestMemory(self.memory_bytes))
        entry = self.boot(memory)
        accelerator = open_accelerator(self.accelerator, memory.mapping)
        owned.callback(accelerator.close)
        orders = Orders(Schedule(self.schedule_ms * 1_000_000), _reported)
        serial = Serial(console)
        ports = Bus("ports")
        ports.add(layout.I8042_BASE, layout.I8042_LENGTH, I8042(lambda: ending.finish("reset")))
        ports.add(layout.COM1_BASE, layout.COM1_LENGTH, serial)
        ports.add(layout.ORDERS_BASE, layout.ORDERS_LENGTH, orders)
        ports.add(layout.POWER_BASE, layout.POWER_LENGTH, PowerSwitch(lambda: ending.finish("poweroff")))
        mmio = Bus("mmio")
        block = Block(disk, memory, meter.count_block)
        mmio.add(layout.VIRTIO_BLOCK_BASE, layout.VIRTIO_BLOCK_LENGTH, MmioTransport(block, memory))
        vcpu = accelerator.vcpu
        loop = RunLoop(vcpu, ports, mmio, meter.count_exit, halt_ns=orders.idle_ns, ending=ending)
        vcpu.enter_flat(entry.rip, entry.rsp)
        return Board([loop], ending, meter, serial.flush)


def _reported(code: int) -> None:
    fault = FAULTS.get(code, f"wrote {code:#x} to the orders port, which means nothing")
    _log.warning("the guest %s", fault)
