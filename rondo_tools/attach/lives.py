"""Lives of VMs: their sessions' names and sources, and where their counts begin.

Strategy: a process has lives, one after another or at once. A life's counts begin where the process' counts
stood when its last life ended, or when a late VM was found: so every exit is in exactly one life. If several
VMs share a process, debugfs has the threads of each.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rondo_tools import clock
from rondo_tools.attach import discover, naming
from rondo_tools.attach.choose import Choice
from rondo_tools.attach.counters.base import ExitCounters, ProcessExits
from rondo_tools.attach.kept import KeptProcess, KeptVm
from rondo_tools.attach.naming import Identity
from rondo_tools.attach.process import Process
from rondo_tools.attach.self_metrics import INSTANCE, Tally
from rondo_tools.attach.sinks import Sink
from rondo_tools.attach.sources.base import LateSource, Moment, Source
from rondo_tools.attach.sources.vcpus import Base, VcpuSource
from rondo_tools.attach.sources.vmm import VmmSource
from rondo_tools.attach.vm import Vm
from rondo_tools.ratelimit import RateLimit
from rondo_tools.stream import Header

if TYPE_CHECKING:
    from rondo_tools.attach.sources.adapters import Adapters

_log = logging.getLogger(__name__)

GATHER_S = 0.05  # ends that are due within this time share one read of the counters
HOLD_S = 0.5  # an end waits this long for the parent to reap the process, and for adapters
_MOST_NAMES = 1_000  # of sessions that ended; only the latest matter
ATTACHED, SANDBOX_ID = "attached", "sandbox_id"  # labels
UNKNOWN_PATH = ""  # of a VM whose `create` was not received


class Options(NamedTuple):
    """Flags that apply to all VMs."""

    interval_ms: int
    choice: Choice
    labels: tuple[tuple[str, str], ...] = ()
    template: naming.Template | None = None
    only_pid: int | None = None  # watch only this process, and exit when it ends


class Vmm:
    """A process with VMs. One whose VMs are left out is followed too, to delete its counts."""

    def __init__(self, process: Process, *, is_late: bool) -> None:
        self.process = process
        self.is_late = is_late
        self.lives = 0  # number of VMs so far
        self.identity: Identity | None = None  # of the last VM
        self.counted: ProcessExits | None = None  # the counts that no later VM owns
        self.vms: dict[str, Vm | None] = {}  # its VMs now, by path; None is one that is left out
        self.vcpus: dict[str, VcpuSource] = {}
        self.cpu: dict[str, VmmSource] = {}
        self.destroyed: dict[str, float] = {}  # paths of VMs that are gone; the monotonic time of that
        self.death: Moment | None = None  # without exits
        self.died_s = math.inf  # monotonic
        self.is_reaped = False

    def due_s(self) -> float:
        """The monotonic time at which a VM is to be ended."""
        if self.death is None:  # twice, because a due end takes others along that are GATHER_S away
            return min(self.destroyed.values(), default=math.inf) + 2 * GATHER_S
        is_end_known = self.is_reaped and all(
            one.is_done for vm in self.vms.values() if vm is not None for one in vm.late
        )
        return self.died_s + (GATHER_S if is_end_known else HOLD_S)


class Lives:
    """Begins and ends lives. `counters` is None if exits cannot be counted."""

    def __init__(
        self,
        options: Options,
        sink: Sink,
        counters: ExitCounters | None,
        warnings: RateLimit,
        adapters: Adapters | None = None,
        tally: Tally | None = None,
    ) -> None:
        self._options, self._sink, self._counters, self._warnings = options, sink, counters, warnings
        self._adapters = adapters
        self._tally = Tally() if tally is None else tally
        self._names = {INSTANCE}  # of live sessions
        self._last_ms: dict[str, int] = {}  # the last tick of sessions that ended, by name
        self.changed: set[Vmm] = set()  # to be written to the kept file

    def begin(self, vmm: Vmm, path: str, *, is_found: bool = False) -> None:
        """Begin the life of a VM; it `is_found` if its `create` was not received."""
        self.changed.add(vmm)
        process = vmm.process
        identity = self._identify(vmm)
        is_wanted = self._options.only_pid is not None or self._options.choice.wants(identity)
        if not is_wanted:
            vmm.vms[path] = None
            return
        shares = any(vmm.vms.values())
        if shares and not self._part(vmm, path):
            return
        sources: list[Source] = []
        is_late = vmm.is_late and (is_found or not vmm.lives)
        vcpus = self._vcpu_source(vmm, identity, set() if shares else None, is_late=is_late)
        if vcpus is not None:
            vmm.vcpus[path] = vcpus
            sources.append(vcpus)
        vmm.cpu[path] = VmmSource(process, is_late=vmm.is_late or vmm.lives > 0)
        sources.append(vmm.cpu[path])
        is_first = not vmm.lives and not vmm.is_late
        start_ms = process.started_ms() if is_first else clock.now_ms()
        late: Sequence[LateSource] = ()
        if self._adapters is not None and not shares:  # a VMM's answer does not separate its VMs
            late = self._adapters.follow(
                process.pid,
                identity,
                start_ms,
                begins_at_0=not is_first,
                has=() if vcpus is None else vcpus.series,
            )
        vmm.vms[path] = self._open(process.pid, identity, start_ms, sources, late, is_late=is_late)
        vmm.lives += 1

    def _vcpu_source(
        self, vmm: Vmm, identity: Identity, threads: set[int] | None, *, is_late: bool
    ) -> VcpuSource | None:
        if self._counters is None:
            return None
        pid = vmm.process.pid
        try:
            self._counters.begin(pid)
        except OSError as exc:
            self._warnings.warn("begin", "%s: its exits cannot be counted: %s", identity.name, exc.strerror)
            return None
        return VcpuSource(pid, vmm.process, self._counters, vmm.counted, threads, is_late=is_late)

    def _identify(self, vmm: Vmm) -> Identity:
        """The VM's identity; the last one if the process has exited, and has no command line any more."""
        process = vmm.process
        command_line = process.command_line()
        if vmm.identity is None or command_line:
            comm = "" if command_line else process.comm()
            vmm.identity = naming.identify(process.pid, command_line, process.cgroups(), comm)
        return vmm.identity

    def _part(self, vmm: Vmm, path: str) -> bool:
        """Separate the threads of a process' VMs before another one begins; False if that is impossible."""
        if self._counters is None or not self._counters.knows_threads or not discover.knows_vcpus(path):
            names = ", ".join(vm.name for vm in vmm.vms.values() if vm)
            self._warnings.warn(
                "several", "process %d has several VMs, counted as one (%s): %s cannot be read",
                vmm.process.pid, names, discover.DEBUGFS,
            )  # fmt: skip
            return False
        counts = self._counters.read().get(vmm.process.pid)
        for vcpus in vmm.vcpus.values():
            if vcpus.threads is None:  # all threads so far are the first VM's
                vcpus.threads = set(counts.threads if counts else ()) - set(discover.vcpu_threads(path))
        return True

    def _open(
        self,
        pid: int,
        identity: Identity,
        start_ms: int,
        sources: Sequence[Source],
        late: Sequence[LateSource] = (),
        *,
        is_late: bool,
    ) -> Vm:
        identity = self._named(pid, identity)
        # A name and a start are one session: lives of a name in the same millisecond need different starts.
        start_ms = max(start_ms, self._last_ms.get(identity.name, 0))
        header = self._header(
            identity.name, identity.vmm, start_ms, is_late=is_late, sandbox_id=identity.sandbox_id
        )
        vm = Vm(header, sources, self._sink, late)
        self._tally.begun += 1
        _log.debug("%s begins: %s, name from %s", vm.name, identity.vmm, identity.name_from)
        return vm

    def _header(self, name: str, vmm: str, start_ms: int, *, is_late: bool, sandbox_id: str = "") -> Header:
        self._names.add(name)
        self._tally.watched += 1
        labels = {
            "vmm": vmm,
            **({ATTACHED: "late"} if is_late else {}),
            **({SANDBOX_ID: sandbox_id} if sandbox_id else {}),
            **dict(self._options.labels),
        }
        return Header(name, start_ms, tuple(sorted(labels.items())), self._options.interval_ms, ())

    def _named(self, pid: int, identity: Identity) -> Identity:
        """The identity with its final name: filled into the template, and distinct among live sessions."""
        if self._options.template is not None:
            filled = self._options.template.fill(naming.fields(identity, pid))
            if filled:
                identity = identity._replace(name=filled, name_from="--name")
        return identity._replace(name=self._distinct(identity.name, pid))

    def _distinct(self, name: str, pid: int) -> str:
        if name not in self._names:
            return name
        ends = (f"-{pid}" if n == 1 else f"-{pid}-{n}" for n in range(1, len(self._names) + 2))
        other = next(one for end in ends if (one := naming.bounded(name, end)) not in self._names)
        self._warnings.warn("name", "the name %s is taken: this one is %s", name, other)
        return other

    def end(self, vmm: Vmm, path: str, moment: Moment, reason: str) -> None:
        self.changed.add(vmm)
        vm = vmm.vms.pop(path)
        vmm.vcpus.pop(path, None)
        vmm.cpu.pop(path, None)
        vmm.destroyed.pop(path, None)
        vmm.counted = moment.exits.get(vmm.process.pid)
        if vm is not None:
            if reason == "gone":
                reason = next((one.end_reason for one in vm.late if one.end_reason), reason)
            vm.end(moment, reason)
            if self._adapters is not None:
                self._adapters.forget(vm.late)
            self._note_end(vm)
            _log.debug("%s ends: %s, %d ticks", vm.name, reason, vm.ticks)

    def forget_times(self) -> None:
        """The clock was set back: sessions that ended are in its future."""
        self._last_ms.clear()

    def _note_end(self, vm: Vm) -> None:
        self._names.discard(vm.name)
        self._last_ms.pop(vm.name, None)
        self._last_ms[vm.name] = vm.last_ms
        if len(self._last_ms) > _MOST_NAMES:
            del self._last_ms[next(iter(self._last_ms))]
        self._tally.watched -= 1
        self._tally.ended += 1

    def hurry(self, vmm: Vmm) -> None:
        """The process is dead: have the adapters read its last values before the end."""
        if self._adapters is not None:
            for vm in vmm.vms.values():
                if vm is not None:
                    self._adapters.hurry(vm.late)

    def tick(self, vmm: Vmm, moment: Moment) -> None:
        """A tick of each of its VMs."""
        for vm in vmm.vms.values():
            if vm is not None:
                was_begun = vm.has_begun
                vm.tick(moment)
                if vm.has_begun and not was_begun:  # its labels are final, and are to be kept
                    self.changed.add(vmm)

    def begin_unannounced(self, vmm: Vmm, moment: Moment) -> None:
        """Begin a VM without its event: a process whose VM is over makes exits, so it has another."""
        if vmm.vms:
            return
        counts = moment.exits.get(vmm.process.pid)
        if counts is not None and (vmm.counted is None or counts.total != vmm.counted.total):
            self.begin(vmm, UNKNOWN_PATH)

    def send_unseen(self, pid: int, moment: Moment) -> None:
        """Send the session of a VM that began and ended unseen: only its exits are known."""
        assert self._counters is not None
        identity = Identity(f"pid-{pid}", "process id", naming.UNKNOWN)
        if self._options.choice.wants(identity):
            age_ms = round(moment.boot_s * 1000 - moment.exits[pid].first_ns / 1e6)
            source = VcpuSource(pid, None, self._counters, None)
            vm = self._open(pid, identity, moment.t_ms - max(age_ms, 1), [source], is_late=False)
            vm.end(moment, "gone")
            self._note_end(vm)

    # After a restart

    def keep(self, vmm: Vmm) -> KeptProcess:
        """The state from which the next watcher continues the sessions of a process."""
        counted = vmm.counted
        return KeptProcess(
            vmm.process.pid,
            vmm.process.started_ticks,
            vmm.is_late,
            vmm.lives,
            None if counted is None else dict(counted.threads),
            {path: None if vm is None else self._keep(vmm, path, vm) for path, vm in vmm.vms.items()},
        )

    def _keep(self, vmm: Vmm, path: str, vm: Vm) -> KeptVm:
        labels, vcpus = dict(vm.header.labels), vmm.vcpus.get(path)
        base = Base() if vcpus is None else vcpus.base
        threads = None if vcpus is None or vcpus.threads is None else tuple(sorted(vcpus.threads))
        return KeptVm(
            vm.name,
            labels["vmm"],
            vm.header.start_ms,
            labels.get(ATTACHED) == "late",
            tuple(base.exits),
            tuple(base.times_ns),
            vmm.cpu[path].cpu_base_s,
            threads,
            labels if vm.has_begun else {},
            {tid: tuple(times_ns) for tid, times_ns in base.unseen_ns.items()},
        )

    def resume(self, vmm: Vmm, kept: KeptProcess, moment: Moment, last_ms: int, *, begins_anew: bool) -> None:
        """Continue the sessions of a process that still runs. Their last ticks are at `last_ms` or before.

        `begins_anew`: the clock was set back far; each session gets a last tick, and a new one begins.
        """
        self.changed.add(vmm)
        vmm.lives = kept.lives
        if kept.counted is not None:
            vmm.counted = ProcessExits(kept.counted)
        is_wanted = self._options.choice.wants(self._identify(vmm))
        is_alone = sum(vm is not None for vm in kept.vms.values()) == 1
        for path, vm in kept.vms.items():
            if vm is None:
                self.begin(vmm, path)  # the flags of this start may include it
            elif not is_wanted:
                vmm.vms[path] = None
            else:
                resumed = self._resume(vmm, path, vm, moment.exits.get(kept.pid), last_ms, is_alone=is_alone)
                if begins_anew:
                    resumed.tick(moment._replace(t_ms=last_ms + 1))
                    resumed.begin_anew(moment.t_ms)

    def _resume(
        self,
        vmm: Vmm,
        path: str,
        kept: KeptVm,
        exits: ProcessExits | None,
        last_ms: int,
        *,
        is_alone: bool,
    ) -> Vm:
        sources: list[Source] = []
        vcpus: VcpuSource | None = None
        if self._counters is not None:
            threads = None if kept.threads is None else set(kept.threads)
            base = Base(kept.exits, kept.times_ns, kept.unseen_ns or {})
            vcpus = VcpuSource(vmm.process.pid, vmm.process, self._counters, exits, threads, base)
            vmm.vcpus[path] = vcpus
            sources.append(vcpus)
        vmm.cpu[path] = VmmSource(vmm.process, is_late=kept.is_late, cpu_base_s=kept.cpu_s)
        sources.append(vmm.cpu[path])
        late: Sequence[LateSource] = ()
        if self._adapters is not None and is_alone:
            begins_at_0 = kept.is_late or vmm.lives > 1
            late = self._adapters.follow(
                vmm.process.pid,
                self._identify(vmm),
                kept.start_ms,
                begins_at_0=begins_at_0,
                has=() if vcpus is None else vcpus.series,
            )
        vm = vmm.vms[path] = Vm(
            self._header_of(kept), sources, self._sink, late, last_ms, has_labels=kept.labels != {}
        )
        _log.debug("%s continues", kept.name)
        return vm

    def _header_of(self, kept: KeptVm) -> Header:
        """The header of a session that continues: its labels cannot change."""
        header = self._header(kept.name, kept.vmm, kept.start_ms, is_late=kept.is_late)
        return header._replace(labels=tuple(sorted(kept.labels.items()))) if kept.labels else header

    def end_unseen(self, pid: int, kept: KeptVm, moment: Moment, last_ms: int) -> None:
        """End the session of a VM that ended between two watchers: all of its exits are in the map."""
        if self._counters is None:
            return
        threads = None if kept.threads is None else set(kept.threads)
        base = Base(kept.exits, kept.times_ns)
        source = VcpuSource(pid, None, self._counters, None, threads, base)
        vm = Vm(self._header_of(kept), [source], self._sink, last_ms=last_ms)
        vm.end(moment, "gone")
        self._note_end(vm)
        _log.debug("%s ended between two watchers", kept.name)

    def own_threads(self, vmm: Vmm) -> None:
        """Find the threads of each VM, if a process has or had several."""
        for path, vcpus in vmm.vcpus.items():
            if vcpus.threads is not None:
                self.changed.add(vmm)
                vcpus.threads.update(discover.vcpu_threads(path))

    def read(self) -> Mapping[int, ProcessExits]:
        return {} if self._counters is None else self._counters.read()
