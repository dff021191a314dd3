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

from rondo_tools.vmm.accel.base import Exit, Vcpu
from rondo_tools.vmm.bus import Bus

HALT_NS = 10_000_000  # how long a HLT sleeps: as if a 100 Hz timer woke it
_SIZES = (1, 2, 4, 8)  # what a device answers


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
        self._ports = ports
        self._mmio = mmio
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

    def handle(self, exit: Exit, stopped: int) -> bytes:
        """Handle and count one exit; the answer is what a read gets."""
        answer = self.dispatch(exit)
        now = perf_counter_ns()
        self._count(exit.reason, stopped - self._entered, now - stopped - self._asleep_ns)
        self._asleep_ns = 0
        self._entered = now
        return answer

    def dispatch(self, exit: Exit) -> bytes:
        """Handle one exit, uncounted."""
        match exit.reason:
            case "io":
                return _access(self._ports, exit)
            case "mmio":
                return _access(self._mmio, exit)
            case "hlt":
                before = perf_counter_ns()
                self._ending.wait(self._halt_ns() / 1e9)
                self._asleep_ns = perf_counter_ns() - before
            case "shutdown":
                self.finish("shutdown", f"triple fault; {self._vcpu.registers()}")
            case _:
                self.finish("error", f"{exit.detail}; {self._vcpu.registers()}")
        return b""


def _access(bus: Bus, exit: Exit) -> bytes:
    """Carry out an access on its bus: one item, or for a string instruction several."""
    _, write, address, size, repeat, data, _ = exit
    if repeat != 1:
        return _string(bus, exit)
    if size not in _SIZES:
        return _odd(bus, exit)
    if write:
        bus.write(address, size, int.from_bytes(data, "little"))
        return b""
    return bus.read(address, size).to_bytes(size, "little")


def _string(bus: Bus, exit: Exit) -> bytes:
    """INS and OUTS: each item goes to the same port, in order."""
    size = exit.size
    one = exit._replace(repeat=1)
    if exit.write:
        for at in range(0, len(exit.data), size):
            _access(bus, one._replace(data=exit.data[at : at + size]))
        return b""
    return b"".join(_access(bus, one) for _ in range(exit.repeat))


def _odd(bus: Bus, exit: Exit) -> bytes:
    """3, 5, 6 or 7 bytes, as an access across two pages leaves them: byte by byte."""
    if exit.write:
        for at, value in enumerate(exit.data):
            bus.write(exit.address + at, 1, value)
        return b""
    return bytes(bus.read(exit.address + at, 1) for at in range(exit.size))
