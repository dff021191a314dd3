"""`rondo-attach list`: the VMs of this host, the sources of their metrics, and what is refused and why.

Strategy: one scan, as at the watcher's start, and half a second of counting exits, which show other VMs.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import argh

from rondo_tools.attach import discover, naming
from rondo_tools.attach.counters.base import ExitCounters
from rondo_tools.attach.counters.choose import Refusal, choose
from rondo_tools.attach.namespace import check_namespace
from rondo_tools.attach.process import Process
from rondo_tools.attach.sources.choose import MissingError, Wanted, adapter_flags, open_adapters
from rondo_tools.catalog import CPU
from rondo_tools.printable import printable
from rondo_tools.units import format_duration

if TYPE_CHECKING:
    from rondo_tools.attach.sources.adapters import Adapters
    from rondo_tools.attach.sources.readings import AdapterSource

SUMMARY = "list the KVM VMs of this host, and the sources of their metrics"

DESCRIPTION = """\
List the KVM VMs of this host: their names and the source of these, their VMMs, how exits are counted.

  rondo-attach list
  sudo rondo-attach list --format json
  sudo rondo-attach list --qmp '/run/qmp/{name}.sock'

Takes half a second, and needs no store and no permission. Below the table it lists what is refused, and which
permission is needed."""

_MOST_ALIKE = 5  # refusals with the same reason that are listed
_ANSWER_S = 1.0  # time for the adapters' answers
_LOOK_S = 0.5  # time to find VMs by their exits
_COLUMNS = ("PID", "NAME", "FROM", "VMM", "AGE", "EXITS", "CPU", "MEMORY", "ADAPTERS")


class Vm(NamedTuple):
    """One line. The last four are the sources of these values; "" is none."""

    pid: int
    name: str
    name_from: str
    vmm: str
    age_s: float
    exits: str
    cpu: str
    memory: str
    adapters: str


class Listing(NamedTuple):
    vms: tuple[Vm, ...]
    refused: tuple[Refusal, ...]


@argh.arg("--format", choices=("table", "json"), help="the form of the output")
@adapter_flags
def list_vms(
    *,
    format: str = "table",
    qmp: naming.PathTemplate | None = None,
    firecracker: naming.PathTemplate | None = None,
    flush: naming.PathTemplate | None = None,
    cloud_hypervisor: naming.PathTemplate | None = None,
    libvirt: str | None = None,
    taps: bool = False,
    microsandbox: str | None = None,
) -> None:
    check_namespace()
    wanted = Wanted(qmp, firecracker, flush, cloud_hypervisor, libvirt, taps, microsandbox).checked()
    refused: tuple[Refusal, ...] = ()
    try:
        adapters = open_adapters(_ANSWER_S, wanted, only_looks=True)
    except MissingError as exc:
        refused += (Refusal("libvirt", exc.why, exc.needs, "blk_*, net_*"),)
        adapters = open_adapters(_ANSWER_S, wanted._replace(libvirt=None), only_looks=True)
    try:
        listing = look(adapters)
        listing = listing._replace(refused=listing.refused + refused)
    finally:
        if adapters is not None:
            adapters.close()
    if format == "json":
        json.dump(as_json(listing), sys.stdout, indent=2)
        print()
    else:
        write_table(listing, sys.stdout)


def look(adapters: Adapters | None = None, look_s: float = _LOOK_S) -> Listing:
    """Find all VMs, and ask the adapters about them."""
    counters, refused, _ = choose()
    try:
        scan = discover.scan()
        if not scan.is_complete:
            refused += (Refusal("scan", scan.refused, _SCAN_NEEDS, "VMs that made no exit meanwhile"),)
        pids = {found.pid for found in scan.found}
        if counters is not None and not scan.is_complete:
            time.sleep(look_s)
            pids |= counters.read().keys()
        vms, asked = [], []
        for pid in sorted(pids):
            try:
                process = Process(pid)
            except OSError:
                continue  # it ended
            identity = naming.identify(pid, process.command_line(), process.cgroups(), process.comm())
            vms.append(_vm(process, identity, counters))
            process.close()
            has = CPU if counters is not None and counters.knows_threads else ()
            asked.append(adapters.follow(pid, identity, begins_at_0=True, has=has) if adapters else ())
    finally:
        if counters is not None:
            counters.close()
    _wait_for_answers([source for sources in asked for source in sources])
    for at, sources in enumerate(asked):
        vms[at] = vms[at]._replace(adapters=" ".join(one.name for one in sources if one.report.reading))
        for one in sources:
            if one.report.reading is None:
                why, needs = one.report.refused or (f"no answer within {_ANSWER_S:.0f} s", "")
                refused += (Refusal(f"{vms[at].name}, {one.name}", why, needs, one.brings),)
    return Listing(tuple(vms), refused)


def _wait_for_answers(sources: Sequence[AdapterSource]) -> None:
    until_s = time.monotonic() + _ANSWER_S
    while time.monotonic() < until_s:
        if all(one.report.reading or one.report.refused for one in sources):
            return
        time.sleep(_LOOK_S / 20)


_SCAN_NEEDS = "root, or CAP_DAC_READ_SEARCH, with debugfs or CAP_SYS_PTRACE"


def _vm(process: Process, identity: naming.Identity, counters: ExitCounters | None) -> Vm:
    exits = ""
    if counters is not None:
        try:
            counters.begin(process.pid)
            exits = counters.name
        except OSError:
            pass
    return Vm(
        process.pid,
        identity.name,
        identity.name_from,
        identity.vmm,
        round(process.age_s(), 1),
        exits,
        "schedstat" if counters is not None and counters.knows_threads else "process",
        "proc",
        "",
    )


def as_json(listing: Listing) -> dict[str, Any]:
    return {
        "vms": [vm._asdict() for vm in listing.vms],
        "refused": [refusal._asdict() for refusal in listing.refused],
    }


def write_table(listing: Listing, out: TextIO) -> None:
    rows = [_COLUMNS, *map(_row, listing.vms)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if listing.vms:
        for row in rows:
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            print(line.rstrip(), file=out)
    else:
        print("no VM was found", file=out)
    alike: Counter[tuple[str, ...]] = Counter()
    for one in listing.refused:
        adapter = one.source.rpartition(", ")[2]
        alike[adapter, one.series, one.needs] += 1
        if alike[adapter, one.series, one.needs] > _MOST_ALIKE:
            continue
        missing = f"; missing: {one.series}" if one.series else ""
        needs = f"; needs {one.needs}" if one.needs else ""
        print(f"{one.source}: {printable(one.why)}{missing}{needs}", file=out)
    for (adapter, *_), count in alike.items():
        if count > _MOST_ALIKE:
            print(f"{adapter}: {count - _MOST_ALIKE} more like these; --format json has all", file=out)


def _row(vm: Vm) -> tuple[str, ...]:
    age = format_duration(max(round(vm.age_s), 1) * 1000)
    cells = (str(vm.pid), vm.name, vm.name_from, vm.vmm, age, vm.exits, vm.cpu, vm.memory, vm.adapters)
    return tuple(printable(cell) or "-" for cell in cells)
