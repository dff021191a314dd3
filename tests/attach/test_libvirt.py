"""A real libvirtd with KVM domains: a hanging domain, and a libvirtd that is killed or stopped."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from rondo_tools.catalog import NET
from tests.support.attach.attach_host import (
    ATTACH,
    NOBODY_WITH_BPF,
    ROOT_WITHOUT_BPF,
    Got,
    Receiver,
    small_guest,
    watching,
)
from tests.support.attach.libvirt_host import BLOCK, PANIC, Domain, Libvirt, real_libvirtd
from tests.support.needs import PATIENCE_S, must_have

DURATION = "blk_request_duration_ns"
NETWORK = tuple(map(str, NET))
CPU, WAIT = "vcpu_cpu_seconds_total", "vcpu_wait_seconds_total"


@pytest.fixture(scope="module")
def libvirt() -> Iterator[Libvirt]:
    with real_libvirtd() as running:
        yield running


def flags(receiver: Receiver, libvirt: Libvirt) -> tuple[str, ...]:
    wanted = ("--match", "name=lv-*")
    return ("--output", receiver.address, *wanted, "--interval", "200ms", "--libvirt", libvirt.uri)


def has_used_its_disk(got: Got) -> bool:
    return got.last().get('blk_requests_total{op="flush"}') == 1


def requests(row: dict[str, float]) -> float:
    return sum(value for series, value in row.items() if series.startswith("blk_requests_total"))


def test_a_disk_labels_and_the_end_of_a_domain(receiver: Receiver, libvirt: Libvirt) -> None:
    """Run by nobody, who may connect to this libvirtd, like the unit's user to a read-only socket."""
    watched = watching(*flags(receiver, libvirt), wrapper=NOBODY_WITH_BPF, environment=libvirt.environment)
    with watched, libvirt.domain("lv-web", "--paused", nova_name="a web\u202e server") as domain:
        before = receiver.wait_for("lv-web", lambda got: 'blk_requests_total{op="read"}' in got.last())
        libvirt.virsh("resume", "lv-web")
        receiver.wait_for("lv-web", has_used_its_disk)
        stats = domain.stats()
        domain.go_on()
        (session,) = receiver.wait("lv-web", ended=1)
    assert session.end is not None
    assert session.end.reason == "poweroff"
    assert session.last() | BLOCK == session.last()
    assert [stats[f"block.0.{one}"] for one in ("rd.reqs", "wr.bytes")] == [5, 7 * 512]
    spent_ns = sum(
        row[DURATION] * (requests(row) - requests(last))
        for last, row in itertools.pairwise(session.rows)
        if requests(row) > requests(last)
    )
    assert round(spent_ns) == sum(stats[f"block.0.{one}.times"] for one in ("rd", "wr", "fl"))
    assert session.labels == {"vmm": "qemu", "uuid": domain.uuid, "nova_name": "a web\\u202e server"}
    assert before.header.start_ms == session.header.start_ms
    assert session.exits()["io"] > 0


def test_libvirt_gives_vcpu_times_without_bpf(receiver: Receiver, libvirt: Libvirt) -> None:
    watched = watching(*flags(receiver, libvirt), wrapper=ROOT_WITHOUT_BPF, environment=libvirt.environment)
    with watched, libvirt.domain("lv-timed") as domain:
        receiver.wait_for("lv-timed", has_used_its_disk)
        # Its vCPU is almost idle now: QEMU runs it only to read its statistics.
        libvirt.virsh("suspend", "lv-timed")
        before = times(domain)
        session = receiver.wait_for("lv-timed", lambda got: (got.last()[CPU], got.last()[WAIT]) >= before)
        after = times(domain)
    assert before[0] <= session.last()[CPU] <= after[0]
    assert before[1] <= session.last()[WAIT] <= after[1]
    assert before[1] > 0


def times(domain: Domain) -> tuple[float, float]:
    """CPU time and wait of its vCPU, in seconds."""
    stats = domain.stats()
    return stats["vcpu.0.time"] / 1e9, stats["vcpu.0.delay"] / 1e9


def test_the_network_as_the_guest_sees_it(receiver: Receiver, libvirt: Libvirt) -> None:
    if not Path("/dev/net/tun").exists():
        must_have("/dev/net/tun is not there")
    watched = watching(*flags(receiver, libvirt), environment=libvirt.environment)
    with watched, libvirt.domain("lv-net", has_tap=True) as domain:
        receiver.wait_for("lv-net", lambda got: NETWORK[0] in got.last())
        libvirt.send(frames=20)
        receiver.wait_for("lv-net", lambda got: got.last()[NETWORK[2]] >= 20)
        libvirt.virsh("suspend", "lv-net")  # so it receives no frames of the kernel on the new device
        stats = domain.stats()
        counted = [float(stats[f"net.0.{one}"]) for one in ("rx.bytes", "tx.bytes", "rx.pkts", "tx.pkts")]
        receiver.wait_for("lv-net", lambda got: [got.last()[one] for one in NETWORK] == counted)
    assert counted[1] == counted[3] == 0
    assert counted[0] >= 20 * 60


