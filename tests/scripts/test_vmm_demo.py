"""The VMM's demos: on this machine, on a remote one behind a real sshd, and interrupted in both ways."""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from devtools.guest.choice import choose, wait_until_up
from devtools.guest.disk import SECTOR, DiskError, check_files, check_pattern, sector_of
from devtools.receivers.prometheus import Prometheus, free_port
from rondo_tools.store.reader import Session, Store
from tests.support.needs import PATIENCE_S, must_have

ROOT = Path(__file__).resolve().parents[2]
LEASH = [sys.executable, str(ROOT / "scripts" / "devtools" / "leash.py")]


# Which guest.


def test_without_kvm_the_demo_runs_the_built_in_guest_and_logs_it(tmp_path: Path) -> None:
    guest = choose("auto", device=str(tmp_path / "kvm"))
    assert (guest.name, guest.flags) == ("builtin", [])
    assert "does not open: No such file" in guest.why


@pytest.mark.parametrize(
    ("output", "why"),
    [
        (b"rondo-vmm: booting\r\nrondo guest: up\r\n", ""),
        (b"rondo-vmm: KVM_RUN failed\n", "rondo-vmm: KVM_RUN failed"),
        (b"", "rondo-vmm ended without output"),
    ],
)
def test_a_probe_reads_the_console(output: bytes, why: str) -> None:
    reading, writing = os.pipe()
    os.write(writing, output)
    os.close(writing)
    assert wait_until_up(reading, 5) == why
    os.close(reading)


def test_a_probe_does_not_wait_for_ever() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"Booting\n")
    assert "first process did not start" in wait_until_up(reading, 0.01)
    os.close(reading)
    os.close(writing)


# The disk.


def image_of(pairs: range, sectors: int = 16) -> bytearray:
    image = bytearray(sectors * SECTOR)
    for pair in pairs:
        at = pair % sectors * SECTOR
        image[at : at + SECTOR] = sector_of(pair)
    return image


def test_the_pattern_of_the_built_in_guest_is_known_again() -> None:
    assert check_pattern(bytes(image_of(range(1, 4)))).startswith("3 of 16 sectors")
    assert check_pattern(bytes(image_of(range(1, 16 + 4)))).startswith("16 of 16 sectors")


@pytest.mark.parametrize("at", [2 * SECTOR, 3 * SECTOR - 1, 8 * SECTOR])
def test_a_wrong_byte_on_the_disk_is_found(at: int) -> None:
    image = image_of(range(1, 4))
    image[at] ^= 1
    with pytest.raises(DiskError, match="sector"):
        check_pattern(bytes(image))


def test_a_lost_or_displaced_sector_is_found() -> None:
    image = image_of(range(1, 6))
    lost = image[: 2 * SECTOR] + bytes(SECTOR) + image[3 * SECTOR :]
    with pytest.raises(DiskError, match="sector 2 is blank"):
        check_pattern(bytes(lost))
    displaced = image[: 2 * SECTOR] + image[3 * SECTOR : 4 * SECTOR] + image[3 * SECTOR :]
    with pytest.raises(DiskError, match="sector 2 has other data"):
        check_pattern(bytes(displaced))
    with pytest.raises(DiskError, match="wrote nothing"):
        check_pattern(bytes(16 * SECTOR))


def test_the_files_of_linux_are_checked_against_their_sums(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="no file SUMS"):
        check_files(tmp_path)
    (tmp_path / "data.0").write_bytes(b"zero")
    (tmp_path / "SUMS").write_text(f"{hashlib.sha256(b'zero').hexdigest()}  data.0\n")
    assert "1 files" in check_files(tmp_path)
    (tmp_path / "data.0").write_bytes(b"one")
    with pytest.raises(DiskError, match=r"data\.0"):
        check_files(tmp_path)


# The leash.


def test_a_leash_hands_back_the_exit_status() -> None:
    def status(*command: str) -> int:
        with subprocess.Popen([*LEASH, *command], stdin=subprocess.PIPE) as leash:
            return leash.wait(PATIENCE_S)

    assert status("sh", "-c", "exit 7") == 7
    assert status("sh", "-c", "kill -TERM $$") == 128 + signal.SIGTERM


