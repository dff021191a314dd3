"""The units of deploy/systemd: checked by systemd's own programs, and their lines run with real VMs.

Hardening that breaks a program shows only under a running systemd: tests/linux/test_systemd_boot.py.
"""

from __future__ import annotations

import inspect
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from devtools.http_server import http_server
from devtools.programs import root_of
from devtools.receivers.prometheus import Prometheus
from rondo_tools.attach.cli import rondo_attach
from rondo_tools.feed.cli import rondo_feed
from rondo_tools.push.cli import push
from rondo_tools.push.delivery import STOP_WITHIN_S
from rondo_tools.store.reader import Session, Store
from rondo_tools.vmm.cli import rondo_vmm
from tests.support.deploy.unit_file import Unit, environment
from tests.support.fixtures import Run
from tests.support.needs import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "deploy" / "systemd"
BIN = Path(sys.executable).parent
SERVICES = (
    *("rondo-store.service", "rondo-push.service", "rondo-push-once.service", "rondo-vmm@.service"),
    *("rondo-attach.service", "rondo-feed@.service", "rondo-serve.service"),
)
UNITS = (*SERVICES, "rondo-store.socket", "rondo-serve.socket", "rondo-push-once.timer")
CONFIG = ("store.env", "push.env", "attach.env", "serve.env", "vmm/demo.conf", "feed/node.conf")

Program = Callable[[str], Path]


