"""The port from which the built-in guest reads its orders: what to do next, and how much of it.

Strategy: the guest has no clock and no plan. It asks, does one quantum of work, and asks again; the
time between two asks is all this device needs to know to size the next quantum. The plan is a pure
function of the time since the first ask.

    read  (4 bytes)   bits 0-3 phase, for the guest to print; bits 4-7 work, for it to do;
                      bits 8-31 count, how much of it. Phase and work 0: power off.
    write (4 bytes)   what the guest found wrong: one of FAULTS

docs/guest.md describes the same from the guest's side.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rondo_tools.vmm.bus import ones

# Phases. The first four are also the kinds of work; MIXED takes turns of the other three.
OFF, CPU, IDLE, IO, MIXED = range(5)
_MIX = (CPU, IO, IDLE)

FAULTS = {
    1: "found no virtio block device of version 2",
    2: "could not agree with the block device on its features",
    3: "could not set up the block device's queue",
    4: "had a block request fail",
    5: "read back other data than it had written",
}

_PHASE_ENDS = ((CPU, 28), (IDLE, 28 + 17), (IO, 28 + 17 + 28), (MIXED, 100))  # percent of the duration

_QUANTUM_NS = 5_000_000  # of CPU work between two asks
_HALT_NS = 10_000_000  # one HLT, as with a 100 Hz timer
_HALTS = 5  # in a turn of the idle phase; short, so that a phase ends near its time
_PAIRS = 8  # a write and its read-back, in a turn of I/O; the guest flushes after each eighth
_FIRST_COUNT = 256  # loops of CPU work before any was measured: little on any machine
_MAX_COUNT = (1 << 24) - 1
_MAX_STEP = 4  # a quantum grows or shrinks by this much at most: one hiccup must not spoil the next


class Schedule:
    """CPU 28 %, idle 17 %, I/O 28 %, mixed the rest of `duration_ns`; then the end."""

    def __init__(self, duration_ns: int) -> None:
        self.duration_ns = duration_ns

    def at(self, elapsed_ns: int) -> tuple[int, int]:
        """The phase at that time, and how many ns of it are left; (OFF, 0) when all are over."""
        for phase, percent in _PHASE_ENDS:
            left = self.duration_ns * percent // 100 - elapsed_ns
            if left > 0:
                return phase, left
        return OFF, 0


class WorkloadPort:
    """Four bytes. The schedule begins at the first ask.

    `on_report` is called with what the guest reports, a key of FAULTS if it is sane: the first time
    only, for a guest that goes on and on. `clock` counts nanoseconds and never goes back.
    """

    def __init__(
        self,
        schedule: Schedule,
        on_report: Callable[[int], None],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._schedule = schedule
        self._on_report = on_report
        self._clock = clock
        self._began_ns: int | None = None
        self._asked_ns = 0
        self._work = OFF  # of the last order
        self._count = _FIRST_COUNT  # of CPU work
        self._turn = 0  # of the mixed phase
        self._reported = False

    def idle_ns(self) -> int:
        """How long a HLT that begins now should last: a timer's tick, or less where the phase ends."""
        if self._began_ns is None:
            return _HALT_NS
        phase, left_ns = self._schedule.at(self._clock() - self._began_ns)
        # A guest that halts instead of powering off must not make the VMM spin.
        return _HALT_NS if phase == OFF else min(_HALT_NS, left_ns)

    def read(self, offset: int, size: int) -> int:
        if (offset, size) != (0, 4):
            return ones(size)
        now = self._clock()
        if self._began_ns is None:
            self._began_ns = now
        elif self._work == CPU:
            self._calibrate(now - self._asked_ns)
        self._asked_ns = now
        phase, _ = self._schedule.at(now - self._began_ns)
        self._work, count = self._quantum(phase)
        return phase | self._work << 4 | count << 8

    def write(self, offset: int, size: int, value: int) -> None:
        if (offset, size) == (0, 4) and not self._reported:
            self._reported = True
            self._on_report(value)

    def _quantum(self, phase: int) -> tuple[int, int]:
        work = phase
        if phase == MIXED:
            work = _MIX[self._turn % len(_MIX)]
            self._turn += 1
        if work == CPU:
            return work, self._count
        if work == IO:
            return work, _PAIRS
        if work == IDLE:
            return work, _HALTS if phase == IDLE else 1
        return work, 0

    def _calibrate(self, took_ns: int) -> None:
        """Size the next quantum of CPU work by how long the last one took."""
        ideal = self._count * _QUANTUM_NS // max(took_ns, 1)
        step = min(max(ideal, self._count // _MAX_STEP), self._count * _MAX_STEP)
        self._count = min(max(step, 1), _MAX_COUNT)
