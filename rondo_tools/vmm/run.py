"""One life of a VM, as its stream tells it: header, a tick at each interval, the last tick, the end.

A wall clock that is set back far ends the session, and the same life goes on in another one.

Strategy: one loop in the main thread sleeps until the next tick, the deadline or a wake-up, whichever
is first. Whatever is to end the VM only asks the machine to stop; the loop goes on ticking until the
guest has really ended, and then the final values are final.
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
    "no sign of life from the guest in %g s: nothing on its console, no access to a device; "
    "a KVM in a VM may be one that boots no Linux (docs/lab.md has another)"
)
_STOP_AGAIN_S = 0.05  # a stop that was lost on its way into the guest is repeated


class Summary(NamedTuple):
    """What there is to say of a life that is over; of all its sessions, if there were several.

    `t_ms` is the time of the last tick and the end. A guest that `was_silent` was so for longer than it
    should, and never gave a sign of life.
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
    """Start `machine`, give its ticks to `emit`, and return when its guest has ended.

    It ends by itself, at the deadline if there is one, by a signal, or when `is_over` says, after a
    wake-up, that nobody wants it any more. When the wall clock is set back, `begin_anew` gets the end
    of the session so far and the header of the one in which the ticks go on. A guest that has given no
    sign of life after `silent_s` is warned of.
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
                # The last tick's time is what the clock would show: nothing between the two is lost.
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
