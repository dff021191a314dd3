"""Pictures of the dashboards with real VMs in a real Prometheus.

It runs one VM of 45 s, with a neighbour that is restarted, then eighty that live for seconds; three
minutes in all.
"""

from __future__ import annotations

import random
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from devtools.fleet import Host
from devtools.grafana.dashboards import ALL, FOLDER, Json, Range, load, queries, run
from devtools.grafana.panel_picture import Line, draw, line
from devtools.programs import fetch
from devtools.receivers.prometheus import Prometheus

PUSH_S = 5
VMS, AT_ONCE = 80, 6
LIFETIMES_S = (1, 1, 2, 3, 3, 4, 5, 6, 8, 11, 14)

NOTE = "The dashboard's own queries over a real run, drawn by `make dashboard-picture`, not by Grafana. UTC."


def draw_dashboards(folder: Path) -> Iterator[Path]:
    """Draw dashboard-vmm.png and dashboard-fleet.png into a folder; yields their paths."""
    with (
        tempfile.TemporaryDirectory(prefix="rondo-picture-") as temporary,
        Prometheus(fetch("prometheus")) as prometheus,
        Host(Path(temporary), prometheus.write_url, push_s=PUSH_S) as host,
    ):
        one_vm = run_one(host)
        time.sleep(3)
        fleet = run_fleet(host)
        time.sleep(2 * PUSH_S)  # older samples have arrived then
        for name, shown, instances in (("vmm", one_vm, "vm-1|vm-2"), ("fleet", fleet, ".*")):
            dashboard = load(FOLDER / f"rondo-{name}-dashboard.json")
            path = folder / f"dashboard-{name}.png"
            lines = answers(prometheus.url, dashboard, shown, ALL | {"instance": instances})
            draw(dashboard, shown, lines, path, NOTE)
            yield path


def run_one(host: Host) -> Range:
    """A VM with all its phases, and another one that is restarted."""
    began_s = time.time()
    vm = host.start("vm-1", seconds=45)
    for seconds in (12, 9):
        host.wait(host.start("vm-2", seconds))
        time.sleep(2)
    host.wait(vm)
    return Range(began_s - 2, time.time() + 2)


def run_fleet(host: Host) -> Range:
    """Many VMs, a few at once; their durations are random, with a fixed seed."""
    lot = random.Random(6)
    began_s = time.time()
    waiting = [(f"job-{number:02}", lot.choice(LIFETIMES_S)) for number in range(VMS)]
    running: list[subprocess.Popen[bytes]] = []
    while waiting or running:
        if waiting and len(running) < AT_ONCE:
            running.append(host.start(*waiting.pop(0)))
            time.sleep(0.5)
        for vm in [vm for vm in running if vm.poll() is not None]:
            host.wait(vm)  # raises if the VM failed
            running.remove(vm)
        time.sleep(0.1)
    return Range(began_s - 2, time.time() + 2)


def answers(url: str, dashboard: Json, shown: Range, variables: Mapping[str, str]) -> dict[int, list[Line]]:
    """The lines of each panel by its id: query by query, each sorted by name."""
    lines: dict[int, list[Line]] = defaultdict(list)
    for query in queries(dashboard, shown, variables):
        found = [line(one, query.target["legendFormat"], query.step_s) for one in run(url, query, shown)]
        lines[query.panel["id"]] += sorted(found)
    return lines
