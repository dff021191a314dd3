"""One VM: memory, buses, devices, an accelerator, and the thread that runs its vCPU.

Strategy: everything is made and wired in the constructor, in the order of what needs what; `close`
takes it down the other way round. The thread ends when the VM does, and says so once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
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
from rondo_tools.vmm.memory import GuestMemory
from rondo_tools.vmm.meter import Meter
from rondo_tools.vmm.vcpu import End, RunLoop

_log = logging.getLogger(__name__)


class Config(NamedTuple):
    """What a VM is made of. `boot` loads a guest into its memory and says where it begins."""

    accelerator: str
    memory_bytes: int
    schedule_ms: int
    boot: Callable[[GuestMemory], builtin.Entry] = builtin.load


class Machine:
    """A VM, made and not yet started. A context manager: it ends the guest and frees everything.

    It takes over `disk`. `console` is called with what the guest prints, in the vCPU's thread, so it
    may not block; so is `on_end`, once, when the guest has ended and `end` says why.
    """

    def __init__(
        self, config: Config, disk: Disk, console: Callable[[bytes], None], on_end: Callable[[], None]
    ) -> None:
        self._owned = ExitStack()
        self._on_end = on_end
        self._thread = threading.Thread(target=self._run, name="vcpu 0", daemon=True)
        self._over = threading.Event()
        self.meter = Meter()
        try:
            self._owned.callback(disk.close)
            memory = self._owned.enter_context(GuestMemory(config.memory_bytes))
            entry = config.boot(memory)
            accelerator = open_accelerator(config.accelerator, memory.mapping)
            self._owned.callback(accelerator.close)
            orders = Orders(Schedule(config.schedule_ms * 1_000_000), self._reported)
            self._serial = Serial(console)
            self._loop = RunLoop(
                accelerator.vcpu,
                self._ports(orders),
                _block_device(disk, memory, self.meter),
                self.meter.count_exit,
                halt_ns=orders.idle_ns,
            )
            accelerator.vcpu.enter_flat(entry.rip, entry.rsp)
        except BaseException:
            self._owned.close()
            raise

    def _ports(self, orders: Orders) -> Bus:
        ports = Bus("ports")
        ports.add(layout.I8042_BASE, layout.I8042_LENGTH, I8042(lambda: self.stop("reset")))
        ports.add(layout.COM1_BASE, layout.COM1_LENGTH, self._serial)
        ports.add(layout.ORDERS_BASE, layout.ORDERS_LENGTH, orders)
        ports.add(layout.POWER_BASE, layout.POWER_LENGTH, PowerSwitch(lambda: self.stop("poweroff")))
        return ports

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._thread.ident is not None:
            while not self._over.is_set():
                self.stop("signal")
                self._over.wait(0.05)
            self._thread.join()
        self._owned.close()

    def over(self) -> bool:
        """The guest has ended: no counter changes any more, and `end` is there."""
        return self._over.is_set()

    @property
    def end(self) -> End | None:
        """Why the VM ends or ended; None while nothing ends it."""
        return self._loop.end

    def start(self) -> None:
        self._thread.start()

    def stop(self, reason: str) -> None:
        """End the guest for `reason`, from any thread; does not wait.

        If `over` does not follow within some ms, call again: a stop may be lost on its way into the
        guest (see `accel.base.Vcpu.stop`). The first reason stands.
        """
        self._loop.finish(reason)

    def _run(self) -> None:
        try:
            self._loop.run()
        except Exception:
            _log.exception("the VMM failed; please report it")
        finally:
            self._serial.flush()
            self._over.set()
            self._on_end()

    def _reported(self, code: int) -> None:
        fault = FAULTS.get(code, f"wrote {code:#x} to the orders port, which means nothing")
        _log.warning("the guest %s", fault)


def _block_device(disk: Disk, memory: GuestMemory, meter: Meter) -> Bus:
    mmio = Bus("mmio")
    block = Block(disk, memory, meter.count_block)
    mmio.add(layout.VIRTIO_BLOCK_BASE, layout.VIRTIO_BLOCK_LENGTH, MmioTransport(block, memory))
    return mmio