def test_a_hanging_qemu_delays_no_other_vm(receiver: Receiver, libvirt: Libvirt) -> None:
    """The waiting call is overtaken; NOWAIT leaves out the hanging domain."""
    watched = watching(*flags(receiver, libvirt), environment=libvirt.environment)
    with watched, libvirt.domain("lv-hung") as hung, libvirt.domain("lv-well", "--paused"):
        receiver.wait_for("lv-hung", has_used_its_disk)
        hung.signal(signal.SIGSTOP)
        ticks = len(receiver.of("lv-hung")[-1].ticks)
        receiver.wait("lv-hung", ticks=ticks + 5)  # a call waits for it by then
        libvirt.virsh("resume", "lv-well")
        receiver.wait_for("lv-well", has_used_its_disk)
        (session,) = receiver.of("lv-hung")
        assert session.last() | BLOCK == session.last()  # counters repeat their last value
        assert math.isnan(session.last()[DURATION])
        hung.signal(signal.SIGCONT)
        hung.go_on()
        (session,) = receiver.wait("lv-hung", ended=1)
    assert session.last() | BLOCK == session.last()
    assert session.end is not None
    assert session.end.reason == "poweroff"


def test_a_restarted_libvirtd_is_used_again(receiver: Receiver, libvirt: Libvirt) -> None:
    watched = watching(*flags(receiver, libvirt), environment=libvirt.environment)
    with watched as watcher, libvirt.domain("lv-stays", "--paused") as domain:
        receiver.wait_for("lv-stays", lambda got: 'blk_requests_total{op="read"}' in got.last())
        libvirt.stop()
        watcher.wait_for("trying again and again")
        ticks = len(receiver.of("lv-stays")[-1].ticks)
        receiver.wait("lv-stays", ticks=ticks + 5)
        libvirt.start()
        watcher.wait_for("answers again")
        libvirt.virsh("resume", "lv-stays")
        receiver.wait_for("lv-stays", has_used_its_disk)
        domain.go_on()
        (session,) = receiver.wait("lv-stays", ended=1)
    assert session.end is not None
    assert session.end.reason == "poweroff"  # by an event over the new connection


def test_a_hanging_libvirtd_delays_neither_ticks_nor_the_end(receiver: Receiver, libvirt: Libvirt) -> None:
    watched = watching(*flags(receiver, libvirt), environment=libvirt.environment)
    with watched as watcher, libvirt.domain("lv-on", "--paused"):
        receiver.wait_for("lv-on", lambda got: 'blk_requests_total{op="read"}' in got.last())
        libvirt.signal(signal.SIGSTOP)
        try:
            watcher.wait_for("it does not answer")
            with small_guest("-uuid", uuid := str(uuid4()), "-name", "lv-new") as guest:
                guest.do("make", "run 7")
                session = receiver.wait("lv-new", ticks=1)[0]  # without labels from libvirt
                assert session.labels["uuid"] == uuid
            assert watcher.stop() == 0
        finally:
            libvirt.signal(signal.SIGCONT)


@pytest.mark.parametrize(
    ("code", "on_reboot", "reason"),
    [
        pytest.param(PANIC, "restart", "shutdown", id="a panic"),
        pytest.param(
            b"\x66\xba\x64\x00\xb0\xfe\xee", "destroy", "gone", id="a reset that libvirt calls a shutdown"
        ),
    ],
)
def test_how_a_domain_ends(
    code: bytes, on_reboot: str, reason: str, receiver: Receiver, libvirt: Libvirt
) -> None:
    name = f"lv-ends-{reason}"
    watched = watching(*flags(receiver, libvirt), environment=libvirt.environment)
    with watched, libvirt.domain(name, "--paused", code=code, on_reboot=on_reboot):
        receiver.wait_for(name, lambda got: 'blk_requests_total{op="read"}' in got.last())
        libvirt.virsh("resume", name)
        (session,) = receiver.wait(name, ended=1)
    assert session.end is not None
    assert session.end.reason == reason


def listed(
    libvirt: Libvirt, *wrapper: str, **environment: str
) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """The output of `rondo-attach list --libvirt`: the adapters of each VM, and the refusals."""
    command = [*wrapper, *ATTACH, "list", "--format", "json", "--libvirt", libvirt.uri]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**libvirt.environment, **environment},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    vms = {one["name"]: one["adapters"] for one in found["vms"]}
    return vms, {one["source"]: one for one in found["refused"]}


def test_list_shows_the_libvirt_adapter_and_refusals(libvirt: Libvirt, tmp_path: Path) -> None:
    other = ["-uuid", str(uuid4())]
    with (
        libvirt.domain("lv-listed"),
        small_guest("-name", "lv-bare") as bare,
        small_guest(*other, "-name", "lv-own") as own,
    ):
        bare.do("make")
        own.do("make")
        vms, refused = listed(libvirt)
        assert (vms["lv-listed"], vms["lv-bare"], vms["lv-own"]) == ("libvirt", "", "")
        assert "lv-listed, libvirt" not in refused
        assert "has no UUID" in refused["lv-bare, libvirt"]["why"]
        assert refused["lv-own, libvirt"]["why"] == "libvirt does not know it"

        capabilities = "+sys_ptrace,+dac_read_search"
        stranger = (
            *("setpriv", "--reuid=65533", "--regid=65533", "--clear-groups"),
            *(f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}"),
        )
        refused = listed(libvirt, *stranger)[1]
        assert "Permission denied" in refused["lv-listed, libvirt"]["why"]
        assert "docs/attach.md" in refused["lv-listed, libvirt"]["needs"]

        (tmp_path / "libvirt.py").write_text("raise ImportError('none here')")
        without = {"PYTHONPATH": str(tmp_path)}
        vms, refused = listed(libvirt, **without)
        assert vms["lv-listed"] == ""
        assert "python3-libvirt" in refused["libvirt"]["needs"]
        done = subprocess.run(
            [*ATTACH, "--text", "--libvirt"],
            env={**os.environ, **without},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 69
        assert "python3-libvirt" in done.stderr
