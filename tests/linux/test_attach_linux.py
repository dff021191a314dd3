"""rondo-attach beside Linux guests on kvm_amd: one under rondo-vmm, one under QEMU, in one laboratory.

rondo-vmm counts its exits itself, and KVM counts QEMU's in debugfs, which is mounted only for that: not while
rondo-vmm's guest runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from devtools import ROOT, lab
from rondo_tools.store.reader import Session, Store
from tests.support.linux.lab_programs import QEMU, qemu_files
from tests.support.needs import LAB_S, must_have

Run = Callable[..., lab.Result]

WORKLOAD = "workload_duration=4"
COMMAND = f"""
mount -t securityfs security /sys/kernel/security; cat /sys/kernel/security/lockdown
truncate -s 8M /tmp/disk /tmp/other
rondo-store /tmp/vmm_metrics --listen unix:/tmp/store & store=$!
rondo-attach --verbose --output unix:/tmp/store --match vmm=qemu --match vmm=rondo-vmm \\
    --name '{{vmm}}-{{name}}' --qmp '/tmp/{{name}}.qmp' 2>/out/said & attach=$!
until grep -q watching /out/said; do sleep 0.2; done

ls /sys/kernel/debug/kvm
rondo-vmm --kernel build/guest/vmlinuz --initramfs build/guest/initramfs --cmdline {WORKLOAD} \\
    --disk /tmp/disk --instance linux --output unix:/tmp/store

mount -t debugfs debug /sys/kernel/debug
export {QEMU.split()[0]}
python3 /in/kvm_counted.py {" ".join(QEMU.split()[1:])} -name guest=linux -nodefaults -no-user-config \\
    -display none -no-reboot -machine microvm,acpi=on,pit=off,pic=off,rtc=off,isa-serial=on \\
    -accel kvm -cpu host -m 256 -serial file:/out/console -qmp unix:/tmp/linux.qmp,server=on,wait=off \\
    -drive id=disk,file=/tmp/other,format=raw,if=none -device virtio-blk-device,drive=disk \\
    -kernel build/guest/vmlinuz -initrd build/guest/initramfs \\
    -append "console=ttyS0 quiet cryptomgr.notests {WORKLOAD}" >/out/debugfs

until grep -q 'qemu-linux ends' /out/said; do sleep 0.2; done
kill $attach && wait $attach && kill $store && wait $store || exit 1
cp -r /tmp/vmm_metrics /out
"""


class Lives(NamedTuple):
    """`own` is rondo-vmm's session of its VM, the others are rondo-attach's. `kvm` is debugfs's."""

    own: Session
    rondo_vmm: Session
    qemu: Session
    kvm: dict[str, int]
    output: str
    shown: str


@pytest.fixture(scope="module")
def lives(in_lab: Run, guest: Path, tmp_path_factory: pytest.TempPathFactory) -> Lives:
    del guest  # it is built now
    try:
        files = qemu_files()
    except LookupError as exc:
        must_have(f"no QEMU: {exc}")
    files["kvm_counted.py"] = (ROOT / "tests" / "support" / "linux" / "kvm_counted.py").read_bytes()
    result = in_lab(COMMAND, files, timeout_s=LAB_S)
    assert result.status == 0, (result.stderr, result.out)
    folder = tmp_path_factory.mktemp("lives")
    for name, data in result.out.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    sessions = {one.instance: one for one in Store(folder / "vmm_metrics").sessions()}
    return Lives(
        sessions["linux"],
        sessions["rondo-vmm-linux"],
        sessions["qemu-linux"],
        json.loads(result.out["debugfs"]),
        result.out["said"].decode(),
        result.stdout.decode() + result.stderr.decode(),
    )


def columns(session: Session) -> dict[str, list[float]]:
    values = session.rows().values
    return {str(series): values[:, at].tolist() for at, series in enumerate(session.header.series)}


def exits(session: Session) -> dict[str, float]:
    """The last value of each reason."""
    reasons = ("io", "mmio", "hlt", "shutdown", "other")
    return {reason: columns(session)[f'vcpu_exits_total{{reason="{reason}"}}'][-1] for reason in reasons}


def test_bpf_counts_without_lockdown_and_without_debugfs(lives: Lives) -> None:
    assert "[none] integrity confidentiality" in lives.shown
    assert "/sys/kernel/debug/kvm: No such file or directory" in lives.shown
    assert "watching; exits are counted by bpf" in lives.output
    assert "needs" not in lives.output  # nothing was refused


def test_the_exits_equal_those_of_rondo_vmm(lives: Lives) -> None:
    own, seen = exits(lives.own), exits(lives.rondo_vmm)
    for reason in ("io", "mmio", "shutdown", "other"):
        assert seen[reason] == own[reason], reason
    assert own["io"] > 0
    assert own["mmio"] > 0
    assert_halts(seen["hlt"], own["hlt"])


def test_the_exits_equal_kvms_counts_of_qemu(lives: Lives) -> None:
    seen = exits(lives.qemu)
    assert seen["io"] == lives.kvm["io_exits"] > 0
    assert seen["mmio"] == lives.kvm["mmio_exits"] > 0
    assert_halts(seen["hlt"], lives.kvm["halt_exits"])


def assert_halts(seen: float, halt_exits: float) -> None:
    """A HLT with a pending interrupt is one of `halt_exits`, but has no sleep and no wakeup.

    Their number depends on the guest's delays. A sleep interrupted by a signal counts twice.
    """
    print(f"hlt {seen:.0f}, halt_exits {halt_exits:.0f}")
    assert halt_exits > 0
    assert 0.5 * halt_exits <= seen <= 1.1 * halt_exits + 5


def test_cpu_and_steal_of_the_vcpus_exist(lives: Lives) -> None:
    for session in (lives.rondo_vmm, lives.qemu):
        for name in ("vcpu_cpu_seconds_total", "vcpu_wait_seconds_total", "vmm_cpu_seconds_total"):
            values = [value for value in columns(session)[name] if not math.isnan(value)]
            assert values[-1] > 0, name  # the laboratory has one processor
            assert (np.diff(values) >= 0).all(), name
    # Nothing is known about the last partial second.
    own, seen = columns(lives.own), columns(lives.rondo_vmm)
    assert seen["vcpu_cpu_seconds_total"][-1] <= own["vcpu_cpu_seconds_total"][-1]


def test_each_end_has_the_reason_that_its_sources_know(lives: Lives) -> None:
    """QMP reports the power-off; Linux before 6.15 gives no exit status of other processes."""
    reasons = [session.end and session.end.reason for session in (lives.own, lives.rondo_vmm, lives.qemu)]
    assert reasons == ["poweroff", "gone", "poweroff"]


def test_qmp_adds_block_metrics(lives: Lives) -> None:
    found = columns(lives.qemu)
    for series in ('blk_requests_total{op="read"}', 'blk_bytes_total{direction="write"}'):
        assert found[series][-1] > 0
    assert found['blk_bytes_total{direction="write"}'][-1] % 512 == 0
    assert not any(name.startswith("blk_") for name in columns(lives.rondo_vmm))  # not even as zero
