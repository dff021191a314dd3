"""The cost of dashboards and rules for a Prometheus with the last five minutes of many VMs.

    scripts/bench.py dashboards [--vms 1000]

CPU time of the Prometheus' process for one view of each dashboard (five minutes in steps of a second), and
for one evaluation of all rules.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml

from bench.measure import process_cpu_s, program
from bench.report import Report, run_part
from devtools import ROOT
from devtools.filled_store import Life, fill
from devtools.grafana.dashboards import ALL, DASHBOARDS, Range, ask, load, queries, run
from devtools.programs import fetch
from devtools.receivers.prometheus import Prometheus
from rondo_tools.catalog import COUNTER, SERIES
from rondo_tools.stream import Header

RULES = ROOT / "deploy" / "rules" / "rondo.yml"
SECONDS = 300


def lives(vms: int, end_ms: int) -> Iterator[Life]:
    """VMs that all run for the whole time."""
    random = np.random.default_rng(1)
    start_ms = end_ms - 1000 * SECONDS
    for number in range(vms):
        values = random.normal(5000, 300, (SECONDS, len(SERIES)))
        for at, series in enumerate(SERIES):
            if series.kind == COUNTER:
                values[:, at] = np.cumsum(random.integers(0, 5000, SECONDS))
            elif series.name == "vmm_uptime_seconds":
                values[:, at] = np.arange(1, SECONDS + 1)
        header = Header(f"vm-{number}", start_ms, (), 1000, SERIES)
        yield Life(header, start_ms + 1000 * np.arange(1, SECONDS + 1), values)


def main(report: Report, arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench.py dashboards", description="Measure dashboards and rules.")
    parser.add_argument("--vms", type=int, default=1000, help="VMs (default: 1000)")
    vms = parser.parse_args(arguments).vms
    end_ms = int(time.time()) * 1000
    shown = Range(end_ms / 1000 - SECONDS, end_ms / 1000)
    with (
        tempfile.TemporaryDirectory(prefix="rondo-bench-") as folder,
        Prometheus(fetch("prometheus")) as prometheus,
    ):
        store = Path(folder) / "vmm_metrics"
        fill(store, lives(vms, end_ms))
        push = program("rondo-push", store, "--remote-write", prometheus.write_url)
        subprocess.run(push, check=True)
        pid = prometheus.process.pid
        seen = f"{vms:,} VMs, {SECONDS} s of seconds"
        for path in DASHBOARDS:
            dashboard = load(path)
            one = path.stem == "rondo-vmm-dashboard"
            cost_s: dict[str, float] = defaultdict(float)
            for query in queries(dashboard, shown, ALL | ({"instance": "vm-0"} if one else {})):
                before_s = process_cpu_s(pid)
                run(prometheus.url, query, shown)
                cost_s[query.panel["title"]] += process_cpu_s(pid) - before_s
            dearest = max(cost_s, key=lambda title: cost_s[title])
            look = f"a look at {dashboard['title']}{', at one VM' * one}"
            report.row(f"{look}: {seen}", sum(cost_s.values()), "s of Prometheus' CPU")
            report.row(f"its dearest panel: {dearest}", cost_s[dearest], "s of Prometheus' CPU")
        before_s = process_cpu_s(pid)
        for group in yaml.safe_load(RULES.read_text())["groups"]:
            for rule in group["rules"]:
                ask(prometheus.url, "query", query=rule["expr"], time=shown.end_s)
        report.row("all rules, once", process_cpu_s(pid) - before_s, "s of Prometheus' CPU")


if __name__ == "__main__":
    sys.exit(run_part(main))
