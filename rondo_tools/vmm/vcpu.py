"""The exit path: run the guest, dispatch its exit to a bus, count it. The only place that handles exits.

Strategy: the accelerator calls `handle` at each exit. Two timestamps divide the time: the guest's stop
and the end of handling. The time before the first is running; the time between them is handling, less
the sleep in HLT, which is neither. This path does no I/O for metrics and waits for no other thread,
except in HLT, where a stop ends the sleep.

The first end reason wins; later ones are ignored.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import perf_counter_ns
from typing import NamedTuple

from rondo_tools.vmm.accel.base import HLT, IO, MMIO, SHUTDOWN, Vcpu
from rondo_tools.vmm.bus import Bus

HALT_NS = 10_000_000  # the sleep in HLT: the period of a 100 Hz timer
_SIZES = frozenset((1, 2, 4, 8))  # bytes; the accesses that a device takes


class End(NamedTuple):
    """Why the VM ended: one of the stream's END_REASONS, and a detail for the log."""

    reason: str
    detail: str = ""


class Ending:
    """The end of a VM, shared by its vCPUs: the first reason is kept, and every vCPU is stopped."""

    def __init__(self) -> None:
        self._deciding = threading.Lock()  # guards the test and set of `end`
        self._happened = threading.Event()
        self._vcpus: list[Vcpu] = []
        self.end: End | None = None

    def stops(self, vcpu: Vcpu) -> None:
        """Stop this vCPU too when the VM ends."""
        self._vcpus.append(vcpu)

    def finish(self, reason: str, detail: str = "") -> None:
        """End the VM, from any thread. Repeat the call if a vCPU's thread does not end: see `Vcpu.stop`."""
        with self._deciding:
            if self.end is None:
                self.end = End(reason, detail)
        self._happened.set()
        for vcpu in self._vcpus:
            vcpu.stop()

    def wait(self, timeout_s: float) -> None:
        """Sleep until the end, `timeout_s` at most."""
        self._happened.wait(timeout_s)


class RunLoop:
    """Runs one vCPU until the VM ends. Sends its exits to two buses, and calls `count` for each exit.

    `count(reason, run_ns, exit_ns)` is called in the vCPU's thread. The vCPUs of one VM share an `ending`.
    """

    def __init__(
        self,
        vcpu: Vcpu,
        ports: Bus,
        mmio: Bus,
        count: Callable[[str, int, int], None],
        *,
        halt_ns: Callable[[], int] = lambda: HALT_NS,
        ending: Ending | None = None,
    ) -> None:
        self._vcpu = vcpu
        self._buses = {IO: ports, MMIO: mmio}
        self._count = count
        self._halt_ns = halt_ns
        self._ending = ending or Ending()
        self._ending.stops(vcpu)
        self._asleep_ns = 0  # during the current exit
        self._entered = 0  # time of the last entry into the guest

    @property
    def end(self) -> End | None:
        """The end reason and detail; None while the VM runs."""
        return self._ending.end

    def run(self) -> End:
        """Run the guest in this thread until its end. An exception from a device ends it as an error."""
        self._entered = perf_counter_ns()
        try:
            if self.end is None:
                self._vcpu.run(self.handle)
            self.finish("error", "the accelerator stopped without a reason")
        except Exception as exc:
            self.finish("error", f"the VMM failed: {type(exc).__name__}: {exc}")
            raise
        assert self.end is not None
        return self.end

    def finish(self, reason: str, detail: str = "") -> None:
        """End the VM: see `Ending.finish`."""
        self._ending.finish(reason, detail)

    def handle(
        self,
        stopped: int,
        reason: str,
        write: bool = False,
        address: int = 0,
        size: int = 0,
        repeat: int = 1,
        data: bytes = b"",
        detail: str = "",
        /,
    ) -> bytes:
        """Handle and count one exit: see `accel.base.Handler`."""
        answer = self.dispatch(reason, write, address, size, repeat, data, detail)
        now = perf_counter_ns()
        self._count(reason, stopped - self._entered, now - stopped - self._asleep_ns)
        self._asleep_ns = 0
        self._entered = now
        return answer

    def dispatch(
        self, reason: str, write: bool, address: int, size: int, repeat: int, data: bytes, detail: str, /
    ) -> bytes:
        """Handle one exit without counting it."""
        bus = self._buses.get(reason)
        if bus is None:
            return self._leave(reason, detail)
        if repeat != 1 or size not in _SIZES:
            return _split(bus, write, address, size, repeat, data)
        if write:
            bus.write(address, size, int.from_bytes(data, "little"))
            return b""
        return bus.read(address, size).to_bytes(size, "little")

    def _leave(self, reason: str, detail: str) -> bytes:
        """Handle an exit that accesses no device: the guest halted, or cannot continue."""
        if reason == HLT:
            before = perf_counter_ns()
            self._ending.wait(self._halt_ns() / 1e9)
            self._asleep_ns = perf_counter_ns() - before
        elif reason == SHUTDOWN:
            self.finish("shutdown", f"triple fault; {self._vcpu.registers()}")
        else:
            self.finish("error", f"{detail}; {self._vcpu.registers()}")
        return b""


def _split(bus: Bus, write: bool, address: int, size: int, repeat: int, data: bytes) -> bytes:
    """Split an access that a device cannot take in one call.

    A string instruction (INS, OUTS) becomes `repeat` accesses to the same port, in order. An access of 3,
    5, 6 or 7 bytes, the part of one that crosses a page, becomes single bytes.
    """
    step, width = (0, size) if size in _SIZES else (1, 1)
    offsets = [step * byte for _ in range(repeat) for byte in range(0, size, width)]
    if not write:
        return b"".join(bus.read(address + at, width).to_bytes(width, "little") for at in offsets)
    for number, at in enumerate(offsets):
        value = int.from_bytes(data[number * width : (number + 1) * width], "little")
        bus.write(address + at, width, value)
    return b""
