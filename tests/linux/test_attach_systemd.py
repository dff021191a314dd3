"""rondo-attach.service under a systemd that runs: confined, restarted, killed, stopped, shut down."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from devtools import lab
from rondo_tools.store.reader import Session
from tests.support.linux.systemd_boot import ROOT, Booted, boot

Run = Callable[..., lab.Result]

# The first line replaces udev. Guests are stopped after the watcher.
INSIDE = """
chgrp kvm /dev/kvm; chmod 660 /dev/kvm
echo "RONDO_ATTACH_OPTIONS=--verbose" >/etc/rondo/attach.env
mkdir /etc/systemd/system/rondo-attach.service.d
printf '[Unit]\\nAfter=inside.service\\n' >/etc/systemd/system/rondo-attach.service.d/order.conf
systemctl daemon-reload
PYTHONPATH=/rondo exec python3 /in/attach_operator.py
"""


@pytest.fixture(scope="module")
def booted(in_lab: Run, tmp_path_factory: pytest.TempPathFactory) -> Booted:
    files = {
        "attach_operator.py": (ROOT / "tests" / "support" / "linux" / "attach_operator.py").read_bytes(),
        "qemu-kvm": (ROOT / "tests" / "support" / "attach" / "small_guest.py").read_bytes(),
    }
    return boot(in_lab, tmp_path_factory.mktemp("attach"), INSIDE, files)


def port_exits(session: Session) -> float:
    """The last value of the counter."""
    names = [str(series) for series in session.header.series]
    return float(session.rows().values[-1, names.index('vcpu_exits_total{reason="io"}')])


def test_the_service_has_exactly_two_capabilities(booted: Booted) -> None:
    confined = re.search(r"^confined Uid: (\d+) (.*)$", booted.output, re.MULTILINE)
    assert confined, booted.output
    assert confined[1] != "0"
    two = f"{(1 << 38) + (1 << 39):016x}"  # CAP_PERFMON, CAP_BPF
    assert confined[2].endswith(f"CapEff: {two} CapBnd: {two} NoNewPrivs: 1 Seccomp: 2")
    assert "exits are counted by bpf" in booted.journal


def test_a_restart_and_a_kill_lose_no_exit_and_no_session(booted: Booted) -> None:
    """`of` fails for an instance with a second session."""
    exits = {"on": 41_005, "ends": 1030, "born": 780}
    for name, made in exits.items():
        session = booted.of(name)
        assert port_exits(session) == made, name
        assert "attached" not in dict(session.header.labels), name
        assert session.end is not None
        assert session.end.reason == "gone"
    assert booted.journal.count(": on continues") == 2
    assert "ends ended between two watchers" in booted.journal


def test_every_tick_is_stored(booted: Booted) -> None:
    """By the watcher's own count, for a VM that one watcher saw until its end."""
    taken = re.search(r"born ends: gone, (\d+) ticks", booted.journal)
    assert taken, booted.journal
    assert len(booted.of("born").rows().t_ms) == int(taken[1])


def test_a_stop_frees_the_programs(booted: Booted) -> None:
    before, after = "2 programs, 4 descriptors kept", "0 programs, 0 descriptors kept"
    for line in ("before: 2 programs", f"restarted: {before}", f"killed: {before}", f"stopped: {after}"):
        assert line in booted.output.splitlines()
    assert "folder False" in booted.output.splitlines()


def test_a_shutdown_under_a_vm_delivers_its_ticks(booted: Booted) -> None:
    """A VM that outlives its watcher has no end. The service fails if a tick is left undelivered."""
    late = booted.of("late")
    assert late.end is None
    assert dict(late.header.labels)["attached"] == "late"
    assert len(late.rows().t_ms) > 0
    failures = re.findall(r"rondo-attach\.service: Failed with result '([\w-]+)'", booted.journal)
    assert failures == ["signal"]  # the kill
    stopped = booted.journal.count("rondo-attach.service: Deactivated successfully.")
    assert stopped == 3  # restart, stop, shutdown