def test_a_leash_interrupts_when_its_input_ends() -> None:
    script = "trap 'echo interrupted; exit 3' INT; echo ready; for i in $(seq 400); do sleep 0.05; done"
    with subprocess.Popen(
        [*LEASH, "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as leash:
        assert leash.stdout is not None
        assert leash.stdout.readline() == b"ready\n"
        out, _ = leash.communicate(timeout=PATIENCE_S)  # closes its input
        assert (leash.returncode, out) == (3, b"interrupted\n")


# On this machine.


def start(mode: str, **settings: str) -> subprocess.Popen[str]:
    """A demo, in a process group of its own."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("VMM_")}
    return subprocess.Popen(
        [sys.executable, ROOT / "scripts" / "vmm_demo.py", mode],
        env=given | {"VMM_GUEST": "builtin"} | settings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )


def until(demo: subprocess.Popen[str], line: str) -> str:
    """Read what it says up to a line; all of it."""
    output = ""
    assert demo.stdout is not None
    while not output.endswith(f"{line}\n"):
        more = demo.stdout.readline()
        assert more, output
        output += more
    return output


@pytest.mark.parametrize(
    ("name", "value"),
    [("DURATION", "soon"), ("GUEST", "windows"), ("REMOTE_WRITE", "localhost:9090"), ("HOST", "-oProxy")],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with start("store", **{f"VMM_{name}": value}) as demo:
        out, _ = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 64
    assert out.startswith(f"vmm_demo: VMM_{name}")
    assert value in out


def test_the_disk_of_a_demo_is_checked() -> None:
    with start("disk", VMM_DURATION="2") as demo:
        out, _ = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 0, out
    assert re.search(r"vmm-demo-builtin.img: [1-9]\d* of 16384 sectors written", out)


def test_ctrl_c_ends_the_vm_and_all_it_left_arrives(program: Callable[[str], Path]) -> None:
    program("prometheus")
    with start("remote-write", VMM_DURATION="60") as demo:
        try:
            output = until(demo, "phase: cpu")
            os.killpg(demo.pid, signal.SIGINT)
            out, _ = demo.communicate(timeout=PATIENCE_S)
        finally:
            demo.kill()
    output += out
    assert demo.returncode == 0, output
    assert "ended by signal" in output
    assert "(signal):" in output
    assert "All of it arrived, to the last bit." in output


# On another machine: this one, behind a real sshd.


class Box(NamedTuple):
    """`settings` are what finds it; `folder` is where the checkout goes."""

    settings: dict[str, str]
    folder: Path

    def sessions(self) -> list[Session]:
        if not (self.folder / "vmm_metrics").exists():
            return []
        return sorted(Store(self.folder / "vmm_metrics").sessions(), key=lambda one: one.start_ms)


# As root sshd wants a user and a folder of its own; both are there in its mount namespace alone.
AS_ROOT = """
{ cat /etc/passwd; echo 'sshd:x:64999:65534::/run/sshd:/usr/sbin/nologin'; } >"$1/passwd" &&
mount --bind "$1/passwd" /etc/passwd && mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd &&
shift && exec "$@"
"""


@pytest.fixture(scope="module")
def box(program: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    sshd, rsync = program("sshd"), program("rsync")
    for name in ("ssh", "ssh-keygen"):
        program(name)
    work = tmp_path_factory.mktemp("box")
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", work / name], check=True)
    port = free_port()
    path = f"{rsync.parent}:{os.environ['PATH']}"
    (work / "config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {work}/host\nAuthorizedKeysFile {work}/key.pub\n"
        "PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\n"
        f'SetEnv "PATH={path}"\n'
    )
    command = [str(sshd), "-D", "-e", "-f", str(work / "config")]
    if os.geteuid() == 0:
        command = ["unshare", "--mount", "sh", "-c", AS_ROOT, "sh", str(work), *command]
    known = (work / "host.pub").read_text().split()[:2]
    (work / "known").write_text(f"[127.0.0.1]:{port} {' '.join(known)}\n")
    options = f"-F none -p {port} -i {work}/key -o IdentitiesOnly=yes -o UserKnownHostsFile={work}/known"
    host = f"{getpass.getuser()}@127.0.0.1"
    with (work / "log").open("wb") as log:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        try_it = ["ssh", *shlex.split(options), "-o", "ConnectTimeout=5", host, "true"]
        deadline = time.monotonic() + PATIENCE_S
        while subprocess.run(try_it, capture_output=True).returncode:
            if server.poll() is not None or time.monotonic() > deadline:
                must_have(f"no sshd: {(work / 'log').read_text()}")
            time.sleep(0.1)
        # A .venv takes a minute to make: the setup there finds the one of this checkout.
        (work / "rondo").mkdir()
        (work / "rondo" / ".venv").symlink_to(ROOT / ".venv")
        settings = {"VMM_HOST": host, "VMM_DIR": f"{work}/rondo", "VMM_SSH": options}
        yield Box(settings | {"PYTHON": sys.executable, "PATH": path}, work / "rondo")
    finally:
        server.terminate()
        server.wait(PATIENCE_S)


def test_a_run_on_another_machine(box: Box, prometheus: Prometheus) -> None:
    settings = box.settings | {"VMM_GUEST": "builtin", "VMM_REMOTE_WRITE": prometheus.write_url}
    variables = [f"{name}={value}" for name, value in settings.items() if name != "PATH"]
    # Without setup: it would make .venv anew, under the feet of these tests, had pyproject.toml changed.
    done = subprocess.run(
        ["make", "-o", "setup-demo", "vmm-demo-remote-write", "VMM_DURATION=3", *variables],
        cwd=ROOT,
        env=os.environ | {"PATH": settings["PATH"]},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "rondo-push has no more to send" in output
    assert "phase: mixed" in output
    for name in (".git", ".tools", "build"):
        assert not (box.folder / name).exists()
    (session,) = box.sessions()
    assert session.end is not None
    assert session.end.reason == "poweroff"
    uptime = prometheus.samples("vmm_uptime_seconds")
    assert [len(samples) for samples in uptime.values()] == [len(session.rows().t_ms)]


def test_the_exit_status_of_another_machine_comes_back(box: Box) -> None:
    """A port that nobody listens on: rondo-push says 75, there."""
    dead = f"http://127.0.0.1:{free_port()}/api/v1/write"
    with start("remote-write", VMM_DURATION="1", VMM_REMOTE_WRITE=dead, **box.settings) as demo:
        out, _ = demo.communicate(timeout=PATIENCE_S)
    assert demo.returncode == 75, out


def test_ctrl_c_here_ends_it_there_and_shows_the_end(box: Box, prometheus: Prometheus) -> None:
    url = prometheus.write_url
    with start("remote-write", VMM_DURATION="60", VMM_REMOTE_WRITE=url, **box.settings) as demo:
        try:
            output = until(demo, "phase: cpu")
            os.killpg(demo.pid, signal.SIGINT)  # as a terminal does: to ssh too
            out, _ = demo.communicate(timeout=PATIENCE_S)
        finally:
            demo.kill()
    assert demo.returncode == 0, output + out
    assert "ended by signal" in out
    assert "rondo-push has no more to send" in out


def test_it_ends_there_when_the_connection_is_gone(box: Box, prometheus: Prometheus) -> None:
    before, url = len(box.sessions()), prometheus.write_url
    with start("remote-write", VMM_DURATION="60", VMM_REMOTE_WRITE=url, **box.settings) as demo:
        until(demo, "phase: cpu")
        os.killpg(demo.pid, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE_S
    while len(found := box.sessions()) == before or found[-1].end is None:
        assert time.monotonic() < deadline, "it still runs"
        time.sleep(0.1)
    session = found[-1]
    assert session.end is not None
    assert session.end.reason == "signal"
    ticks = session.rows().t_ms.tolist()
    while ticks != [t for values in prometheus.samples("vmm_uptime_seconds").values() for t, _ in values]:
        assert time.monotonic() < deadline, "what it left was not delivered"
        time.sleep(0.1)
