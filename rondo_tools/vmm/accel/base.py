"""The accelerator interface: an accelerator runs the guest's instructions and reports its exits.

Strategy: the accelerator calls back. `Vcpu.run` enters the guest again and again. At each exit it
calls a handler with the time of the exit and the exit's fields; the handler's answer is the value of a
read. (A loop of "run returns an exit, complete it, run again" does not fit an emulator, which needs
the value of an IN inside its hook.) The accelerator decodes exits; the run loop dispatches, counts
and times them, in one place for all accelerators.

The fields are passed as arguments, because building an `Exit` costs a tenth of handling one.

An accelerator knows no devices, buses or metrics.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import NamedTuple, Protocol

IO = "io"
MMIO = "mmio"
HLT = "hlt"
SHUTDOWN = "shutdown"
OTHER = "other"


class Exit(NamedTuple):
    """One exit: why the guest stopped.

    io, mmio: an access to `address` (a port, or guest-physical) of `repeat` items of `size` bytes;
    `data` is the data of a write, repeat x size bytes, little-endian. shutdown: a triple fault.
    other: the guest cannot continue, for the reason in `detail`. hlt has no other fields.
    """

    reason: str
    write: bool = False
    address: int = 0
    size: int = 0
    repeat: int = 1
    data: bytes = b""
    detail: str = ""


class Handler(Protocol):
    """Handles one exit: `stopped` is its time by time.perf_counter_ns, the rest are the fields of `Exit`.

    Returns repeat x size bytes for a read; for any other exit the result is ignored.
    """

    def __call__(
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
    ) -> bytes: ...


class Vcpu(Protocol):
    """One virtual CPU."""

    def enter_flat(self, rip: int, rsp: int) -> None:
        """Set 32-bit protected mode, flat 4 GiB segments, no paging, interrupts off; start at `rip`."""

    def run(self, handle: Handler) -> None:
        """Run the guest in the calling thread until `stop`; call `handle` for each exit.

        An exception from the handler ends the run and is raised from it. After shutdown and other the
        handler must stop the vCPU: the guest cannot continue.
        """

    def stop(self) -> None:
        """Make `run` return soon and never run again; from any thread, also from the handler.

        Some accelerators may lose a stop that arrives while the guest is being entered: call again until
        `run` has returned.
        """

    def registers(self) -> str:
        """The main registers, for a message; call it in the thread of `run`, or after it."""


class Accelerator(Protocol):
    """A virtual machine without devices: guest memory and one vCPU. The owner closes it."""

    name: str

    @property
    def vcpu(self) -> Vcpu: ...

    def close(self) -> None: ...


class ScriptedVcpu:
    """A vCPU for tests and benches: it makes the exits of a script, and with `spin` then waits for a stop.

    `answers` has the handler's answer to each exit.
    """

    def __init__(self, script: Iterable[Exit], *, spin: bool = False) -> None:
        self._script = script
        self._spin = spin
        self._stopped = threading.Event()
        self.answers: list[bytes] = []
        self.entry: tuple[int, int] | None = None

    def enter_flat(self, rip: int, rsp: int) -> None:
        self.entry = (rip, rsp)

    def run(self, handle: Handler) -> None:
        clock, stopped, answer = time.perf_counter_ns, self._stopped.is_set, self.answers.append
        for exit in self._script:
            if stopped():
                return
            answer(handle(clock(), *exit))
        if self._spin:
            self._stopped.wait()

    def stop(self) -> None:
        self._stopped.set()

    def registers(self) -> str:
        return "rip=scripted"
