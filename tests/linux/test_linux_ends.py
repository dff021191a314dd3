"""Ends of Linux guests, and guests that are never built: the end record, the exit status, the message.

All cases run in sequence in one laboratory.
"""

from __future__ import annotations

import gzip
import io
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from devtools import lab
from devtools.guest.cpio import Archive
from devtools.guest.linux import build, packaged
from tests.support.needs import LAB_S, PATIENT_VMM, must_have

Run = Callable[..., lab.Result]

GENERIC = "linux-image-amd64"


class Case(NamedTuple):
    """`end` is None for a guest that is never built; `says` are parts of standard error.

    A non-empty `workload` replaces that of the guest's image.
    """

    flags: str
    status: int
    end: str | None
    says: tuple[str, ...] = ()
    workload: str = ""


CASES = {
    # Boots and ends normally.
    "read-only": Case(
        "--disk /tmp/blank:ro --duration 2s", 0, "poweroff", ("disk: 8192 KiB, read-only\n", "phase: io\n")
    ),
    # Built for PCs, not for clouds: compressed by xz, ext4 and its checksums as modules.
    "generic-kernel": Case(
        "--kernel /in/generic/vmlinuz --initramfs /in/generic/initramfs --disk /tmp/disk --cpus 2"
        " --duration 2s",
        0,
        "poweroff",
        ("disk: 8192 KiB, mounted\n", "phase: mixed\n"),
    ),
    # Boots, and ends otherwise.
    "panic": Case("", 0, "reset", ("Kernel panic - not syncing",), "echo c >/proc/sysrq-trigger"),
    "triple-fault": Case("--cmdline reboot=t", 1, "shutdown", ("triple fault",), "reboot -f"),
    "reboot": Case("", 0, "reset", (), "reboot -f"),
    # Is never built.
    "truncated-kernel": Case("--kernel /tmp/half", 65, None, ("--kernel /tmp/half", "cut off")),
    "no-kernel": Case("--kernel /init", 65, None, ("--kernel /init", "bzImage")),
    "missing-kernel": Case("--kernel /nowhere", 69, None, ("--kernel /nowhere",)),
    "no-initramfs": Case("--initramfs /tmp/blank", 65, None, ("--initramfs /tmp/blank", "cpio")),
    "large-initramfs": Case("--memory 128M --initramfs /tmp/large", 64, None, ("/tmp/large", "--memory")),
    "long-cmdline": Case(f"--cmdline {'x' * 3000}", 64, None, ("--cmdline",)),
    "odd-cmdline": Case("--cmdline 'a\nb'", 64, None, ("--cmdline",)),
}


def command() -> str:
    """Each case leaves NAME.status, NAME.stdout and NAME.stderr in /out."""
    lines = [
        PATIENT_VMM,
        "truncate -s 8M /tmp/blank /tmp/disk",
        "head -c 1000000 build/guest/vmlinuz >/tmp/half",
        "cp build/guest/initramfs /tmp/large && truncate -s 200M /tmp/large",
    ]
    for name, case in CASES.items():
        # The last one of a repeated flag counts.
        flags = f"--kernel build/guest/vmlinuz --initramfs /tmp/{name} --text --duration 20s {case.flags}"
        lines += [
            f"cat build/guest/initramfs /in/{name} >/tmp/{name}",
            f"vmm {flags} >/out/{name}.stdout 2>/out/{name}.stderr; echo $? >/out/{name}.status",
        ]
    lines.append("cmp -n 8388608 /tmp/blank /dev/zero && touch /out/blank")
    return "\n".join(lines)


def overlay(workload: str) -> bytes:
    """An archive to append to the guest's, which replaces the workload."""
    if not workload:
        return b""
    out = io.BytesIO()
    archive = Archive(out)
    archive.file("bin/workload", f"#!/bin/sh\n{workload}\n".encode(), 0o755)
    archive.close()
    return gzip.compress(out.getvalue())  # an uncompressed one must begin at a multiple of 4


@pytest.fixture(scope="module")
def stuck(in_lab: Run, guest: Path) -> Iterator[Future[lab.Result]]:
    """A guest that never ends by itself, in a laboratory of its own, until its deadline a minute later."""
    # A shell without input.
    command = (
        "rondo-vmm --kernel build/guest/vmlinuz --initramfs build/guest/initramfs --duration 1s --text"
        " --cmdline rdinit=/bin/sh"
    )
    with ThreadPoolExecutor(1) as beside:
        yield beside.submit(in_lab, command, timeout_s=LAB_S)


@pytest.fixture(scope="module")
def ends(
    in_lab: Run, guest: Path, stuck: Future[lab.Result], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    del stuck  # it runs meanwhile
    generic = tmp_path_factory.mktemp("generic")
    try:
        build(*packaged(GENERIC), generic)
    except LookupError as exc:
        must_have(f"no generic kernel: {exc}")
    files = {name: overlay(case.workload) for name, case in CASES.items()}
    files |= {f"generic/{name}": data for name, data in lab.folder_of(generic).items()}
    return in_lab(command(), files, timeout_s=LAB_S).out


@pytest.mark.parametrize("name", CASES)
def test_an_end(name: str, ends: dict[str, bytes]) -> None:
    case = CASES[name]
    stdout = ends[f"{name}.stdout"].decode()
    stderr = ends[f"{name}.stderr"].decode(errors="replace").replace("\r\n", "\n")
    assert int(ends[f"{name}.status"]) == case.status, stderr
    found = [line.split()[2] for line in stdout.splitlines() if line.startswith("# end ")]
    assert found == ([case.end] if case.end else []), stderr
    for part in case.says:
        assert part in stderr
    assert "Traceback" not in stderr
    if case.end is None:
        assert stderr.startswith("rondo-vmm: ")
        assert stdout == ""


def test_a_read_only_disk_is_unchanged(ends: dict[str, bytes]) -> None:
    assert "blank" in ends


def test_a_stuck_guest_ends_at_its_deadline(stuck: Future[lab.Result]) -> None:
    """--duration and a minute to boot."""
    result = stuck.result()
    log = result.stderr.decode()
    assert result.status == 0, log
    assert b"\n# end deadline " in result.stdout, log
    lived = re.search(r"ran ([\d.]+) s, .* ended by deadline", log)
    assert lived, log
    assert float(lived[1]) >= 61
