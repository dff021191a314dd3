"""The watcher: one loop that sees VMs begin and end, and sends a tick of each at every interval.

Strategy: the exit counters run before the first event is received, so all exits of a VM with a `create` event
are counted. A VMM's process is followed by its pidfd. A VM's life lasts from its `create` to its `destroy` or
the death of its process, whichever comes first.

- Death: first comes `destroy`, then the pidfd is readable, then the parent reaps the process, and only then
  the exit status can be read. So an end waits for up to half a second, and ends close to each other share one
  read of the counters. No count is lost meanwhile: counts stay until they are deleted.
- If a process continues after `destroy` (execve, or one VM after another), that life has ended; the next one
  begins at the present counts. A thread's counts are deleted only after its process is dead.
- A VM that ran before the watcher, or whose `create` was lost, begins at 0 when it is found, and has the
  label attached="late". It is not late if its process is younger than the counters, which have all of it.
- A thread that has counts but no event belongs to a VM too.
- If the counters outlive the watcher (see `kept`), the next watcher continues its sessions. A VM that ended
  in between has all of its exits; how it ended is unknown.
"""

from __future__ import annotations

import logging
import math
import os
import select
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from rondo_tools import clock
from rondo_tools.attach import discover
from rondo_tools.attach.counters.base import ExitCounters, ProcessExits
from rondo_tools.attach.kept import KeptFile, KeptProcess
from rondo_tools.attach.lives import GATHER_S, UNKNOWN_PATH, Lives, Options, Vmm
from rondo_tools.attach.process import Process, exists, is_process, thread_group
from rondo_tools.attach.self_metrics import INSTANCE, SelfMetrics, Tally
from rondo_tools.attach.sinks import Sink
from rondo_tools.attach.sources.base import Moment
from rondo_tools.attach.vm import Vm
from rondo_tools.ratelimit import RateLimit
from rondo_tools.signals import Signals
from rondo_tools.stream import Header

if TYPE_CHECKING:
    from rondo_tools.attach.sources.adapters import Adapters

_log = logging.getLogger(__name__)

_PRUNE_MS = 60_000  # with --pid, the time between deletions of other processes' counts


