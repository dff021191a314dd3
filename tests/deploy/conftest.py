"""A Prometheus filled by a real host with several VMs, once for all tests of this folder."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devtools.fleet import PATIENCE_S, Host
from devtools.grafana.dashboards import Range
from devtools.receivers.prometheus import Prometheus
from devtools.receivers.victoria import VictoriaMetrics
from rondo_tools.attach.self_metrics import INSTANCE, SERIES
from rondo_tools.catalog import COUNTER
from rondo_tools.stream import End, Header, Tick
from tests.support.deploy.lives import RULES, Filled, arrived_s, lives_of, push, until
from tests.support.streams import encoded


@pytest.fixture(scope="session")
def filled(program: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    """Two pushes, as from two hosts with VMs of the same names that differ only in the label `host`.

    A third push delivers the roll-ups, as the job "rollups".
    """
    folder = tmp_path_factory.mktemp("host")
    # A scrape every fifteen seconds would be too slow here.
    rules = folder / "rules.yml"
    rules.write_text(RULES.read_text().replace("interval: 15s", "interval: 1s"))
    config = f"global: {{evaluation_interval: 1s}}\nrule_files: ['{rules}']\n"
    began_s = time.time()
    with (
        Prometheus(program("prometheus"), config=config) as prometheus,
        # By default it hides the last half minute.
        VictoriaMetrics(program("victoria-metrics"), "-search.latencyOffset=0s") as victoria,
        # A journal is rolled up after the coarsest tier's interval.
        Host(folder, prometheus.write_url, tiers="1s:10m,10s:6h") as host,
    ):
        long = host.start("vm-1", seconds=12)
        killed = host.start("vm-5", seconds=300)
        host.wait(host.start("vm-2", seconds=3))
        again = host.start("vm-2", seconds=4)  # the second session of the name
        until(lambda: "vm-5" in {life.instance for life in lives_of(host.store)})
        killed.kill()
        killed_s = time.time()
        host.start("vm-4", seconds=300)  # still running at the end
        host.wait(host.start("vm-5", seconds=2))
        host.wait(host.start("vm-3", seconds=1))
        host.wait(again)
        host.wait(long)
        watched(host.socket, began_s)
        # The last second of the killed VM counts as complete five seconds later.
        until(lambda: time.time() > killed_s + 7)
        ended_s = time.time()
        newest = max(int(journal.name) for journal in (host.store / "tier_0").iterdir())
        until(lambda: json.loads((host.store / "state.json").read_bytes())["rolled_up"] >= newest)
        for flags in (
            ["--cursor", "b", "--external-label", "host=b"],
            ["--cursor", "rollups", "--tier", "1", "--job", "rollups"],
        ):
            push(host.store, prometheus.write_url, *flags)
        shown_s = arrived_s(prometheus, "vm-4", ended_s)
        push(host.store, victoria.write_url, "--cursor", "victoria")
        victoria.flush()
        shown = Range(began_s - 10, shown_s)
        yield Filled(prometheus.url, victoria.url, shown, lives_of(host.store), host.store)


def watched(path: Path, began_s: float) -> None:
    """Store the own metrics of a rondo-attach that has lost nothing and was never late."""
    start_ms = int(began_s) * 1000
    times = range(start_ms + 1000, int(time.time()) * 1000 + 1, 1000)
    values = struct.pack(f"<{len(SERIES)}d", *(0.0 if one.kind == COUNTER else 2.0 for one in SERIES))
    header = Header(INSTANCE, start_ms, (), 1000, SERIES)
    ticks = [Tick(t_ms, values) for t_ms in times]
    with socket.socket(socket.AF_UNIX) as store:
        store.settimeout(PATIENCE_S)
        store.connect(str(path))
        store.sendall(encoded(header, *ticks, End("signal", times[-1])))
        store.shutdown(socket.SHUT_WR)
        assert store.recv(1) == b""  # everything is stored
