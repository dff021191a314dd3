"""The workload port: the built-in guest reads its next work item from it.

Strategy: the guest has no clock and no schedule. It reads a work item, does it, and reads the next one.
The time between two reads sizes the next item of CPU work. The schedule is a pure function of the time
since the first read.

    read  (4 bytes)   bits 0-3 phase, which the guest prints; bits 4-7 kind of work; bits 8-31 count.
                      Phase and work 0: power off.
    write (4 bytes)   a fault that the guest found: one of FAULTS

docs/guest.md describes the guest's side.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rondo_tools.vmm.bus import ones

# Phases. The first four are also the kinds of work; MIXED alternates between the other three.
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

_QUANTUM_NS = 5_000_000  # of CPU work in one item
_HALT_NS = 10_000_000  # one HLT: the period of a 100 Hz timer
_HALTS = 5  # in one item of the idle phase; few, so that the phase ends on time
_PAIRS = 8  # writes with read-back in one item of I/O; the guest flushes after each eighth
_FIRST_COUNT = 256  # loops of CPU work in the first item: little on any machine
_MAX_COUNT = (1 << 24) - 1
_MAX_STEP = 4  # the largest factor between two items: one delay must not distort the next one


class Schedule:
    """The phases of `duration_ns`: CPU 28 %, idle 17 %, I/O 28 %, mixed for the rest."""

    def __init__(self, duration_ns: int) -> None:
        self.duration_ns = duration_ns

    def at(self, elapsed_ns: int) -> tuple[int, int]:
        """The phase at that time and its remaining ns; (OFF, 0) after the last one."""
        for phase, percent in _PHASE_ENDS:
            left = self.duration_ns * percent // 100 - elapsed_ns
            if left > 0:
                return phase, left
        return OFF, 0


class WorkloadPort:
    """Four bytes. The schedule begins at the first read.

    `on_report` is called with the guest's first report, a key of FAULTS if the guest is correct; a guest may
    repeat reports without end. `clock` is monotonic, in nanoseconds.
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
        self._work = OFF  # of the last item
        self._count = _FIRST_COUNT  # of CPU work in the next item
        self._turn = 0  # number of items in the mixed phase
        self._reported = False

    def idle_ns(self) -> int:
        """The sleep of a HLT that begins now: a timer tick, or less if the phase ends earlier."""
        if self._began_ns is None:
            return _HALT_NS
        phase, left_ns = self._schedule.at(self._clock() - self._began_ns)
        # After the last phase a guest that halts must not make the VMM spin.
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
        """Size the next item of CPU work by the time that the last one took."""
        ideal = self._count * _QUANTUM_NS // max(took_ns, 1)
        step = min(max(ideal, self._count // _MAX_STEP), self._count * _MAX_STEP)
        self._count = min(max(step, 1), _MAX_COUNT)