class Watcher:
    """Watches all VMs. `counters` is None if exits cannot be counted."""

    def __init__(
        self,
        options: Options,
        sink: Sink,
        counters: ExitCounters | None,
        since_boot_s: float,
        uevents: discover.Uevents,
        epoll: select.epoll,
        *,
        adapters: Adapters | None = None,
        kept: KeptFile | None = None,
        tally: Tally | None = None,
        own: SelfMetrics | None = None,
        scan: Callable[[], discover.Scan] = discover.scan,
    ) -> None:
        self._options, self._sink, self._counters, self._uevents = options, sink, counters, uevents
        self._scan, self._kept = scan, kept
        self._since_boot_s = since_boot_s  # the counters are older than this
        self._vmms: dict[int, Vmm] = {}  # by process id
        self._by_pidfd: dict[int, Vmm] = {}
        self._ending: set[Vmm] = set()  # those with a VM to end
        self._end_s = math.inf  # the monotonic time at which the first of them is due
        self._overruns, self._lost = 0, 0 if counters is None else counters.lost()
        self._warnings = RateLimit(_log, burst=10, window_s=60.0)
        self._tally = Tally() if tally is None else tally
        self._lives = Lives(options, sink, counters, self._warnings, adapters, self._tally)
        self._slot_ms = clock.now_ms() // options.interval_ms * options.interval_ms
        self._due_s = self._next_due_s()  # the next tick's monotonic time
        self._own = None if own is None else self._begin_own(own)
        self._epoll = epoll  # shared with the sink
        self._epoll.register(uevents.fileno(), select.EPOLLIN)

    # The loop

    def begin(self) -> None:
        """Find the VMs that run already."""
        if self._options.only_pid is None:
            self._resume()
            self.rescan()
        else:
            self._adopt(self._options.only_pid, counted=self._lives.read())
        self._keep()

    def run(self, signals: Signals) -> None:
        """Watch until a signal, until the reader is gone, or until the only watched process has ended."""
        self._epoll.register(signals.fileno(), select.EPOLLIN)
        while not self._is_over():
            self._sink.turn()
            for fd, event in self._epoll.poll(self._timeout_s()):
                if fd == signals.fileno():
                    if signals.take():
                        return
                elif fd == self._uevents.fileno():
                    self.receive()
                elif fd in self._by_pidfd:
                    self._on_pidfd(fd, event)
                else:
                    self._sink.dispatch(fd, event)
            self.turn()

    def linger(self, signals: Signals, seconds: float) -> int:
        """Send for `seconds` more, or until a signal; return the number of sessions with unsent data."""
        until_s = time.monotonic() + seconds
        if self._own is not None:
            self._own.end(Moment(clock.now_ms(), 0.0, {}), "signal")
        self._epoll.unregister(self._uevents.fileno())
        for vmm in self._vmms.values():
            if not vmm.is_reaped:
                self._epoll.unregister(vmm.process.pidfd)
        self._sink.turn()
        while (unsent := self._sink.unsent) and (left_s := until_s - time.monotonic()) > 0:
            for fd, event in self._epoll.poll(min(left_s, self._sink.timeout_s())):
                if fd == signals.fileno() and signals.take():
                    return unsent
                self._sink.dispatch(fd, event)
            self._sink.turn()
        return unsent

    def _is_over(self) -> bool:
        return self._sink.is_gone or (self._options.only_pid is not None and not self._vmms)

    def turn(self) -> None:
        """Send ticks and ends that are due."""
        self._end_lives(time.monotonic())
        now_ms = clock.now_ms()
        if clock.is_set_back(now_ms, self._slot_ms, self._options.interval_ms):
            self._begin_anew(now_ms)
        slot_ms = now_ms // self._options.interval_ms * self._options.interval_ms
        if slot_ms > self._slot_ms:
            self._slot_ms = slot_ms
            self._tick(slot_ms)
            self._tick_own(slot_ms)
        self._keep()

    def _keep(self) -> None:
        """Write changed sessions to the kept file, before any of them is sent."""
        if self._kept is not None:
            for vmm in self._lives.changed:
                if self._vmms.get(vmm.process.pid) is vmm:
                    self._kept.put(self._lives.keep(vmm))
            self._kept.write()
        self._lives.changed.clear()

    def _timeout_s(self) -> float:
        interval_ms = self._options.interval_ms
        tick_s = min(max(self._slot_ms + interval_ms - time.time() * 1000, 0.0), interval_ms) / 1000
        end_s = max(self._end_s - time.monotonic(), 0.0)
        return min(tick_s, end_s, self._sink.timeout_s())

    def close(self) -> None:
        """Close all processes. No session ends, because no VM does."""
        for vmm in self._vmms.values():
            vmm.process.close()
        self._vmms.clear()
        self._by_pidfd.clear()

    # Finding VMs

    def _resume(self) -> None:
        """Continue the sessions of the previous watcher."""
        if self._kept is None or not self._kept.processes:
            return
        now_ms = clock.now_ms()
        last_ms = now_ms + self._kept.back_ms  # no earlier tick is after this
        is_set_back = clock.is_set_back(now_ms, last_ms, self._options.interval_ms)
        if is_set_back:
            back_s = self._kept.back_ms / 1000
            _log.warning(
                "meanwhile the clock was set back by %.1f s; the ticks continue in new sessions", back_s
            )
        moment = self._moment(now_ms)
        for kept in self._kept.processes:
            try:
                process = Process(kept.pid)
            except (FileNotFoundError, ProcessLookupError):
                self._end_unseen(kept, moment, last_ms)
                continue
            except OSError as exc:
                self._warnings.warn("adopt", "process %d cannot be watched: %s", kept.pid, exc.strerror)
                continue
            if process.started_ticks != kept.started_ticks:  # the id was used again
                process.close()
                self._end_unseen(kept, moment, last_ms)
                continue
            vmm = self._follow(process, is_late=kept.is_late)
            self._lives.resume(vmm, kept, moment, last_ms, begins_anew=is_set_back)

    def _end_unseen(self, kept: KeptProcess, moment: Moment, last_ms: int) -> None:
        for vm in kept.vms.values():
            if vm is not None:
                self._lives.end_unseen(kept.pid, vm, moment, last_ms)
        if self._counters is not None:
            self._counters.forget(kept.pid)

    def _follow(self, process: Process, *, is_late: bool) -> Vmm:
        vmm = Vmm(process, is_late=is_late)
        self._vmms[process.pid] = self._by_pidfd[process.pidfd] = vmm
        self._epoll.register(process.pidfd, select.EPOLLIN)
        return vmm

    def rescan(self) -> None:
        """Find VMs whose `create` was not received."""
        scan = self._scan()
        self._take_events()  # a VM with a `create` event is not late
        counted = self._lives.read()  # once, because a thousand VMs may be found
        for pid, path in scan.found:
            if self._is_asked_for(pid):
                vmm = self._vmms.get(pid)
                if vmm is None or (path not in vmm.vms and not self._learn_path(vmm, path)):
                    self._adopt(pid, path, counted=counted)

    def receive(self) -> None:
        """Process KVM's events; scan if some were lost."""
        self._take_events()
        if self._uevents.overruns > self._overruns:
            self._overruns = self._uevents.overruns
            self._warnings.warn("overrun", "events of KVM were lost: scanning for VMs again")
            if self._options.only_pid is None:
                self.rescan()

    def _take_events(self) -> None:
        for event in self._uevents.receive():
            if event.is_create:
                pid = self._process_of(event)
                if pid is not None and self._is_asked_for(pid):
                    self._on_create(pid, event.path)
            else:
                self._on_destroy(event)

    def _is_asked_for(self, pid: int) -> bool:
        return self._options.only_pid in (None, pid)

    def _process_of(self, event: discover.KvmEvent) -> int | None:
        """The process whose thread created the VM; None if it is gone and was never seen."""
        is_leader = event.tid in self._vmms or is_process(event.tid)
        return event.tid if is_leader else thread_group(event.tid)

    def _on_create(self, pid: int, path: str) -> None:
        vmm = self._vmms.get(pid)
        if vmm is None:
            self._adopt(pid, path)
            return
        for gone in list(vmm.destroyed):  # one VM after another; the path may be the same
            self._lives.end(vmm, gone, self._moment(clock.now_ms()), "gone")
        if path in vmm.vms:
            return  # the scan found it first
        if not self._learn_path(vmm, path):
            self._lives.begin(vmm, path)

    def _learn_path(self, vmm: Vmm, path: str) -> bool:
        """Give a path to the VM that was found without one; False if there is none."""
        if UNKNOWN_PATH not in vmm.vms:
            return False
        vmm.vms[path] = vmm.vms.pop(UNKNOWN_PATH)
        if UNKNOWN_PATH in vmm.vcpus:
            vmm.vcpus[path] = vmm.vcpus.pop(UNKNOWN_PATH)
        if UNKNOWN_PATH in vmm.cpu:
            vmm.cpu[path] = vmm.cpu.pop(UNKNOWN_PATH)
        self._lives.changed.add(vmm)
        return True

    def _on_destroy(self, event: discover.KvmEvent) -> None:
        """End the life a moment later: a dying process closes its VM before its pidfd becomes readable."""
        vmm = self._vmms.get(self._process_of(event) or 0)
        if vmm is None or event.path not in vmm.vms:
            vmm = next((one for one in self._vmms.values() if event.path in one.vms), vmm)
        path = event.path if vmm is not None and event.path in vmm.vms else UNKNOWN_PATH
        if vmm is not None and path in vmm.vms and vmm.death is None:
            vmm.destroyed.setdefault(path, time.monotonic())
            self._ending.add(vmm)

    def _adopt(
        self, pid: int, path: str = UNKNOWN_PATH, *, counted: Mapping[int, ProcessExits] | None = None
    ) -> None:
        """Follow a process, and begin the life of its VM.

        A VM that was found, without a `create` event, may be older than the counters: `counted` are the
        counts at that time.
        """
        vmm = self._vmms.get(pid)
        if vmm is None:
            try:
                process = Process(pid)
            except (FileNotFoundError, ProcessLookupError):
                return  # it is gone, or hidden; its exits, if any, are found at a tick
            except OSError as exc:
                self._warnings.warn("adopt", "process %d cannot be watched: %s", pid, exc.strerror)
                return
            is_young = self._counts_from_birth() and process.started_s() > self._since_boot_s
            vmm = self._follow(process, is_late=counted is not None and not is_young)
            if vmm.is_late and counted is not None:
                vmm.counted = counted.get(pid)
        self._lives.begin(vmm, path, is_found=counted is not None)

    def _counts_from_birth(self) -> bool:
        return self._counters is not None and self._counters.counts_from_birth

    # Ends

    def _on_pidfd(self, fd: int, event: int) -> None:
        vmm = self._by_pidfd[fd]
        if vmm.death is None:
            vmm.process.cpu_s()  # read now: it cannot be read after the process has been reaped
            vmm.died_s = time.monotonic()
            vmm.death = Moment(clock.now_ms(), time.clock_gettime(time.CLOCK_BOOTTIME), {})
            self._ending.add(vmm)
            self._lives.hurry(vmm)
            self._epoll.modify(fd, 0)  # the hang-up still comes, when the parent reaps the process
        if event & select.EPOLLHUP and not vmm.is_reaped:
            vmm.is_reaped = True
            self._epoll.unregister(fd)

    def _end_lives(self, now_s: float) -> None:
        """End the lives that are due now or soon, with one read of the counters for all."""
        due_s = {vmm: vmm.due_s() for vmm in self._ending}
        self._end_s = min(due_s.values(), default=math.inf)
        if now_s < self._end_s:
            return
        until_s = now_s + GATHER_S
        ready = [vmm for vmm in due_s if due_s[vmm] <= until_s]
        self._end_s = min((due for due in due_s.values() if due > until_s), default=math.inf)
        moment = self._moment(clock.now_ms())
        for vmm in ready:
            self._ending.discard(vmm)
            if vmm.death is None:  # the process continues without its VM
                for path in list(vmm.destroyed):
                    self._lives.end(vmm, path, moment, "gone")
                continue
            status = vmm.process.exit_status()
            reason = "signal" if status is not None and os.WIFSIGNALED(status) else "gone"
            self._lives.own_threads(vmm)
            self._lives.begin_unannounced(vmm, moment)
            for path in list(vmm.vms):
                self._lives.end(vmm, path, vmm.death._replace(exits=moment.exits), reason)
            self._forget(vmm)

    def _forget(self, vmm: Vmm) -> None:
        pid, pidfd = vmm.process.pid, vmm.process.pidfd
        if not vmm.is_reaped:
            self._epoll.unregister(pidfd)
        del self._vmms[pid], self._by_pidfd[pidfd]
        vmm.process.close()
        if self._counters is not None:
            self._counters.forget(pid)
        if self._kept is not None:
            self._kept.drop(pid)

    # Ticks

    def _tick(self, t_ms: int) -> None:
        moment = self._moment(t_ms)
        if self._options.only_pid is None or t_ms % _PRUNE_MS < self._options.interval_ms:
            if moment.exits.keys() - self._vmms.keys():
                self.receive()  # the event came before the first exit, but after our last look
            for pid in moment.exits.keys() - self._vmms.keys():
                self._on_unknown(pid, moment)
        self._keep()  # new sessions, and the clock, before their first tick is sent
        for vmm in self._vmms.values():
            if vmm.death is None:
                self._lives.own_threads(vmm)
                self._lives.begin_unannounced(vmm, moment)
                self._lives.tick(vmm, moment)
        self._report_lost()

    def _on_unknown(self, pid: int, moment: Moment) -> None:
        """Adopt a process that has exits but no event, or send its exits if it is gone."""
        assert self._counters is not None
        if self._is_asked_for(pid):
            self._adopt(pid, counted=moment.exits)
        if pid in self._vmms:
            return
        if exists(pid):
            if self._is_asked_for(pid) and thread_group(pid) is None:
                self._warnings.warn("hidden", "process %d has a VM, but /proc hides it: CAP_SYS_PTRACE", pid)
            return
        if self._is_asked_for(pid):
            self._lives.send_unseen(pid, moment)
        self._counters.forget(pid)

    def _begin_anew(self, now_ms: int) -> None:
        back_s = (self._slot_ms - now_ms) / 1000
        _log.warning("the clock was set back by %.1f s; the ticks continue in new sessions", back_s)
        self._slot_ms = now_ms // self._options.interval_ms * self._options.interval_ms
        self._due_s = self._next_due_s()
        self._lives.forget_times()
        for vm in self._live():
            vm.begin_anew(now_ms)
        if self._own is not None:
            self._own.begin_anew(now_ms)
        self._lives.changed.update(self._vmms.values())

    def _live(self) -> Iterable[Vm]:
        return (vm for vmm in self._vmms.values() for vm in vmm.vms.values() if vm is not None)

    def _moment(self, t_ms: int) -> Moment:
        return Moment(t_ms, time.clock_gettime(time.CLOCK_BOOTTIME), self._lives.read())

    # Its own metrics

    def _begin_own(self, source: SelfMetrics) -> Vm:
        header = Header(INSTANCE, clock.now_ms(), self._options.labels, self._options.interval_ms, ())
        return Vm(header, [source], self._sink)

    def _tick_own(self, t_ms: int) -> None:
        """Send rondo-attach's own tick after those of the VMs, with their lag."""
        self._tally.lag_s = max(time.monotonic() - self._due_s, 0.0)
        self._due_s = self._next_due_s()
        if self._own is not None:
            self._own.tick(Moment(t_ms, 0.0, {}))

    def _next_due_s(self) -> float:
        return time.monotonic() + (self._slot_ms + self._options.interval_ms) / 1000 - time.time()

    def _report_lost(self) -> None:
        if self._counters is not None and (lost := self._counters.lost()) > self._lost:
            self._lost = lost
            self._warnings.warn(
                "lost", "%d exits were not counted: more vCPU threads than the map has room for", lost
            )