def make(target: str, *variables: str) -> subprocess.CompletedProcess[str]:
    # Independent of man pages in this checkout: see tests/test_wheel.py.
    command = ["make", "--no-print-directory", target, "SHARE=/nowhere", *variables]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of `make install-systemd`, with the commands of this checkout in the units."""
    tree = tmp_path_factory.mktemp("installed")
    made = make("install-systemd", f"DESTDIR={tree}", f"BINDIR={BIN}")
    assert made.returncode == 0, made.stderr
    assert made.stderr == ""
    return tree


def units(tree: Path) -> Path:
    return tree / "usr/local/lib/systemd/system"


def output_of(command: list[str | Path], **variables: str) -> str:
    """The output of a command, which must succeed."""
    process = subprocess.run(
        command,
        env=os.environ | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
    )
    assert process.returncode == 0, process.stdout
    return process.stdout


def test_install_and_uninstall(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    first = make("install-systemd", f"DESTDIR={tree}", "PREFIX=/usr", f"BINDIR={BIN}")
    names = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}
    config = {f"etc/rondo/{name}" for name in CONFIG}
    libraries = {f"usr/lib/systemd/system/{unit}" for unit in UNITS}
    libraries |= {"usr/lib/sysusers.d/rondo.conf", "usr/lib/tmpfiles.d/rondo.conf"}
    assert names == config | libraries
    assert "systemctl enable --now rondo-store.socket" in first.stdout

    # Configuration stays over install and uninstall.
    (tree / "etc/rondo/push.env").write_text("RONDO_REMOTE_WRITE=http://mine/\n")
    again = make("install-systemd", f"DESTDIR={tree}", "PREFIX=/usr", f"BINDIR={BIN}")
    assert "push.env (kept as it is)" in again.stdout
    assert make("uninstall-systemd", f"DESTDIR={tree}", "PREFIX=/usr").returncode == 0
    assert {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()} == config
    assert (tree / "etc/rondo/push.env").read_text() == "RONDO_REMOTE_WRITE=http://mine/\n"

    # Missing commands of units are reported.
    missing = make("install-systemd", f"DESTDIR={tmp_path / 'other'}", "BINDIR=/nowhere")
    assert (missing.returncode, missing.stderr.count("\n")) == (0, 1)
    assert "/nowhere/rondo-store" in missing.stderr


def test_systemd_accepts_the_units(installed: Path, program: Program, tmp_path: Path) -> None:
    analyze = program("systemd-analyze")
    # systemd's own units: this machine's, or those of the fetched program.
    system = [root_of("systemd") / "lib/systemd/system", root_of("systemd") / "usr/lib/systemd/system"]
    path = ":".join(map(str, [units(installed), *system, "/lib/systemd/system"]))
    paths = [units(installed) / name for name in UNITS]
    assert output_of([analyze, "verify", "--man=no", *paths], SYSTEMD_UNIT_PATH=path) == ""

    # With the drop-ins, too.
    drop_ins = tmp_path / "attach"
    attach = units(installed) / "rondo-attach.service"
    for name in ("debugfs.conf", "ptrace.conf"):
        drop_in = drop_ins / "rondo-attach.service.d" / name
        drop_in.parent.mkdir(parents=True, exist_ok=True)
        drop_in.write_text((SOURCE / name).read_text())
    assert output_of([analyze, "verify", "--man=no", attach], SYSTEMD_UNIT_PATH=f"{drop_ins}:{path}") == ""
    drop_in = tmp_path / "rondo-push.service.d" / "token.conf"
    drop_in.parent.mkdir()
    drop_in.write_text((SOURCE / "token.conf").read_text())
    push = units(installed) / "rondo-push.service"
    assert output_of([analyze, "verify", "--man=no", push], SYSTEMD_UNIT_PATH=f"{tmp_path}:{path}") == ""

    # The check works: a wrong line is reported.
    drop_in.write_text("[Service]\nLoadCredentials=token\n")
    found = output_of([analyze, "verify", "--man=no", push], SYSTEMD_UNIT_PATH=f"{tmp_path}:{path}")
    assert "Unknown key" in found


@pytest.mark.parametrize("name", SERVICES)
def test_exposure_is_at_most_as_documented(installed: Path, program: Program, name: str) -> None:
    report = output_of([program("systemd-analyze"), "security", "--offline=true", units(installed) / name])
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", report)
    assert found, report
    table = (ROOT / "deploy" / "README.md").read_text()
    documented = re.search(rf"\| `{re.escape(name)}` \|[^|]*\| ([\d.]+) \|", table)
    assert documented, f"deploy/README.md does not say the exposure of {name}"
    assert float(found[1]) <= float(documented[1])


def test_the_users_and_folders(installed: Path, program: Program) -> None:
    users = output_of([program("systemd-sysusers"), "--dry-run", f"--root={installed}"])
    for line in (
        "user 'rondo'",
        "user 'rondo-attach'",
        "user 'rondo-serve'",
        "group 'rondo-vmm'",
        "group 'kvm'",
    ):
        assert f"Creating {line}" in users
    # The units' users are created, and the line for tmpfiles has no other.
    store, vmm = Unit(SOURCE / "rondo-store.service"), Unit(SOURCE / "rondo-vmm@.service")
    listening = Unit(SOURCE / "rondo-store.socket")
    assert store.one("Service", "User") == listening.one("Socket", "SocketUser") == "rondo"
    assert listening.one("Socket", "SocketGroup") in vmm.one("Service", "SupplementaryGroups").split()
    if os.geteuid() == 0:
        tree = installed
        output_of([program("systemd-sysusers"), f"--root={tree}"])
        output_of([program("systemd-tmpfiles"), "--create", f"--root={tree}", "rondo.conf"])
        (line,) = [
            line for line in (tree / "etc/passwd").read_text().splitlines() if line.startswith("rondo:")
        ]
        uid = int(line.split(":")[2])
        # Needed without systemd: a store gives its own socket to the VMs' group.
        groups = (tree / "etc/group").read_text().splitlines()
        members = next(line for line in groups if line.startswith("rondo-vmm:")).split(":")[3].split(",")
        assert {"rondo", "rondo-attach"} <= set(members)
        for folder, mode in (("run/rondo", 0o755), ("var/lib/rondo", 0o750)):
            status = (tree / folder).stat()
            assert (status.st_uid, status.st_mode & 0o7777) == (uid, mode), folder


class Host:
    """A host in a folder: the units' lines with paths in that folder, and the commands of this checkout."""

    def __init__(self, tree: Path, folder: Path) -> None:
        self._units = units(tree)
        self._places = {"/var/lib/rondo": folder / "lib", "/run/rondo": folder, "/etc/rondo": folder / "etc"}
        self.store = folder / "lib" / "vmm_metrics"
        self.socket = folder / "store.sock"
        self.etc = folder / "etc"
        (folder / "lib").mkdir()
        for name in ("vmm", "feed"):
            (self.etc / name).mkdir(parents=True)
        for name in CONFIG:
            (self.etc / name).write_text((tree / "etc/rondo" / name).read_text())

    def unit(self, name: str) -> Unit:
        """The unit, with this host's paths."""
        text = (self._units / name).read_text()
        for place, here in self._places.items():
            text = text.replace(place, str(here))
        path = self.etc / name
        path.write_text(text)
        return Unit(path)

    def command(self, name: str, instance: str = "") -> list[str]:
        return self.unit(name).command({"i": instance, "H": "this-host"})

    @contextmanager
    def serving(self, program: Program) -> Iterator[socket.socket]:
        """rondo-store by its unit, with its unit's socket; yields the socket of its service manager."""
        listening = self.unit("rondo-store.socket").one("Socket", "ListenStream")
        activate: list[str | Path] = [program("systemd-socket-activate"), "-l", listening]
        notify_path = str(self.etc / "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.settimeout(PATIENCE_S)
            manager.bind(notify_path)
            process = subprocess.Popen(
                [*activate, "-E", f"NOTIFY_SOCKET={notify_path}", "--", *self.command("rondo-store.service")],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            assert process.stderr is not None
            try:
                assert b"Listening on" in process.stderr.readline()
                yield manager
                process.send_signal(signal.SIGTERM)
                assert process.wait(PATIENCE_S) == 0, process.stderr.read()
            finally:
                process.kill()
                process.wait()
                process.stderr.close()


@pytest.fixture
def host(installed: Path, tmp_path: Path) -> Host:
    return Host(installed, tmp_path)


def test_a_vm_a_store_and_a_push_run_by_their_units_lines(
    host: Host, program: Program, prometheus: Prometheus
) -> None:
    demo = host.etc / "vmm" / "demo.conf"
    demo.write_text(demo.read_text().replace("--duration 45s", "--duration 3s"))
    push = host.etc / "push.env"
    push.write_text(push.read_text().replace("http://127.0.0.1:9090/api/v1/write", prometheus.write_url))
    with host.serving(program) as manager:
        vmm = host.command("rondo-vmm@.service", "demo")
        vmm[vmm.index("kvm")] = "auto"  # for machines without KVM
        output_of(list(vmm))
        assert manager.recv(100) == b"READY=1"  # for Type=notify
        assert host.unit("rondo-store.service").one("Service", "Type") == "notify"

        # The VM's end is stored, so one push delivers the whole life, without output.
        once = host.command("rondo-push-once.service")
        assert output_of(list(once)) == ""
    (session,) = [one for one in Store(host.store).sessions() if one.instance == "demo"]
    assert session.end is not None
    found = prometheus.samples('vmm_uptime_seconds{instance="demo"}')
    ((labels, pairs),) = found.items()
    assert dict(labels)["host"] == "this-host"
    assert [t_ms for t_ms, _ in pairs] == session.rows().t_ms.tolist()
    assert len(pairs) >= 3
    assert prometheus.samples('store_ticks_total{instance="rondo-store",host="this-host"}')


def test_a_feed_runs_by_its_units_line(host: Host, program: Program) -> None:
    page = b"# TYPE jobs gauge\njobs 3\n"

    def fed() -> list[Session]:
        found = Store(host.store).sessions() if (host.store / "store.json").exists() else []
        return [one for one in found if one.instance == "node" and one.rows().t_ms.size]

    with (
        http_server(lambda request, body: (200, {}, page), path="") as exporter,
        host.serving(program),
    ):
        config = host.etc / "feed" / "node.conf"
        config.write_text(config.read_text().replace("127.0.0.1:9100", exporter.removeprefix("http://")))
        feed = subprocess.Popen(host.command("rondo-feed@.service", "node"), stdin=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not fed() and time.monotonic() < deadline:
                time.sleep(0.1)
            feed.send_signal(signal.SIGTERM)
            assert feed.wait(PATIENCE_S) == 0
        finally:
            feed.kill()
            feed.wait()
    (session,) = fed()
    assert {"jobs", "up", "scrape_duration_seconds"} == {series.name for series in session.header.series}


def test_the_daemon_delivers_and_at_sigterm_delivers_the_rest(
    host: Host, prometheus: Prometheus, run: Run
) -> None:
    def lived(instance: str) -> None:
        """Store the life of a VM."""
        stream = host.etc / f"{instance}.stream"
        flags = ("--duration", "1s", "--instance", instance, "--output", stream)
        assert run("rondo-vmm", *flags).returncode == 0
        with stream.open("rb") as standard_input:
            assert run("rondo-store", host.store, stdin=standard_input).returncode == 0

    def delivered(instance: str) -> bool:
        return bool(prometheus.samples(f'vmm_uptime_seconds{{instance="{instance}",host="this-host"}}'))

    (host.etc / "push.env").write_text(f"RONDO_REMOTE_WRITE={prometheus.write_url}\n")
    lived("vm-1")
    daemon = subprocess.Popen(host.command("rondo-push.service"), stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not delivered("vm-1") and time.monotonic() < deadline:
            time.sleep(0.1)
        assert delivered("vm-1")
        lived("vm-2")
        daemon.send_signal(signal.SIGTERM)
        assert daemon.communicate(timeout=PATIENCE_S)[1].startswith("rondo-push: ")  # its summary
        assert daemon.returncode == 0
    finally:
        daemon.kill()
        daemon.communicate()
    assert delivered("vm-2")


def test_a_service_has_enough_time_to_stop(host: Host) -> None:
    """Its own time-outs, in docs/remote-write.md and rondo-vmm --help, are below systemd's."""

    def seconds(name: str) -> float:
        return float(host.unit(name).one("Service", "TimeoutStopSec"))

    request_s = inspect.signature(push).parameters["timeout"].default
    linger_s = inspect.signature(rondo_vmm).parameters["linger"].default / 1000
    assert seconds("rondo-push.service") > STOP_WITHIN_S + request_s
    assert seconds("rondo-push-once.service") > STOP_WITHIN_S + request_s
    assert seconds("rondo-vmm@.service") > linger_s
    for name, command in {"rondo-attach.service": rondo_attach, "rondo-feed@.service": rondo_feed}.items():
        assert seconds(name) > inspect.signature(command).parameters["linger"].default / 1000


def test_the_watcher_can_restart_and_has_two_capabilities() -> None:
    unit = Unit(SOURCE / "rondo-attach.service")
    assert unit.one("Service", "Type") == "notify"
    assert unit.one("Service", "FileDescriptorStoreMax") == "4"  # two maps, two links
    assert unit.one("Service", "RuntimeDirectoryPreserve") == "restart"
    for name in ("AmbientCapabilities", "CapabilityBoundingSet"):
        assert unit.one("Service", name) == "CAP_BPF CAP_PERFMON"
    vmm = Unit(SOURCE / "rondo-vmm@.service")
    assert unit.one("Service", "SupplementaryGroups") in vmm.one("Service", "SupplementaryGroups").split()


def test_every_service_is_hardened_equally() -> None:
    """What one may not, none may, but for what each is there for."""
    names = "NoNew|Protect|Restrict|Lock|MemoryDeny|SystemCall|RemoveIPC|Capability|Private"
    hardening = {
        name: set(re.findall(rf"^(?:{names})\w*=.*$", (SOURCE / name).read_text(), re.MULTILINE))
        for name in SERVICES
    }
    own = {
        "rondo-store.service": set(),
        "rondo-push.service": {"PrivateNetwork=yes"},
        "rondo-push-once.service": {"PrivateNetwork=yes"},
        "rondo-vmm@.service": {"PrivateDevices=yes"},  # it would hide /dev/kvm
        "rondo-feed@.service": {"PrivateNetwork=yes"},
        "rondo-serve.service": set(),
    }
    attach = hardening.pop("rondo-attach.service")
    everything = {line for lines in hardening.values() for line in lines if "AddressFamilies" not in line}
    assert len(everything) >= 22
    assert everything - attach == {
        "CapabilityBoundingSet=",
        "PrivateNetwork=yes",  # it would defeat the lock of the one watcher of all VMs
        "PrivateUsers=yes",  # without KVM's events, and BPF is refused
        "ProtectProc=invisible",
    }
    for name, lines in hardening.items():
        assert everything - lines == own[name]
    vmm = Unit(SOURCE / "rondo-vmm@.service")
    assert vmm.one("Service", "DevicePolicy") == "closed"
    assert vmm.all("Service", "DeviceAllow") == ["/dev/kvm rw"]


def test_the_examples_in_the_configuration_are_valid(
    run: Run,
) -> None:
    """Lines to uncomment have existing flags with valid values."""
    for name, command in {
        "store.env": ["rondo-store", "DIR"],
        "push.env": ["rondo-push"],
        "attach.env": ["rondo-attach"],
        "vmm/demo.conf": ["rondo-vmm"],
        "feed/node.conf": ["rondo-feed"],
    }.items():
        lines = (SOURCE / "rondo" / name).read_text().splitlines()
        found = [line.lstrip("#") for line in lines if re.match(r"#?RONDO_\w+_OPTIONS=", line)]
        assert found, name
        for line in found:
            answer = run(*command, *shlex.split(line.partition("=")[2]), "-Z")
            # Errors of other flags would be reported before this one.
            assert b"unrecognized arguments: -Z\n" in answer.stderr, (line, answer.stderr)
    assert environment(SOURCE / "rondo" / "push.env")["RONDO_REMOTE_WRITE"].startswith("http://")
