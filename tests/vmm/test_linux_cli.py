"""rondo-vmm with a --kernel, as its user meets it; the kernels are a few bytes long."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rondo_tools.errors import UsageError, VmError
from rondo_tools.vmm import config
from rondo_tools.vmm.config import LINUX_MARGIN_MS, Flags, configure
from tests.support.fixtures import Run
from tests.support.needs import PATIENCE_S, must_have
from tests.support.vmm.kernels import ECHO, POWER_OFF, SILENT, SPIN, bzimage, vmlinux

ROOT = Path(__file__).resolve().parent.parent.parent
VMM = [sys.executable, str(ROOT / "bin" / "rondo-vmm")]


@pytest.fixture
def kernel(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        (tmp_path / "kernel").write_bytes(data)
        return tmp_path / "kernel"

    return write


@pytest.fixture
def kvm() -> None:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        must_have("/dev/kvm does not open")


@pytest.mark.usefixtures("kvm")
def test_a_kernel_boots_with_disks_and_processors(kernel: Callable[[bytes], Path], run: Run) -> None:
    disks = [kernel(vmlinux(POWER_OFF)).with_name(name) for name in ("a", "b")]
    for disk in disks:
        disk.write_bytes(bytes(4096))
    done = run(
        "rondo-vmm", "--kernel", kernel(vmlinux(POWER_OFF)), "--disk", disks[0], "--disk", f"{disks[1]}:ro",
        "--cpus", "2", "--text", "--serial", "none",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"# end poweroff" in done.stdout
    assert b"ended by poweroff" in done.stderr


@pytest.mark.usefixtures("kvm")
def test_a_file_is_the_guests_input(kernel: Callable[[bytes], Path], run: Run, tmp_path: Path) -> None:
    path = tmp_path / "serial"
    words = b"words \x01x for the guest" * 20 + b"."
    done = run(
        "rondo-vmm", "--kernel", kernel(vmlinux(ECHO)), "--console", "--serial", path, "--output", os.devnull,
        stdin=None, input=words,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == words


@pytest.mark.usefixtures("kvm")
@pytest.mark.parametrize("code", [SPIN, ECHO], ids=["deaf", "listening"])
def test_ctrl_a_x_ends_any_guest_and_restores_the_terminal(
    kernel: Callable[[bytes], Path], code: str
) -> None:
    ours, its = pty.openpty()
    before = termios.tcgetattr(its)
    command = [*VMM, "--kernel", str(kernel(vmlinux(code))), "--console", "--output", os.devnull]
    process = subprocess.Popen(command, stdin=its, stderr=subprocess.PIPE)
    try:
        os.write(ours, b"x" * 100 + b"\x01x")
        _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, err
        assert b"ended by signal" in err
        assert termios.tcgetattr(its) == before
    finally:
        process.kill()
        process.communicate()
        os.close(ours)
        os.close(its)


@pytest.mark.usefixtures("kvm")
def test_a_deadline_is_the_duration_and_a_margin(
    kernel: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rondo_tools.vmm import cli

    monkeypatch.setattr(config, "LINUX_MARGIN_MS", 50)
    path = str(kernel(vmlinux(SPIN)))
    assert cli.main(["--kernel", path, "--duration", "50ms", "--output", os.devnull]) == 0
    assert "ended by deadline" in capsys.readouterr().err


@pytest.mark.usefixtures("kvm")
def test_a_guest_without_a_sign_of_life_is_a_failure(kernel: Callable[[bytes], Path]) -> None:
    code = """
