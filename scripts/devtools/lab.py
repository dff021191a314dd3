"""The laboratory: a Linux with a KVM that boots Linux, on a machine that has none (scripts/lab.py).

QEMU emulates an AMD processor with virtualization in software. It runs a stock kernel with KVM, and a root of
Python, busybox, a copy of this checkout (in /rondo, where the command starts, its commands on PATH), and
build/guest. 10.0.2.2 is this machine's loopback. Everything is in memory: each run starts fresh.
"""

from __future__ import annotations

import ctypes
import io
import mmap
import os
import selectors
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from devtools import ROOT
from devtools.guest.cpio import Archive
from devtools.lab_root import base_archive, compile_python, kernel, scratch
from devtools.programs import fetch

MEMORY_MIB = 1536
EX_SOFTWARE = 70

Sink = Callable[[bytes], object]


class LabError(Exception):
    """The laboratory itself failed: it could not be built, crashed, or took too long."""

    def __init__(self, message: str, status: int = EX_SOFTWARE) -> None:
        super().__init__(message)
        self.status = status


class Result(NamedTuple):
    """The result of a command. `out` has its files in /out, by their path below it."""

    status: int
    stdout: bytes
    stderr: bytes
    out: dict[str, bytes]


def run(
    command: str,
    files: dict[str, bytes] | None = None,
    *,
    timeout_s: float = 300,
    stdout: Sink | None = None,
    stderr: Sink | None = None,
) -> Result:
    """Run a shell command in the laboratory, with `files` in /in, and wait for its end.

    `stdout` and `stderr` are called with its output while it runs. Raises LabError, and LookupError if a
    program or package is missing.
    """
    kept = [io.BytesIO(), io.BytesIO(), io.BytesIO()]
    sinks: list[Sink] = [kept[0].write, kept[1].write, kept[2].write]
    pipes = [os.pipe() for _ in sinks]
    in_time = False
    with tempfile.TemporaryDirectory(dir=scratch()) as temporary:
        work = Path(temporary)
        initrd = _initrd(work, {"lab/command": command.encode() + b"\n"}, files or {})
        devices = ["-serial", f"file:{work / 'console'}", "-device", "virtio-serial-device"]
        for number, (_, writing) in enumerate(pipes, 1):
            devices += ["-chardev", f"file,id=port{number},path=/dev/fd/{writing}"]
            devices += ["-device", f"virtserialport,chardev=port{number},nr={number}"]
        process = subprocess.Popen(
            [*_qemu(initrd), *devices],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[writing for _, writing in pipes],
        )
        try:
            for _, writing in pipes:
                os.close(writing)
            shown = [stdout, stderr, None]
            in_time = _relay([reading for reading, _ in pipes], sinks, shown, timeout_s)
        finally:
            if not in_time or not _ended(process, 5):
                process.kill()
            stderr_text = process.communicate()[1].decode(errors="replace")
            for reading, _ in pipes:
                os.close(reading)
        console = (work / "console").read_text(errors="replace") if (work / "console").exists() else ""
    try:
        with tarfile.open(fileobj=io.BytesIO(kept[2].getvalue())) as tar:
            back = {
                member.name: file.read() for member in tar if (file := tar.extractfile(member)) is not None
            }
        status = int(back.pop("lab/status"))
    except (tarfile.TarError, KeyError, ValueError):
        fate = "the laboratory crashed" if in_time else f"the laboratory did not end within {timeout_s:g} s"
        last = kept[1].getvalue().decode(errors="replace")
        raise LabError(f"{fate}\n{_errors(stderr_text)}{console}{last}".rstrip()) from None
    out = {name.removeprefix("out/"): data for name, data in back.items()}
    return Result(status, kept[0].getvalue(), kept[1].getvalue(), out)


def shell() -> int:
    """An interactive shell in the laboratory, on this terminal."""
    columns, rows = shutil.get_terminal_size()
    with tempfile.TemporaryDirectory(dir=scratch()) as temporary:
        terminal = f"rows {rows} columns {columns}\n".encode()
        initrd = _initrd(Path(temporary), {"lab/terminal": terminal}, {})
        # Ctrl-C goes to the shell inside.
        devices = ["-chardev", "stdio,id=terminal,signal=off", "-serial", "chardev:terminal"]
        return subprocess.run([*_qemu(initrd), *devices], stderr=subprocess.DEVNULL).returncode


