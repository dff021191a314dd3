"""Programs as files for the laboratory, with the libraries that it lacks."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from devtools.programs import PROGRAMS, TOOLS, fetch, in_root, lock, reason_of, root_of
from tests.support.needs import PATIENCE_S

QEMU = "LD_LIBRARY_PATH=/in/qemu/lib /in/qemu/qemu-system-x86_64 -L /in/qemu"
"""The command that starts it in the laboratory's shell."""

_FIRMWARE = ("bios-microvm.bin", "linuxboot_dma.bin")
_OF_LIBC = re.compile(r"lib(c|m|dl|pthread|resolv|rt|util)\.so\.\d+")  # the laboratory has its own
_BUNDLED = "microsandbox/_bundled/"


def qemu_files() -> dict[str, bytes]:
    """QEMU's files. Raises LookupError if there is none."""
    root, path = _program("qemu-system-x86_64")
    folders = [root / "usr/lib/x86_64-linux-gnu", root / "lib/x86_64-linux-gnu"]
    files = {"qemu/qemu-system-x86_64": path.read_bytes()}
    files |= {f"qemu/lib/{name}": data for name, data in _libraries(path, folders).items()}
    for name in _FIRMWARE:
        shares = (root / "usr/share/qemu" / name, root / "usr/share/seabios" / name)
        files[f"qemu/{name}"] = next(one for one in shares if one.exists()).read_bytes()
    return files


def msb_files() -> dict[str, bytes]:
    """microsandbox's `msb`, from the wheel for Python. Raises LookupError if it is not available."""
    root = TOOLS / "microsandbox"
    with lock():
        if not root.exists():
            _unpack_wheel("microsandbox", root)
    bundled = root / _BUNDLED
    files = {f"msb/{path.relative_to(bundled)}": path.read_bytes() for path in bundled.glob("*/*")}
    (firmware,) = (name for name in files if "libkrunfw.so." in name)
    files[re.sub(r"(\.so\.\d+).*", r"\1", firmware)] = files[firmware]
    program = bundled / "bin/msb"
    program.chmod(0o755)
    return files | {f"msb/lib/{name}": data for name, data in _libraries(program, []).items()}


def image_files() -> dict[str, bytes]:
    """`image.tar` in the form of `docker save`: busybox, and links to it for a few commands."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for name in ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "var"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
        _add(tar, "bin/busybox", _program("busybox")[1].read_bytes())
        for name in ("cat", "dd", "sh", "sleep", "sync"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        _add(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    layers = [f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": layers},
    }
    manifest = [{"Config": "config.json", "RepoTags": ["busybox:latest"], "Layers": ["layer.tar"]}]
    image = io.BytesIO()
    with tarfile.open(fileobj=image, mode="w") as tar:
        _add(tar, "config.json", json.dumps(config).encode())
        _add(tar, "layer.tar", layer.getvalue())
        _add(tar, "manifest.json", json.dumps(manifest).encode())
    return {"image.tar": image.getvalue()}


def _program(name: str) -> tuple[Path, Path]:
    """The folder of its unpacked package, and the program in it. Raises LookupError."""
    fetch(name)
    program = PROGRAMS[name]
    root = root_of(program.package)
    if not root.exists():  # it is installed on this machine
        root = Path("/")
    return root, in_root(root, program.path)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o755
    tar.addfile(member, io.BytesIO(data))


def _libraries(program: Path, folders: list[Path]) -> dict[str, bytes]:
    found = subprocess.run(
        ["ldd", program],
        env=os.environ | {"LD_LIBRARY_PATH": ":".join(map(str, folders))},
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    ).stdout
    libraries = re.findall(r"^\s*(\S+) => (/\S+)", found, re.MULTILINE)
    return {name: Path(path).read_bytes() for name, path in libraries if not _OF_LIBC.fullmatch(name)}


def _unpack_wheel(name: str, root: Path) -> None:
    """Unpack the newest wheel, all or nothing. Raises LookupError."""
    with tempfile.TemporaryDirectory(dir=TOOLS) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary=:all:", "--dest", temporary, name]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_S)
            (wheel,) = Path(temporary).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                members = [one for one in archive.namelist() if one.startswith(_BUNDLED)]
                archive.extractall(Path(temporary, "root"), members)
        except (OSError, ValueError, subprocess.SubprocessError) as exc:
            raise LookupError(f"the wheel of {name} is not available\n{reason_of(exc)}") from exc
        Path(temporary, "root").rename(root)