import sys
from rondo_tools.vmm import cli, config
config.LINUX_SILENT_S = 0.05
sys.exit(cli.main())
"""
    # No tick is due for a day, and there is no deadline: the loop wakes up for this.
    flags = ["--kernel", str(kernel(vmlinux(SILENT))), "--interval", "24h", "--output", os.devnull]
    command = [sys.executable, "-c", code, *flags]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            first = process.stderr.readline()
            assert first.startswith("rondo-vmm: no sign of life from the guest in 0.05 s: ")
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == 70
    summary, last = err.splitlines()
    assert summary.endswith("ended by signal")
    assert last == "rondo-vmm: the guest never gave a sign of life"


@pytest.mark.usefixtures("kvm")
def test_a_sign_of_life_may_come_late(
    kernel: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rondo_tools.vmm import cli

    monkeypatch.setattr(config, "LINUX_SILENT_S", 0.0)
    path = str(kernel(vmlinux(POWER_OFF)))
    assert cli.main(["--kernel", path, "--output", os.devnull]) == 0
    assert "never gave" not in capsys.readouterr().err


@pytest.mark.usefixtures("kvm")
def test_a_guest_that_ends_early_needs_no_sign_of_life(
    kernel: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rondo_tools.vmm import cli

    monkeypatch.setattr(config, "LINUX_MARGIN_MS", 50)
    monkeypatch.setattr(config, "LINUX_SILENT_S", 3600.0)
    path = str(kernel(vmlinux(SILENT)))
    assert cli.main(["--kernel", path, "--duration", "50ms", "--output", os.devnull]) == 0
    assert "sign of life" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--kernel", "/nowhere"], 69, "--kernel /nowhere: No such file"),
        (["--kernel", "KERNEL", "--initramfs", "/nowhere"], 69, "--initramfs /nowhere: No such file"),
        (["--kernel", "KERNEL", "--initramfs", "KERNEL"], 65, "not a cpio archive"),
        (["--kernel", "CUT"], 65, "CUT: cut off: "),
        (["--kernel", "KERNEL", "--cmdline", "x" * 3000], 64, "--cmdline: 30"),
        (["--kernel", "KERNEL", "--disk", "/nowhere:ro"], 69, "--disk /nowhere: No such file"),
    ],
)
def test_invalid_files_give_one_line(
    kernel: Callable[[bytes], Path], run: Run, arguments: list[str], status: int, message: str
) -> None:
    path = kernel(bzimage(POWER_OFF))
    path.with_name("CUT").write_bytes(bzimage(POWER_OFF)[:-1])
    words = [str(path) if word == "KERNEL" else str(path.with_name("CUT")) if word == "CUT" else word
             for word in arguments]  # fmt: skip
    done = run("rondo-vmm", *words, "--output", os.devnull)
    assert done.returncode == status
    assert done.stderr.startswith(b"rondo-vmm: ")
    assert message in done.stderr.decode()
    assert done.stderr.count(b"\n") == (2 if status == 64 else 1)


def no_file(folder: Path, what: str) -> str:
    """Something that is there and is no regular file."""
    path = folder / "other"
    if what == "a FIFO":
        os.mkfifo(path)
    elif what == "a directory":
        path.mkdir()
    elif what == "a socket":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
    else:
        return "/dev/zero"
    return str(path)


@pytest.mark.parametrize("what", ["a FIFO", "a directory", "a socket", "a character device"])
@pytest.mark.parametrize("flag", ["--kernel", "--initramfs", "--disk", "--disk of the built-in guest"])
def test_other_file_types_are_refused_unread(
    kernel: Callable[[bytes], Path], run: Run, tmp_path: Path, flag: str, what: str
) -> None:
    linux = ["--kernel", str(kernel(bzimage(POWER_OFF)))] if flag in ("--initramfs", "--disk") else []
    path = no_file(tmp_path, what)
    done = run("rondo-vmm", *linux, flag.split()[0], path, "--output", os.devnull)
    assert done.returncode == 64
    assert done.stderr.startswith(f"rondo-vmm: {flag.split()[0]} {path}: this is {what}; name a reg".encode())
    assert done.stderr.count(b"\n") == 2


@pytest.mark.parametrize(
    ("flag", "begins", "status", "message"),
    [
        ("--kernel", b"text", 65, "neither a bzImage nor an x86-64 ELF"),
        ("--kernel", b"\x1f\x8b", 65, "packed with gzip"),
        ("--kernel", b"\x7fELF", 64, "4.0 TiB do not fit: a kernel's file has at most 1.0 GiB"),
        ("--kernel", bytes(0x202) + b"HdrS", 64, "4.0 TiB do not fit: a kernel's file has at most 1.0 GiB"),
        ("--initramfs", b"text", 65, "not a cpio archive"),
        ("--initramfs", b"070701", 64, "4.0 TiB do not fit: --memory is 256M"),
    ],
)
def test_the_first_bytes_identify_a_file_of_any_size(
    kernel: Callable[[bytes], Path], run: Run, flag: str, begins: bytes, status: int, message: str
) -> None:
    good = kernel(bzimage(POWER_OFF))
    huge = good.with_name("huge")
    huge.write_bytes(begins)
    os.truncate(huge, 1 << 42)
    arguments = {"--kernel": good} | {flag: huge}
    words = [str(word) for pair in arguments.items() for word in pair]
    done = run("rondo-vmm", *words, "--output", os.devnull)
    assert done.returncode == status
    assert f"rondo-vmm: {flag} {huge}: {message}" in done.stderr.decode()
    assert done.stderr.count(b"\n") == (2 if status == 64 else 1)


def test_an_endless_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    """One in /proc may say that it has no bytes, and one on a disk may grow."""
    from rondo_tools.vmm.boot import linux

    path = tmp_path / "initramfs"
    path.write_bytes(b"070701" + bytes(10_000))
    (tmp_path / "kernel").write_bytes(bzimage("f4"))
    with pytest.raises(VmError, match=r"9\.8 KiB do not fit: --memory is 1M"):
        linux.read(str(tmp_path / "kernel"), str(path), "", 8192)


def command_line(path: Path, **flags: Any) -> str:
    """The kernel's command line for these flags."""
    board: Any = configure(Flags("auto", None, None, [], str(path))._replace(**flags)).board
    return bytes(board._guest.command_line).decode()


def test_the_command_line_is_our_defaults_and_the_users_text(kernel: Callable[[bytes], Path]) -> None:
    path = kernel(bzimage("f4"))
    ours = command_line(path)
    assert ours.startswith("console=ttyS0 quiet panic=-1 ")
    assert command_line(path, command_line="root=/dev/vda") == f"{ours} root=/dev/vda"
    assert command_line(path, command_line="a  b", command_line_only=True) == "a  b"
    assert command_line(path, command_line_only=True, duration_ms=1000) == ""


@pytest.mark.parametrize(("duration_ms", "seconds"), [(1, 1), (1000, 1), (1001, 2), (45_000, 45)])
def test_a_duration_is_passed_in_whole_seconds(
    kernel: Callable[[bytes], Path], duration_ms: int, seconds: int
) -> None:
    path = kernel(bzimage("f4"))
    assert f" workload_duration={seconds}" in command_line(path, duration_ms=duration_ms)
    assert (
        configure(Flags("auto", duration_ms, None, [], str(path))).deadline_ms
        == duration_ms + LINUX_MARGIN_MS
    )
    assert configure(Flags("auto", None, None, [], str(path))).deadline_ms is None


def test_disks_are_closed_if_one_cannot_be_opened(kernel: Callable[[bytes], Path]) -> None:
    path = kernel(bzimage("f4"))
    path.with_name("disk").write_bytes(bytes(512))
    before = set(Path("/proc/self/fd").iterdir())
    flags = Flags("auto", None, None, [str(path.with_name("disk")), __file__], str(path))
    with pytest.raises(UsageError, match="are not whole sectors"):
        configure(flags)
    assert set(Path("/proc/self/fd").iterdir()) == before