def _qemu(initrd: Path) -> list[str | Path]:
    parameters = [
        "console=ttyS0 quiet reboot=t panic=-1",
        # The inner KVM must know the frequency of the time stamp counter, and calibration under emulation
        # fails: without it the first KVM_RUN never returns.
        f"tsc_early_khz={_tsc_khz()} tsc=reliable",
        # The other parameters save time.
        "mitigations=off nokaslr random.trust_cpu=on cryptomgr.notests no_timer_check",
        "8250.nr_uarts=1 pci=off",
    ]
    return [
        *(fetch("qemu-system-x86_64"), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", "microvm,acpi=on,pit=on,pic=on,rtc=on,isa-serial=on"),
        *("-accel", "tcg,thread=multi,tb-size=512"),
        # The emulation of xsave is incomplete, and a guest's kernel would warn. One processor: with two, the
        # emulation is quicker, but some runs in a hundred never ended.
        *("-cpu", "EPYC,-xsave", "-smp", "1", "-m", str(MEMORY_MIB)),
        *("-netdev", "user,id=net", "-device", "virtio-net-device,netdev=net"),
        *("-kernel", kernel(), "-initrd", initrd, "-append", " ".join(parameters)),
    ]


def _initrd(work: Path, own: dict[str, bytes], files: dict[str, bytes]) -> Path:
    """The base archive, followed by the variable parts: rondo's code, the guest, the command."""
    shutil.copytree(ROOT / "rondo_tools", work / "rondo_tools", ignore=shutil.ignore_patterns("__pycache__"))
    compile_python(work / "rondo_tools")
    initrd = work / "initrd"
    shutil.copyfile(base_archive(), initrd)
    with initrd.open("r+b") as out:
        out.seek(0, os.SEEK_END)
        archive = Archive(out)
        archive.file("init", (Path(__file__).with_name("lab_init")).read_bytes(), 0o755)
        for name in ("lab", "in", "rondo", "rondo/rondo_tools", "rondo/bin", "rondo/build"):
            archive.folder(name)
        archive.tree(work / "rondo_tools", "rondo/rondo_tools/")
        archive.tree(ROOT / "bin", "rondo/bin/")
        if (ROOT / "build" / "guest").is_dir():
            archive.folder("rondo/build/guest")
            archive.tree(ROOT / "build" / "guest", "rondo/build/guest/")
        for name, data in own.items():
            archive.file(name, data)
        for name, data in files.items():
            for folder in reversed(Path(name).parents[:-1]):
                archive.folder(f"in/{folder}")
            archive.file(f"in/{name}", data, 0o755)
        archive.close()
    return initrd


def _relay(sources: list[int], kept: list[Sink], shown: list[Sink | None], timeout_s: float) -> bool:
    """Read until all sources have ended; returns whether they ended in time."""
    deadline = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector:
        for source, keep, show in zip(sources, kept, shown, strict=True):
            selector.register(source, selectors.EVENT_READ, (keep, show))
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            for key, _ in selector.select(left):
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fd)
                    continue
                keep, show = key.data
                keep(data)
                if show is not None:
                    show(data)
    return True


def _ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait for QEMU to end, whose ports are closed."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _errors(stderr_text: str) -> str:
    """QEMU's messages, without those about features that its emulation lacks."""
    return "".join(line for line in stderr_text.splitlines(True) if "TCG doesn't support" not in line)


def _tsc_khz() -> int:
    """The measured frequency of this machine's time stamp counter, which QEMU passes through."""
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex("0f31 48c1e220 4809d0 c3"))  # rdtsc; shl rdx, 32; or rax, rdx; ret
    place = ctypes.c_char.from_buffer(code)
    counter = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(place))
    try:
        began_ns, began = _together(counter)
        time.sleep(0.1)
        ended_ns, ended = _together(counter)
    finally:
        del place
        code.close()
    return round((ended - began) * 1e6 / (ended_ns - began_ns))


def _together(counter: Callable[[], int]) -> tuple[int, int]:
    """The clock in ns and the counter at one moment: the closest pair of some tries."""
    tries = []
    for _ in range(20):
        before = time.monotonic_ns()
        count = counter()
        after = time.monotonic_ns()
        tries.append((after - before, (before + after) // 2, count))
    return min(tries)[1:]


def folder_of(path: Path) -> dict[str, bytes]:
    """All files of a folder, by their path below it."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
