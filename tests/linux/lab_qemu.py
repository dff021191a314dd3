"""QEMU as files that are brought into the laboratory: the program, its libraries, its firmware."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from fetch import PROGRAMS, fetch, in_root, root_of
from needs import PATIENCE_S

QEMU = "LD_LIBRARY_PATH=/in/qemu/lib /in/qemu/qemu-system-x86_64 -L /in/qemu"
"""How a shell there starts it."""

_FIRMWARE = ("bios-microvm.bin", "linuxboot_dma.bin")
_OF_LIBC = re.compile(r"lib(c|m|dl|pthread|resolv|rt|util)\.so\.\d+")  # the laboratory has its own


def qemu_files() -> dict[str, bytes]:
    """Raises LookupError where there is none."""
    fetch("qemu-system-x86_64")
    program = PROGRAMS["qemu-system-x86_64"]
    root = root_of(program.package)
    if not root.exists():  # this machine has it installed
        root = Path("/")
    path = in_root(root, program.path)
    folders = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")
    libraries = subprocess.run(
        ["ldd", path],
        env=os.environ | {"LD_LIBRARY_PATH": ":".join(str(root / folder) for folder in folders)},
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    ).stdout
    files = {"qemu/qemu-system-x86_64": path.read_bytes()}
    for name, library in re.findall(r"^\s*(\S+) => (/\S+)", libraries, re.MULTILINE):
        if not _OF_LIBC.fullmatch(name):
            files[f"qemu/lib/{name}"] = Path(library).read_bytes()
    for name in _FIRMWARE:
        shares = (root / "usr/share/qemu" / name, root / "usr/share/seabios" / name)
        files[f"qemu/{name}"] = next(one for one in shares if one.exists()).read_bytes()
    return files
