"""The values of a tick."""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path

import pytest

from rondo_tools import catalog
from rondo_tools.catalog import Series
from rondo_tools.vmm.counters import Snapshot
from rondo_tools.vmm.sampler import Sampler

BUSY = Snapshot(
    exits=(10, 20, 30, 1, 2),
    exit_ns=6300,
    run_ns=630_000,
    block_requests=(3, 4, 1),
    block_bytes=(1536, 2048, 0),
    block_ns=8000,
    vcpu_cpu_ns=1_500_000_000,
    vcpu_wait_ns=250_000_000,
    vmm_cpu_ns=2_000_000_000,
)
SERIES = (*catalog.SERIES, *catalog.CPU)


def sample(sampler: Sampler, snapshot: Snapshot, uptime_s: float = 1.5) -> dict[str, float]:
    """The values by the names of the catalogue, whose order the bytes follow."""
    values = struct.unpack(f"<{len(SERIES)}d", sampler.values(snapshot, uptime_s))
    return {str(series): value for series, value in zip(SERIES, values, strict=True)}


@pytest.fixture
def proc(tmp_path: Path) -> str:
    (tmp_path / "statm").write_text("50000 1234 900 1 0 20000 0\n")
    (tmp_path / "fd").mkdir()
    for number in range(6):
        (tmp_path / "fd" / str(number)).touch()
    return str(tmp_path)


def test_every_series_of_the_catalogue_has_its_value(proc: str) -> None:
    assert sample(Sampler(SERIES, proc), BUSY) == {
        'vcpu_exits_total{reason="io"}': 10,
        'vcpu_exits_total{reason="mmio"}': 20,
        'vcpu_exits_total{reason="hlt"}': 30,
        'vcpu_exits_total{reason="shutdown"}': 1,
        'vcpu_exits_total{reason="other"}': 2,
        "vcpu_exit_duration_ns": 100,
        "vcpu_run_duration_ns": 10_000,
        'blk_requests_total{op="read"}': 3,
        'blk_requests_total{op="write"}': 4,
        'blk_requests_total{op="flush"}': 1,
        'blk_bytes_total{direction="read"}': 1536,
        'blk_bytes_total{direction="write"}': 2048,
        "blk_request_duration_ns": 1000,
        "vmm_rss_bytes": 1234 * os.sysconf("SC_PAGE_SIZE"),
        "vmm_open_fds": 5,  # without the one that lists them
        "vmm_uptime_seconds": 1.5,
        "vcpu_cpu_seconds_total": 1.5,
        "vcpu_wait_seconds_total": 0.25,
        "vmm_cpu_seconds_total": 2,
    }


def test_a_series_unknown_to_the_sampler_is_refused(proc: str) -> None:
    unknown = Series("vcpu_naps_total", (), "counter", "naps", "")
    with pytest.raises(KeyError, match="vcpu_naps_total"):
        Sampler((*SERIES, unknown), proc).values(BUSY, 1.0)


def test_a_tick_has_the_series_of_its_header_in_their_order(proc: str) -> None:
    some = (catalog.CPU[1], catalog.SERIES[0])
    assert struct.unpack("<2d", Sampler(some, proc).values(BUSY, 1.0)) == (0.25, 10)


def test_the_sampler_measures_only_the_catalogue(proc: str) -> None:
    measured = Sampler(SERIES, proc)._measure(BUSY, 1.0)
    assert set(measured) == {(series.name, series.labels) for series in SERIES}


def test_means_are_over_the_tick_and_counters_over_the_session(proc: str) -> None:
    sampler = Sampler(SERIES, proc)
    sample(sampler, BUSY)
    later = BUSY._replace(exits=(14, 20, 30, 1, 2), exit_ns=6500, run_ns=630_004)
    values = sample(sampler, later)
    assert values["vcpu_exit_duration_ns"] == 50
    assert values["vcpu_run_duration_ns"] == 1
    assert values['vcpu_exits_total{reason="io"}'] == 14


def test_kernel_halts_count_but_are_in_no_mean(proc: str) -> None:
    values = sample(Sampler(SERIES, proc), BUSY._replace(kernel_halts=1000))
    assert values['vcpu_exits_total{reason="hlt"}'] == 1030
    assert (values["vcpu_exit_duration_ns"], values["vcpu_run_duration_ns"]) == (100, 10_000)


def test_counters_of_a_new_session_start_at_the_last_tick(proc: str) -> None:
    sampler = Sampler(SERIES, proc)
    sample(sampler, BUSY)
    sampler.begin_anew()
    later = BUSY._replace(
        exits=(14, 20, 31, 1, 2), exit_ns=6500, run_ns=630_005, block_requests=(3, 9, 1),
        block_bytes=(1536, 2560, 0), block_ns=8500, kernel_halts=7,
        vcpu_cpu_ns=1_750_000_000, vcpu_wait_ns=250_000_001, vmm_cpu_ns=4_000_000_000,
    )  # fmt: skip
    for _ in range(2):
        values = sample(sampler, later, uptime_s=3.5)
        counters = {
            str(one): values[str(one)] for one in SERIES if one.kind == "counter" and values[str(one)]
        }
        assert counters == {
            'vcpu_exits_total{reason="io"}': 4,
            'vcpu_exits_total{reason="hlt"}': 8,
            'blk_requests_total{op="write"}': 5,
            'blk_bytes_total{direction="write"}': 512,
            "vcpu_cpu_seconds_total": 0.25,
            "vcpu_wait_seconds_total": 1e-9,
            "vmm_cpu_seconds_total": 2,
        }
        assert values["vmm_uptime_seconds"] == 3.5  # of the VMM
    sampler = Sampler(SERIES, proc)
    sample(sampler, BUSY)
    sampler.begin_anew()
    values = sample(sampler, later)
    assert (values["vcpu_exit_duration_ns"], values["blk_request_duration_ns"]) == (40, 100)


def test_a_mean_over_nothing_is_no_value(proc: str) -> None:
    sampler = Sampler(SERIES, proc)
    sample(sampler, BUSY)
    values = sample(sampler, BUSY)
    nothing = {name for name, value in values.items() if math.isnan(value)}
    assert nothing == {"vcpu_exit_duration_ns", "vcpu_run_duration_ns", "blk_request_duration_ns"}


def test_without_proc_there_is_no_value(tmp_path: Path) -> None:
    values = sample(Sampler(SERIES, str(tmp_path / "none")), BUSY)
    assert {name for name, value in values.items() if math.isnan(value)} == {"vmm_rss_bytes", "vmm_open_fds"}


def test_the_real_proc_is_read() -> None:
    values = sample(Sampler(SERIES), BUSY)
    if not Path("/proc/self/statm").exists():
        pytest.skip("no /proc")
    assert values["vmm_rss_bytes"] > 1 << 20
    assert values["vmm_open_fds"] >= 3
