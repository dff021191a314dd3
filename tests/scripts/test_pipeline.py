"""The three tools in a pipe, a real VM at one end and a real Prometheus at the other.

What tier 0 of the store holds is compared with what Prometheus holds, pair for pair: first through
its HTTP API, then, stopped, through `promtool tsdb dump`, which shows the stale markers too.
"""

from __future__ import annotations

import math
import re
import struct
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from devtools.pipeline import pipeline
from devtools.receivers.prometheus import Labels, Prometheus
from rondo_tools.store.reader import Session, Store
from tests.support.needs import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
INSTANCE = "pipeline-vm"

Pairs = dict[Labels, list[tuple[int, float]]]


def pipe(*commands: list[str]) -> None:
    """Run commands joined by pipes to their end; each must end well."""
    assert pipeline(*commands) == [0] * len(commands)


def stored(session: Session) -> Pairs:
    """Tier 0, by the labels that it is sent with."""
    rows = session.rows()
    assert rows.skipped == 0
    return {
        labels_of(session, number): list(
            zip(rows.t_ms.tolist(), rows.values[:, number].tolist(), strict=True)
        )
        for number in range(len(session.header.series))
    }


def labels_of(session: Session, number: int) -> Labels:
    series = session.header.series[number]
    labels = {"__name__": series.name, "job": "rondo-vmm", "instance": session.instance}
    return tuple(sorted((labels | dict(session.header.labels) | dict(series.labels)).items()))


def bits(value: float) -> int:
    """Equal for equal floats only: tells -0.0 from 0.0."""
    result: int = struct.unpack("<Q", struct.pack("<d", value))[0]
    return result


def dump(promtool: Path, folder: Path) -> Pairs:
    """All samples in a stopped Prometheus' folder."""
    text = subprocess.run(
        [promtool, "tsdb", "dump", folder], check=True, capture_output=True, text=True, timeout=PATIENCE_S
    ).stdout
    found: Pairs = defaultdict(list)
    for line in text.splitlines():
        match = re.fullmatch(r"\{(.*)\} (\S+) (\d+)", line)
        assert match, line
        labels = tuple(sorted((name, value) for name, value in re.findall(r'(\w+)="([^"]*)"', match[1])))
        found[labels].append((int(match[3]), float(match[2])))
    return found


@pytest.mark.parametrize("seconds", [3, pytest.param(12, marks=pytest.mark.long)])
def test_every_second_of_a_vm_reaches_prometheus(
    seconds: int, prometheus: Prometheus, program: Callable[[str], Path], tmp_path: Path
) -> None:
    store = tmp_path / "vmm_metrics"
    push = ["rondo-push", "--remote-write", prometheus.write_url]
    vmm = ["rondo-vmm", "--duration", f"{seconds}s", "--instance", INSTANCE, "--label", "zone=a b"]
    pipe([*vmm, "--serial", "none"], ["rondo-store", str(store)], push)

    (session,) = Store(store).sessions()
    assert session.end is not None
    assert session.end.reason == "poweroff"
    assert session.end.t_ms - session.start_ms >= seconds * 1000
    t_ms = session.rows().t_ms.tolist()
    # A tick for every second that ended while it lived, and one more at its very end.
    whole = [1000 * second for second in range(session.start_ms // 1000 + 1, t_ms[-1] // 1000 + 1)]
    assert t_ms == sorted({*whole, session.end.t_ms})

    here = stored(session)
    assert len(here) == 19
    there = prometheus.samples(f'{{instance="{INSTANCE}"}}')
    assert there.keys() == here.keys()
    for labels, pairs in here.items():
        valued = [(t, bits(value)) for t, value in pairs if not math.isnan(value)]
        assert valued, f"{labels} never had a value"
        assert [(t, bits(float(value))) for t, value in there[labels]] == valued, labels

    # A second push has nothing to send.
    again = subprocess.run(
        [sys.executable, ROOT / "bin" / "rondo-push", store, *push[1:], "--verbose"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert again.returncode == 0, again.stderr
    assert re.search(r"\b0 samples sent", again.stderr), again.stderr

    prometheus.stop()
    all_of_it = dump(program("promtool"), prometheus.folder / "data")
    for labels, pairs in here.items():
        # NaN is there as a stale marker, and one more ends each series.
        wanted = [*pairs, (pairs[-1][0] + 1, math.nan)]
        assert [t for t, _ in all_of_it[labels]] == [t for t, _ in wanted]
        assert [math.isnan(value) for _, value in all_of_it[labels]] == [math.isnan(v) for _, v in wanted]


def test_a_vm_drives_every_series(tmp_path: Path) -> None:
    """Which counter moves in which phase: true series, not names."""
    store = tmp_path / "vmm_metrics"
    pipe(
        ["rondo-vmm", "--duration", "6s", "--interval", "100ms", "--instance", INSTANCE, "--serial", "none"],
        ["rondo-store", str(store), "--tiers", "100ms:1m,1s:10m,10s:6h"],
    )
    (session,) = Store(store).sessions()
    rows = session.rows()
    column = {str(series): rows.values[:, number] for number, series in enumerate(session.header.series)}
    grown = {name: np.diff(values, prepend=0.0) for name, values in column.items() if "_total" in name}
    requests = [f'blk_requests_total{{op="{op}"}}' for op in ("read", "write", "flush")]
    moved = [f'blk_bytes_total{{direction="{direction}"}}' for direction in ("read", "write")]

    # However long a phase takes, its ticks tell it: idle halts, io writes, mixed does both.
    halts, mmio = grown['vcpu_exits_total{reason="hlt"}'] > 0, grown['vcpu_exits_total{reason="mmio"}'] > 0
    writes = grown[requests[1]] > 0
    io, mixed = np.flatnonzero(writes & ~halts), np.flatnonzero(writes & halts)
    idle = np.flatnonzero((halts & ~mmio)[: io[0]])  # a tick may cut a request in two; there is none yet
    assert idle.size
    assert io[0] < mixed[-1]
    assert grown['vcpu_exits_total{reason="mmio"}'][io].sum() > 0
    assert grown['vcpu_exits_total{reason="io"}'][io].sum() > 0
    for series in requests + moved:
        assert grown[series][idle].sum() == 0, series
        assert grown[series][io].sum() > 0, series
        assert grown[series][mixed].sum() > 0, series
    assert np.isnan(column["blk_request_duration_ns"][idle]).all()  # there is nothing to average
    for gauge in ("blk_request_duration_ns", "vcpu_exit_duration_ns", "vcpu_run_duration_ns"):
        assert np.nanmin(column[gauge][io]) > 0, gauge
    for name, steps in grown.items():
        assert (steps >= 0).all(), name
    assert column['vcpu_exits_total{reason="shutdown"}'][-1] == 0
    assert (column["vmm_rss_bytes"] > 5e6).all()
    assert (column["vmm_open_fds"] >= 3).all()
    for name in ("vcpu_cpu_seconds_total", "vmm_cpu_seconds_total"):
        assert column[name][-1] > 0, name
    assert (column["vcpu_cpu_seconds_total"] <= column["vmm_cpu_seconds_total"]).all()
    uptime = column["vmm_uptime_seconds"]
    assert (np.diff(uptime) > 0).all()
    assert uptime[-1] >= 6
