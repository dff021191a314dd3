"""Runs a VM from start to end and emits its ticks.

If the wall clock is set back far, the session ends and the VM continues in a new one.

Strategy: one loop in the main thread sleeps until the next tick, the deadline or a wake-up, whichever is
first. A signal or the deadline only asks the machine to stop. The loop keeps ticking until the guest has
ended, so the last tick has the final values.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import NamedTuple

from rondo_tools import stream
from rondo_tools.producer.pace import Pace
from rondo_tools.stream import Header, Tick
from rondo_tools.vmm.counters import Snapshot
from rondo_tools.vmm.machine import Machine
from rondo_tools.vmm.sampler import Sampler
from rondo_tools.vmm.vcpu import End
from rondo_tools.vmm.wakeup import Wakeup

log = logging.getLogger(__name__)

_SILENT = (
    "no sign of life from the guest in %g s: no console output, no access to a device; "
    "KVM inside a VM may be unable to boot Linux (docs/lab.md has one that can)"
)
_STOP_AGAIN_S = 0.05  # between repeated stops: one that meets an entry into the guest may be lost


class Summary(NamedTuple):
    """The summary of a run, over all of its sessions.

    `t_ms` is the time of the last tick and of the end. `was_silent`: the guest ran longer than `silent_s`
    and never accessed a device.
    """

    end: End
    t_ms: int
    lived_s: float
    ticks: int
    counters: Snapshot
    was_silent: bool = False


def run_vm(
    machine: Machine,
    header: Header,
    emit: Callable[[Tick], None],
    begin_anew: Callable[[stream.End, Header], None],
    wakeup: Wakeup,
    *,
    deadline_ms: int | None,
    silent_s: float | None = None,
    is_over: Callable[[], bool] = lambda: False,
) -> Summary:
    """Start `machine`, pass its ticks to `emit`, and return when the guest has ended.

    The guest ends by itself, at the deadline, by a signal, or when `is_over` returns True after a wake-up.
    When the wall clock is set back, `begin_anew` gets the end of the current session and the header of the
    next one. A guest without a sign of life after `silent_s` causes a warning.
    """
    pace, sampler = Pace(header.interval_ms, header.start_ms), Sampler(header.series)
    began = now = ticked = time.monotonic()
    deadline = math.inf if deadline_ms is None else began + deadline_ms / 1000
    look_at = math.inf if silent_s is None else began + silent_s
    due = began + pace.wait_ms(_wall_ms()) / 1000
    ticks = 0
    machine.start()
    while not machine.over():
        waiting_for = deadline if machine.end is None else now + _STOP_AGAIN_S
        signals = wakeup.wait(min(due, waiting_for, look_at) - now)
        now = time.monotonic()
        if machine.over():
            break
        if signals or is_over():
            machine.stop("signal")
        elif now >= deadline:
            machine.stop("deadline")
        elif machine.end is not None:
            machine.stop(machine.end.reason)
        if now >= look_at:
            look_at = math.inf
            if machine.end is None and machine.snapshot().is_silent:
                log.warning(_SILENT, silent_s)
        if now >= due:
            wall_ms = _wall_ms()
            if pace.is_set_back(wall_ms):
                # The last tick has the time that the clock would show, so no interval is missing.
                end_ms = pace.final(pace.last_ms + 1000 * (now - ticked))
                emit(Tick(end_ms, sampler.values(machine.snapshot(), now - began)))
                ticks += 1
                header = header._replace(start_ms=int(wall_ms))
                begin_anew(stream.End("clock", end_ms), header)
                sampler.begin_anew()
                pace, ticked = Pace(header.interval_ms, header.start_ms), now
            elif (t_ms := pace.next(wall_ms)) is not None:
                emit(Tick(t_ms, sampler.values(machine.snapshot(), now - began)))
                ticks += 1
                ticked = now
            due = now + pace.wait_ms(_wall_ms()) / 1000
    lived_s = time.monotonic() - began
    counters, end_ms = machine.snapshot(), pace.final(_wall_ms())
    emit(Tick(end_ms, sampler.values(counters, lived_s)))
    assert machine.end is not None
    was_silent = silent_s is not None and lived_s >= silent_s and counters.is_silent
    return Summary(machine.end, end_ms, lived_s, ticks + 1, counters, was_silent)


def _wall_ms() -> float:
    return time.time_ns() / 1e6
