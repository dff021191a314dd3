"""The file `lives`: the sessions that the next watcher continues, with the counts at which they began.

Strategy: a small file in the runtime directory, replaced whole before a new session is sent; so the next
watcher knows every session, whenever this one is killed. The first line names the map, because the counts of
another map are different. A line for each process follows. The file is not synced: the map does not outlive
the host either.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

from rondo_tools import clock

_log = logging.getLogger(__name__)

_FORMAT = 1
_NAME = "lives"
_STEP_MS = 1_000  # a step of the wall clock that is written


class KeptVm(NamedTuple):
    """A session that continues, and where its counts begin: `exits` by reason, `times_ns` of its vCPUs,
    `cpu_s`, and `unseen_ns` of threads that had no exit at that time.
    """

    name: str
    vmm: str
    start_ms: int
    is_late: bool
    exits: tuple[int, ...]
    times_ns: tuple[float, ...]
    cpu_s: float
    threads: tuple[int, ...] | None = None  # if it shares its process
    labels: dict[str, str] | None = None  # {} while the session waits for them; None in an older file
    unseen_ns: dict[int, tuple[float, ...]] | None = None  # in an older file


class KeptProcess(NamedTuple):
    """A process with its VMs by path; None is a VM that is left out. `counted` is by thread."""

    pid: int
    started_ticks: int  # distinguishes it from another process with the same id
    is_late: bool
    lives: int
    counted: dict[int, tuple[int, ...]] | None
    vms: dict[str, KeptVm | None]

    def line(self) -> str:
        vms = {path: None if vm is None else vm._asdict() for path, vm in self.vms.items()}
        return json.dumps(self._asdict() | {"vms": vms})


def parse_process(line: str) -> KeptProcess:
    """Raises ValueError, KeyError or TypeError."""
    fields = json.loads(line)
    counted = fields["counted"]
    return KeptProcess(
        int(fields["pid"]),
        int(fields["started_ticks"]),
        bool(fields["is_late"]),
        int(fields["lives"]),
        None if counted is None else {int(tid): tuple(map(int, exits)) for tid, exits in counted.items()},
        {path: None if vm is None else _vm(vm) for path, vm in fields["vms"].items()},
    )


def _vm(fields: dict[str, Any]) -> KeptVm:
    threads, labels, unseen_ns = fields["threads"], fields.get("labels"), fields.get("unseen_ns")
    exits = tuple(map(int, fields["exits"]))
    if len(exits) != 5:
        raise ValueError(f"{len(exits)} counts of exits")
    return KeptVm(
        str(fields["name"]),
        str(fields["vmm"]),
        int(fields["start_ms"]),
        bool(fields["is_late"]),
        exits,
        _times(fields["times_ns"]),
        float(fields["cpu_s"]),
        None if threads is None else tuple(map(int, threads)),
        None if labels is None else {str(name): str(value) for name, value in labels.items()},
        None if unseen_ns is None else {int(tid): _times(values) for tid, values in unseen_ns.items()},
    )


def _times(values: list[Any]) -> tuple[float, ...]:
    run_ns, wait_ns = map(float, values)
    return run_ns, wait_ns


class KeptFile:
    """The file for the counts of one map. They began at `since_boot_s`, by CLOCK_BOOTTIME."""

    def __init__(self, folder: Path, map_id: int, since_boot_s: float, *, is_map_kept: bool) -> None:
        """Read the file. It is ignored if the map is new or another one, or if the file is damaged."""
        self._path, self._map_id = folder / _NAME, map_id
        self.since_boot_s = since_boot_s
        self.back_ms = 0  # the step by which the wall clock was set back since the file was written
        self._booted_ms = clock.booted_ms()
        self.processes: tuple[KeptProcess, ...] = self._read() if is_map_kept else ()
        self._lines: dict[int, str] = {}
        self._is_changed = True
        self._failed = False

    def _read(self) -> tuple[KeptProcess, ...]:
        try:
            first, *lines = self._path.read_text().splitlines()
            head = json.loads(first)
            if (head["format"], head["map"]) != (_FORMAT, self._map_id):
                _log.warning("%s belongs to other counters: the running VMs are late", self._path)
                return ()
            processes = tuple(map(parse_process, lines))
            self.since_boot_s = float(head["since_boot_s"])
            self.back_ms = max(int(head.get("booted_ms", self._booted_ms)) - self._booted_ms, 0)
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
            _log.warning("%s: %s: the running VMs are late", self._path, exc)
            return ()
        return processes

    def leave_out(self, ended: set[tuple[str, int]]) -> None:
        """Remove ended sessions, given by instance and start, which may not have been dropped yet."""
        self.processes = tuple(
            process._replace(
                vms={
                    path: vm
                    for path, vm in process.vms.items()
                    if vm is None or (vm.name, vm.start_ms) not in ended
                }
            )
            for process in self.processes
        )

    def put(self, process: KeptProcess) -> None:
        line = process.line()
        if self._lines.get(process.pid) != line:
            self._lines[process.pid] = line
            self._is_changed = True

    def drop(self, pid: int) -> None:
        self._is_changed |= self._lines.pop(pid, None) is not None

    def write(self) -> None:
        """Replace the file if anything changed. A failure is logged once."""
        booted_ms = clock.booted_ms()
        if not self._is_changed and abs(booted_ms - self._booted_ms) < _STEP_MS:
            return
        self._is_changed, self._booted_ms = False, booted_ms
        head = json.dumps(
            {
                "format": _FORMAT,
                "map": self._map_id,
                "since_boot_s": self.since_boot_s,
                "booted_ms": booted_ms,
            }
        )
        temporary = self._path.with_name(f".{self._path.name}")
        try:
            temporary.write_text("\n".join((head, *self._lines.values(), "")))
            temporary.replace(self._path)
        except OSError as exc:
            if not self._failed:
                _log.warning("%s: %s: a restart cannot continue the sessions", self._path, exc.strerror)
            self._failed = True
        else:
            self._failed = False
