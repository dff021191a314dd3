"""The vCPUs of a VM: exits by reason, and their threads' CPU time and wait for a CPU.

Strategy: exits come from the counters, summed over the process's threads. A process that had a VM before,
or ran before rondo-attach, has counts that are not this session's: they are the base, and are subtracted. If
several VMs share a process, each owns threads, and sums over those.

The counters know a thread only after its first exit. So the base of a late VM has the times of all threads of
its process: a vCPU that exits minutes later has then been running for longer than the session.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from rondo_tools.attach.counters.base import Counts, ExitCounters, ProcessExits, total
from rondo_tools.attach.process import Process
from rondo_tools.attach.sources.base import Moment
from rondo_tools.catalog import CPU, EXIT_REASONS, SERIES

_NOTHING = ProcessExits({})
_TIMES = tuple(one for one in CPU if one.name in ("vcpu_cpu_seconds_total", "vcpu_wait_seconds_total"))


class Base(NamedTuple):
    """Where a VM's counts begin. `unseen_ns` are the times of threads that had no exit at that time."""

    exits: Sequence[int] = (0, 0, 0, 0, 0)
    times_ns: Sequence[float] = (0, 0)
    unseen_ns: Mapping[int, Sequence[float]] = MappingProxyType({})


class VcpuSource:
    """`counts` are the process' counts now. The VM's own counts begin there, or at `base` if it has one. The
    times of an `is_late` VM's threads begin now, too.

    `threads` are those of this VM, if it shares its process. Without a `process`, which may be gone, there
    are only exits.
    """

    def __init__(
        self,
        pid: int,
        process: Process | None,
        counters: ExitCounters,
        counts: ProcessExits | None,
        threads: set[int] | None = None,
        base: Base | None = None,
        *,
        is_late: bool = False,
    ) -> None:
        self._pid = pid
        self._process = process if counters.knows_threads else None
        self._at = tuple(EXIT_REASONS.index(reason) for reason in counters.reasons)
        exits = (one for one in SERIES if one.name == "vcpu_exits_total")
        self.series = tuple(one for one in exits if one.labels[0][1] in counters.reasons) + (
            _TIMES if self._process else ()
        )
        self.threads = threads
        self._counts = counts or _NOTHING
        self.base = base or Base()
        if base is None and is_late:
            self.begin_anew()
        elif base is None and counts is not None:
            self.base = self._now()

    def values(self, moment: Moment) -> Sequence[float]:
        self._counts = moment.exits.get(self._pid, self._counts)
        threads = self._own()
        exits, base = total(threads.values()), self.base.exits
        values: list[float] = [exits[at] - base[at] for at in self._at]
        if self._process is not None:
            run_ns, wait_ns = self._process.thread_times(threads)
            run_base_ns, wait_base_ns = self.base.times_ns
            if unseen_ns := self.base.unseen_ns:  # only of a late VM
                for tid in unseen_ns.keys() & threads:
                    run_base_ns += unseen_ns[tid][0]
                    wait_base_ns += unseen_ns[tid][1]
            # It is less than the base if a thread ended between two watchers.
            values.append(max(run_ns - run_base_ns, 0.0) / 1e9)
            values.append(max(wait_ns - wait_base_ns, 0.0) / 1e9)
        return values

    def begin_anew(self) -> None:
        unseen = set(self._process.thread_ids()) - self._own().keys() if self._process is not None else ()
        self.base = self._now(unseen)

    def _now(self, unseen: Iterable[int] = ()) -> Base:
        """A base at the present values, with the times of `unseen` threads."""
        threads, process = self._own(), self._process
        if process is None:
            return Base(total(threads.values()))
        times_ns = [0 if one != one else one for one in process.thread_times(threads)]
        return Base(total(threads.values()), times_ns, process.read_times(unseen))

    def _own(self) -> Mapping[int, Counts]:
        """The counts of this VM's threads."""
        if self.threads is None:
            return self._counts.threads
        return {tid: counts for tid, counts in self._counts.threads.items() if tid in self.threads}
