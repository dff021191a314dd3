"""A Linux guest's life in the laboratory, and all of its samples in a Prometheus outside.

The real pipe runs once, inside. The tests check its results: the samples in the Prometheus, the store, the
console with the time of each line, the disk.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from devtools import lab
from devtools.receivers.prometheus import Labels, Prometheus
from rondo_tools.store.reader import Session, Store
from tests.scripts.test_pipeline import bits, stored
from tests.support.needs import LAB_S, PATIENT_VMM

Run = Callable[..., lab.Result]

INSTANCE = "linux-vm"
SECONDS = 45
PHASES = ("cpu", "idle", "io", "mixed")

# `ts` prefixes each line of the console with its time; the kernel's own ext4 checks the guest's disk.
COMMAND = """
set -o pipefail
mkfifo /tmp/said
{vmm}
ts '%.s' </tmp/said >/out/said &
truncate -s 8M /tmp/disk
vmm --kernel build/guest/vmlinuz --initramfs build/guest/initramfs --disk /tmp/disk \
    --duration {seconds}s --instance {instance} --label rack=a1 2>/tmp/said |
    rondo-store /tmp/vmm_metrics | rondo-push --remote-write {url}
echo $? >/out/status
cp -r /tmp/vmm_metrics /out
mkdir /mnt && mount -o loop,ro /tmp/disk /mnt && cd /mnt && sha256sum -c SUMS >/out/sums
"""


class Life(NamedTuple):
    """The results. `output` are the lines of rondo-vmm and of the console, with Unix times in ms."""

    status: int
    log: str
    session: Session
    samples: dict[Labels, list[tuple[int, str]]]
    output: list[tuple[float, str]]
    sums: str

    def column(self, series: str) -> list[float]:
        names = [str(one) for one in self.session.header.series]
        values: list[float] = self.session.rows().values[:, names.index(series)].tolist()
        return values

    def grown(self, series: str, begin_ms: float, end_ms: float) -> float:
        """The growth of a counter between the ticks around a time range."""
        t_ms = self.session.rows().t_ms
        first, last = np.searchsorted(t_ms, begin_ms, "right") - 1, np.searchsorted(t_ms, end_ms)
        values = [0.0, *self.column(series)]  # before the first tick all are 0
        return values[min(int(last), len(t_ms) - 1) + 1] - values[int(first) + 1]

    def phase(self, name: str) -> tuple[float, float]:
        """The start and end of a phase, without the ticks at its edges, which belong to two phases."""
        order = [*(f"phase: {one}" for one in PHASES), "power off"]
        number = order.index(f"phase: {name}")
        begin, end = (next(at for at, line in self.output if line == order[i]) for i in (number, number + 1))
        return begin + 1000, end - 1000


@pytest.fixture(scope="module")
def life(
    in_lab: Run, guest: Path, program: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Life:
    with Prometheus(program("prometheus")) as prometheus:
        url = f"http://10.0.2.2:{prometheus.port}/api/v1/write"
        result = in_lab(
            COMMAND.format(vmm=PATIENT_VMM, seconds=SECONDS, instance=INSTANCE, url=url), timeout_s=LAB_S
        )
        samples = prometheus.samples(f'{{instance="{INSTANCE}"}}')
    folder = tmp_path_factory.mktemp("life")
    for name, data in result.out.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    lines = [line.partition(" ") for line in result.out["said"].decode(errors="replace").splitlines()]
    output = [(float(at) * 1000, text.strip()) for at, _, text in lines]
    log = result.stderr.decode() + "\n".join(line for _, line in output)
    assert result.out.get("status") == b"0\n", log
    (session,) = Store(folder / "vmm_metrics").sessions()
    return Life(result.status, log, session, samples, output, result.out["sums"].decode())


def test_the_guest_runs_and_powers_off(life: Life) -> None:
    end = life.session.end
    assert end is not None
    assert end.reason == "poweroff", life.log
    assert (end.t_ms - life.session.start_ms) / 1000 > SECONDS
    console = [line for _, line in life.output if not line.startswith("rondo-vmm: ")]
    ours = [line for line in console if not line.startswith("[")]
    assert ours == [
        "rondo guest: up",
        "disk: 8192 KiB, mounted",
        *(f"phase: {name}" for name in PHASES),
        "power off",
    ]
    assert not re.search(r"panic|BUG|WARNING|Oops|error", "\n".join(console), re.IGNORECASE), life.log


def test_every_second_is_in_prometheus(life: Life) -> None:
    session = life.session
    end = session.end
    assert end is not None
    t_ms = session.rows().t_ms.tolist()
    assert t_ms[-1] == end.t_ms
    # Ticks at whole seconds; a VMM that is delayed for a second loses a tick.
    # The last tick may replace the one of its second.
    assert all(t % 1000 == 0 for t in t_ms[:-1])
    taken = re.search(r" s, (\d+) ticks; ", life.log)
    assert taken, life.log
    assert int(taken[1]) - len(t_ms) in (0, 1)
    here = stored(session)
    assert len(here) == 19
    assert life.samples.keys() == here.keys()
    for labels, pairs in here.items():
        valued = [(t, bits(value)) for t, value in pairs if not math.isnan(value)]
        assert [(t, bits(float(value))) for t, value in life.samples[labels]] == valued, labels
        name = dict(labels)["__name__"]
        if not name.endswith("_duration_ns"):  # a mean may have nothing to average
            assert len(valued) == len(t_ms), labels


def test_the_series_grow_in_their_phases(life: Life) -> None:
    cpu, idle, io, mixed = (life.phase(name) for name in PHASES)
    exits = 'vcpu_exits_total{{reason="{}"}}'.format
    # The amount of growth depends on the machine. That it grows, and in which phase more, does not.
    assert life.grown(exits("hlt"), *idle) > life.grown(exits("hlt"), *cpu)
    assert life.grown(exits("hlt"), *mixed) > 0
    assert life.grown(exits("mmio"), *io) > life.grown(exits("mmio"), *cpu)
    assert life.grown(exits("mmio"), *mixed) > 0
    for series in (
        *(f'blk_requests_total{{op="{op}"}}' for op in ("read", "write", "flush")),
        *(f'blk_bytes_total{{direction="{direction}"}}' for direction in ("read", "write")),
    ):
        assert life.grown(series, *io) > life.grown(series, *cpu)
        assert life.grown(series, *mixed) > 0
    # Every letter of the guest's own lines is an exit.
    ours = ("rondo guest: ", "disk: ", "phase: ")
    letters = sum(len(line) for _, line in life.output if line.startswith(ours))
    assert life.column(exits("io"))[-1] >= letters
    assert life.column(exits("shutdown"))[-1] == 0
    for name in (str(series) for series in life.session.header.series):
        if "_total" in name:
            assert (np.diff(life.column(name)) >= 0).all(), name
    assert min(life.column("vmm_rss_bytes")) > 5e6
    assert min(life.column("vmm_open_fds")) >= 3
    uptime = life.column("vmm_uptime_seconds")
    assert (np.diff(uptime) > 0).all()
    assert uptime[-1] >= SECONDS


def test_the_disk_has_the_guests_data(life: Life) -> None:
    """Eight files of 128 KiB, with the checksums that the guest computed."""
    assert life.status == 0, life.log
    assert re.findall(r"^(data\.\d): OK$", life.sums, re.MULTILINE) == [f"data.{n}" for n in range(8)]
    assert life.column('blk_bytes_total{direction="write"}')[-1] > 8 * 128 * 1024
