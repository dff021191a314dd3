"""Bytes and packets of tap devices: real ones, in network namespaces of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess

import pytest

from rondo_tools.attach.sources import taps
from tests.support.attach.attach_host import (
    ATTACH,
    NOBODY,
    NOBODY_WITH_BPF,
    ROOT,
    Got,
    Receiver,
    needs_kvm_and_bpf,
    own,
    small_guest,
    watching,
)
from tests.support.needs import PATIENCE_S, must_have

SENT, GOT = 'net_packets_total{direction="transmit"}', 'net_packets_total{direction="receive"}'
BYTES_SENT, BYTES_GOT = 'net_bytes_total{direction="transmit"}', 'net_bytes_total{direction="receive"}'


@pytest.fixture(autouse=True)
def _tun() -> None:
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        must_have("/dev/net/tun does not open")


def test_taps_of_the_same_name_in_two_namespaces(receiver: Receiver) -> None:
    with (
        watching("--output", receiver.address, "--interval", "200ms", "--taps"),
        small_guest(name="talks") as talks,
        small_guest(name="listens") as listens,
    ):
        for guest in (talks, listens):
            guest.do("tap tap0", "send 3", "make", "run 1")
        for name in ("talks", "listens"):
            receiver.wait_for(name, lambda got: SENT in got.last())
        talks.do("send 4")
        listens.do("get 5")

        first = receiver.wait_for("talks", lambda got: packets(got) == (4, 0))
        second = receiver.wait_for("listens", lambda got: packets(got) == (0, 5))
    assert (first.last()[BYTES_SENT], first.last()[BYTES_GOT]) == (400, 0)
    assert (second.last()[BYTES_SENT], second.last()[BYTES_GOT]) == (0, 300)


def packets(got: Got) -> tuple[float, float]:
    return got.last()[SENT], got.last()[GOT]


def test_list_names_the_missing_capability() -> None:
    needs_kvm_and_bpf()

    def look(name: str, *wrapper: str) -> tuple[str, dict[str, dict[str, str]]]:
        command = [*wrapper, *ATTACH, "list", "--format", "json", "--taps"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        (adapters,) = [vm["adapters"] for vm in found["vms"] if vm["name"] == own(name)]
        return adapters, {one["source"]: one for one in found["refused"]}

    with small_guest(name="tapped") as tapped, small_guest(name="tapless") as tapless:
        tapped.do("tap tap0", "make")
        tapless.do("make")
        assert look("tapped")[0] == "taps"
        adapters, refused = look("tapless")
        assert adapters == ""
        assert refused[own("tapless, taps")]["why"] == "the VMM has no tap device open"


def test_without_the_capability_there_is_a_warning(receiver: Receiver) -> None:
    flags = ("--output", receiver.address, "--taps")
    with watching(*flags, wrapper=NOBODY_WITH_BPF) as watcher, small_guest(name="closed") as guest:
        guest.do("make", "run 1")
        needs = "(needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH)"
        watcher.wait_for(own(f"closed: no taps: its descriptors may not be read {needs}"))
        session = receiver.wait_for("closed", lambda got: len(got.ticks) > 1)
    assert SENT not in session.last()


def test_with_the_capabilities_it_sees_another_users_taps(receiver: Receiver) -> None:
    drop_in = (ROOT / "deploy/systemd/ptrace.conf").read_text()
    (given,) = re.findall(r"^AmbientCapabilities=(.*)$", drop_in, re.MULTILINE)
    names = ["bpf", "perfmon", *(one.removeprefix("CAP_").lower() for one in given.split())]
    capabilities = ",".join(f"+{name}" for name in names)
    wrapper = [*NOBODY, f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}"]
    flags = ("--output", receiver.address, "--interval", "200ms", "--taps")
    with watching(*flags, wrapper=wrapper), small_guest(name="roots") as guest:
        guest.do("tap tap0", "make", "run 1")
        receiver.wait_for("roots", lambda got: SENT in got.last())


def test_a_table_with_hostile_names() -> None:
    lines = ["Inter-| Receive", " face |bytes", "    lo: 1 2 0 0 0 0 0 0 3 4 0 0 0 0 0 0"]
    lines += [" a:b:c: 10 20 0 0 0 0 0 0 30 40 0 0 0 0 0 0", "  cut: 10"]
    assert taps.parse("\n".join(lines)) == {"lo": [3, 1, 4, 2], "a:b:c": [30, 10, 40, 20]}
    assert taps.parse("") == {}
