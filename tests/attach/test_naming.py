"""Names of VMs from command lines and cgroups, also hostile ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rondo_tools.attach.choose import Choice, parse_condition
from rondo_tools.attach.naming import Identity, Template, bounded, fields, identify
from rondo_tools.catalog import SERIES
from rondo_tools.errors import UsageError
from rondo_tools.stream import MAX_TEXT, Header, encode

MACHINE = b"0::/machine.slice/machine-qemu\\x2d3\\x2dweb.scope\n"
SESSION = b"1:name=systemd:/user.slice/session-3.scope\n4:memory:/x\n"


def identity(*arguments: str, cgroups: bytes = b"", comm: str = "") -> Identity:
    return identify(7, b"".join(one.encode() + b"\0" for one in arguments), cgroups, comm)


@pytest.mark.parametrize(
    ("arguments", "cgroups", "name", "name_from", "vmm"),
    [
        (("/usr/bin/qemu-system-x86_64", "-name", "guest=web-1,x=on"), b"", "web-1", "-name", "qemu"),
        (("qemu-kvm", "-m", "1G", "-name", "web-1,process=x"), MACHINE, "web-1", "-name", "qemu"),
        (("qemu-system-aarch64", "-name", "a,,b"), b"", "a,b", "-name", "qemu"),
        (("qemu-system-x86_64", "-name", "debug-threads=on"), b"", "pid-7", "process id", "qemu"),
        (("qemu-system-x86_64", "-m", "1G"), MACHINE, "qemu-3-web", "cgroup", "qemu"),
        (("qemu-system-x86_64", "-m", "1G"), SESSION, "pid-7", "process id", "qemu"),
        (("/firecracker", "--id", "fc-9", "--api-sock", "x"), b"", "fc-9", "--id", "firecracker"),
        (("firecracker-v1.7.0-x86_64", "--id=fc-9"), b"", "fc-9", "--id", "firecracker"),
        (("cloud-hypervisor", "--kernel", "--id"), b"", "pid-7", "process id", "cloud-hypervisor"),
        (("crosvm", "run", "--name", "c"), b"", "c", "--name", "crosvm"),
        (("/x/msb", "machine", "--name", "s1"), b"", "s1", "--name", "libkrun"),
        (("python3", "-u", "bin/rondo-vmm", "--instance", "r"), b"", "r", "--instance", "rondo-vmm"),
        (("python3", "bin/rondo-vmm", "--name", "no"), b"", "pid-7", "process id", "rondo-vmm"),
        (("my-vmm", "--id", "x"), b"", "pid-7", "process id", "my-vmm"),
        (("qemu-system-x86_64", "-name"), b"", "pid-7", "process id", "qemu"),
        ((), b"", "pid-7", "process id", "unknown"),
    ],
)  # fmt: skip
def test_names(arguments: tuple[str, ...], cgroups: bytes, name: str, name_from: str, vmm: str) -> None:
    found = identity(*arguments, cgroups=cgroups)
    assert (found.name, found.name_from, found.vmm) == (name, name_from, vmm)


def test_a_process_without_a_command_line_has_its_comm() -> None:
    assert identity(comm="qemu-system-x86_64").vmm == "qemu"


@pytest.mark.parametrize(
    "hostile",
    ["a\nb", "\x1b[2J", "\u202egnp", "x" * 1_000_000, "é" * 1000, "🎉" * 1000, '"}', " ", "\\"],
)
def test_a_hostile_name_is_one_printable_line_of_bounded_length(hostile: str) -> None:
    found = identity("qemu-system-x86_64", "-name", f"guest={hostile}")
    assert found.name.isprintable()
    assert 0 < len(found.name.encode()) <= MAX_TEXT


@given(st.binary(max_size=400), st.binary(max_size=100), st.text(max_size=20))
def test_any_command_line_gives_a_valid_header(command_line: bytes, cgroups: bytes, comm: str) -> None:
    for prefix in (b"", b"qemu-kvm\0-name\0", b"firecracker\0--id\0"):
        found = identify(7, prefix + command_line, cgroups, comm)
        encode(Header(found.name, 1, (("vmm", found.vmm),), 1000, SERIES))


def test_a_bounded_name_keeps_its_end() -> None:
    assert bounded("é" * 1000, "-7").endswith("é-7")
    assert len(bounded("é" * 1000, "-7").encode()) <= MAX_TEXT


def test_a_template() -> None:
    values = {"name": "web", "pid": "7", "vmm": "qemu", "uuid": "", "cgroup": "", "host": "h"}
    assert Template("{host}/{name}").fill(values) == "h/web"
    assert Template("{uuid}").fill(values) == ""
    assert Template("{{{pid}}}").fill(values) == "{7}"


@pytest.mark.parametrize(
    "text", ["{id}", "{", "{name!r}", "{name:>1000000000}", "fixed", "", "{}", "{name.real}"]
)
def test_an_invalid_template_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Template(text)


QEMU = Identity("ci-1", "-name", "qemu")
RONDO = Identity("ci-2", "--instance", "rondo-vmm")


@pytest.mark.parametrize(
    ("match", "ignore", "wanted"),
    [
        ((), (), (True, False)),
        (("vmm=rondo-vmm",), (), (False, True)),
        (("vmm=*",), (), (True, True)),
        (("name=ci-*",), (), (True, False)),
        (("name=web-*",), (), (False, False)),
        (("name=web-*", "vmm=qemu"), (), (True, False)),
        ((), ("name=ci-1",), (False, False)),
        (("vmm=*",), ("name=ci-2",), (True, False)),
    ],
)
def test_choice(match: tuple[str, ...], ignore: tuple[str, ...], wanted: tuple[bool, bool]) -> None:
    choice = Choice([*map(parse_condition, match)], [*map(parse_condition, ignore)])
    assert (choice.wants(QEMU), choice.wants(RONDO)) == wanted


@pytest.mark.parametrize("text", ["ci-*", "id=x", "name=", ""])
def test_an_invalid_condition_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_condition(text)


ID = "9f2c" * 16
POD = "kubepods-besteffort-pod8b1c2f8e_0a52_4c56_b2f7_8f3f6e2c1b77.slice"
KATA_QEMU = (
    "/opt/kata/bin/qemu-system-x86_64",
    *("-name", f"sandbox-{ID},debug-threads=on"),
    *("-qmp", f"unix:/run/vc/vm/{ID}/qmp.sock,server=on,wait=off"),
)
KATA_CLH = ("/opt/kata/bin/cloud-hypervisor", "--api-socket", f"/run/vc/vm/{ID}/clh-api.sock")
KUBEVIRT = ("/usr/libexec/qemu-kvm", "-name", "guest=default_vm,debug-threads=on")


@pytest.mark.parametrize("arguments", [KATA_QEMU, KATA_CLH, ("firecracker",)], ids=["qemu", "clh", "other"])
@pytest.mark.parametrize(
    "cgroups",
    [
        # Go runtime, cgroupfs: cgroup 2, cgroup 1, without a path from the container engine.
        f"0::/kubepods/besteffort/pod8b1c2f8e-0a52-4c56-b2f7-8f3f6e2c1b77/kata_{ID}",
        f"12:cpuset:/\n5:memory:/kubepods/burstable/pod8b1c/kata_{ID}\n1:name=systemd:/system.slice/x.service",
        f"4:memory:/vc/kata_{ID}",
        # Up to 2.2 with sandbox_cgroup_only=false; up to 2.2 and in 2.3 where the engine uses systemd.
        f"4:memory:/kata/kubepods/burstable/pod8b1c/kata_{ID}",
        f"4:memory:/vc/kata_{POD}:cri-containerd:{ID}",
        f"0::/kata_{POD}:cri-containerd:{ID}",
        # sandbox_cgroup_only=false: from 2.3, and runtime-rs 3.0; runtime-rs from 3.20 under systemd.
        f"0::/kata_overhead/{ID}",
        f"11:cpu,cpuacct:/kata_overhead/{ID}\n1:name=systemd:/kata_overhead/{ID}\n0::/",
        f"0::/kata.slice/kata-overhead.slice/runtime-rs-{ID}.scope",
        # runtime-rs, without a path from the engine.
        f"0::/kata_sandboxed_pod/{ID}",
        f"0::/../../kata_overhead/{ID}",  # as seen from another cgroup namespace
    ],
)
def test_a_cgroup_of_kata_names_the_sandbox(cgroups: str, arguments: tuple[str, ...]) -> None:
    found = identity(*arguments, cgroups=f"{cgroups}\n".encode())
    assert found.sandbox_id == ID
    assert Template("{sandbox_id}").fill(fields(found, 7)) == ID


@pytest.mark.parametrize(
    "cgroups",
    [
        # From 2.4 under systemd, with containerd and CRI-O; 2.2 with CRI-O; runtime-rs with cgroupfs.
        f"0::/kubepods.slice/kubepods-besteffort.slice/{POD}/cri-containerd-{ID}.scope",
        f"0::/kubepods.slice/{POD}/crio-{ID}.scope",
        f"4:memory:/{POD}:crio:{ID}",
        f"7:memory:/kubepods/besteffort/pod8b1c/{ID}",
    ],
)
def test_in_a_containers_cgroup_the_vmm_must_name_the_sandbox(cgroups: str) -> None:
    for arguments in (KATA_QEMU, KATA_CLH):
        assert identity(*arguments, cgroups=cgroups.encode()).sandbox_id == ID
    assert identity(*KUBEVIRT, cgroups=cgroups.encode()).sandbox_id == ""


@pytest.mark.parametrize(
    "cgroups",
    [
        b"",
        b"0::/",
        b"0::",
        b"\n:\n",
        b"9:memory:/kata\n",
        MACHINE,
        SESSION,
        b"0::/kata-x/y.scope",
        b"0::/kata_",
    ],
)
def test_no_other_cgroup_names_a_sandbox(cgroups: bytes) -> None:
    assert identity(*KATA_QEMU, cgroups=cgroups).sandbox_id == ""
