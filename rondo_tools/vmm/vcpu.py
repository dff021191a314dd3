"""THE path: run, exit, bus, count. The one place where an exit is matched, handled and counted.

Strategy: the accelerator calls `handle` at each exit. Time is cut at two moments, when the guest
stopped and when handling is done: what lies before the first is running, what lies between the two
is handling, less the time asleep in HLT, which is neither. Nothing on this path does I/O for
metrics or waits for another thread, but for the sleep in HLT, which a stop ends.

A VM ends for the first reason that is given; whatever comes later does not count.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import perf_counter_ns
from typing import NamedTuple

from rondo_tools.vmm.accel.base import HLT, IO, MMIO, SHUTDOWN, Vcpu
from rondo_tools.vmm.bus import Bus

HALT_NS = 10_000_000  # how long a HLT sleeps: as if a 100 Hz timer woke it
_SIZES = frozenset((1, 2, 4, 8))  # bytes; the accesses that a device takes


class End(NamedTuple):
    """Why the VM ended: one of the stream's END_REASONS, and what there is to say about it."""

    reason: str
    detail: str = ""


class Ending:
    """How a VM ends, for all of its vCPUs: the first reason stands, and stops each of them."""

    def __init__(self) -> None:
        self._deciding = threading.Lock()  # held for one comparison, by whoever brings an end
        self._happened = threading.Event()
        self._vcpus: list[Vcpu] = []
        self.end: End | None = None

    def stops(self, vcpu: Vcpu) -> None:
        """From now on the end stops this vCPU too."""
        self._vcpus.append(vcpu)

    def finish(self, reason: str, detail: str = "") -> None:
        """End the VM, from any thread. Call it again if a vCPU's thread does not end: see `Vcpu.stop`."""
        with self._deciding:
            if self.end is None:
                self.end = End(reason, detail)
        self._happened.set()
        for vcpu in self._vcpus:
            vcpu.stop()

    def wait(self, timeout_s: float) -> None:
        """Sleep until the end, at most that long."""
        self._happened.wait(timeout_s)


class RunLoop:
    """Runs one vCPU until an end, its exits through two buses, each counted by `count`.

    `count(reason, run_ns, exit_ns)` is called in the vCPU's thread, once for each exit. vCPUs of
    one VM share an `ending`.
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
        self._asleep_ns = 0  # of the exit being handled
        self._entered = 0  # when the guest was last entered

    @property
    def end(self) -> End | None:
        """Why the VM ends; None while nothing ends it."""
        return self._ending.end

    def run(self) -> End:
        """Run the guest in this thread until its end. What a device raises ends it as an error."""
        self._entered = perf_counter_ns()
        try:
            if self.end is None:
                self._vcpu.run(self.handle)
            self.finish("error", "the accelerator stopped without saying why")
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
        """An exit that accesses nothing: the guest halts, or cannot go on."""
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
    """An access that no device takes whole.

    A string instruction (INS, OUTS) is `repeat` accesses to the same port, in order. An access of 3, 5, 6
    or 7 bytes, as one across two pages leaves it, is made byte by byte.
    """
    step, width = (0, size) if size in _SIZES else (1, 1)
    offsets = [step * byte for _ in range(repeat) for byte in range(0, size, width)]
    if not write:
        return b"".join(bus.read(address + at, width).to_bytes(width, "little") for at in offsets)
    for number, at in enumerate(offsets):
        value = int.from_bytes(data[number * width : (number + 1) * width], "little")
        bus.write(address + at, width, value)
    return b""
