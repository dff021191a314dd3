"""The root of the laboratory, as an initramfs: Python, busybox, rondo's dependencies, and drivers.

Strategy: the distribution's own packages, unpacked, with wheels for their Python, compiled beforehand (under
emulation that would take minutes). It changes rarely, so it is built once into build/lab, and again after a
change of a requirement or of this file.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from devtools import ROOT
from devtools.guest.cpio import Archive
from devtools.guest.linux import drivers, packaged
from devtools.programs import Needs, folder

BUILD = ROOT / "build" / "lab"
KERNEL_PACKAGE = "linux-image-cloud-amd64"
DRIVERS = ("virtio_mmio", "virtio_net", "virtio_console", "kvm_amd", "loop", "crc32c_generic", "ext4")
DEPENDENCIES = "usr/lib/python3/dist-packages"

# Not needed at run time: documentation, other languages, tests, compilers of extensions.
_LEFT_OUT = re.compile(
    r"usr/share/(doc|man|locale|info|lintian|bash-completion|perl5|zoneinfo)(/|$)"
    r"|(var|etc/init\.d|usr/lib/dpkg|usr/sbin)(/|$)"
    r"|.*/(tests?|idlelib|lib2to3|ensurepip|turtledemo|f2py|include|config-3[^/]*|gconv)(/|$)"
    r"|.*\.(pyi|a|h|c|pxd|tcl)$"
)


def kernel() -> Path:
    """The laboratory's own kernel."""
    return packaged(KERNEL_PACKAGE)[0]


def base_archive() -> Path:
    """The archive, built if it is missing or outdated. Raises LookupError."""
    archive, stamp = BUILD / "base.cpio", BUILD / "base.stamp"
    wanted = hashlib.sha256(Path(__file__).read_bytes() + "\n".join(_requirements()).encode()).hexdigest()
    with (scratch() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists() or not stamp.exists() or stamp.read_text() != wanted:
            print("lab: building its root (once; takes half a minute)", file=sys.stderr, flush=True)
            stamp.unlink(missing_ok=True)
            with tempfile.TemporaryDirectory(dir=BUILD) as temporary:
                _build(Path(temporary)).replace(archive)
            stamp.write_text(wanted)
    return archive


def scratch() -> Path:
    """A folder for large files: /tmp may be in memory."""
    BUILD.mkdir(parents=True, exist_ok=True)
    return BUILD


def compile_python(*folders: Path) -> None:
    """Compile all Python in the folders with the laboratory's Python, independent of the files' times."""
    options = ["-q", "-j", "0", "--invalidation-mode", "unchecked-hash", "-x", r"/tests?/|lib2to3"]
    _python("-m", "compileall", *options, *map(str, folders))


def _build(work: Path) -> Path:
    stage = work / "root"
    shutil.copytree(_distribution(), stage, symlinks=True)
    version = _python("-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()
    site = stage / DEPENDENCIES
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-compile",
    ]
    install += ["--only-binary=:all:", "--python-version", version, "--target", str(site), *_requirements()]
    _said(install)
    compile_python(stage / "usr" / "lib")
    for name in ("bin", "sbin", "lib", "lib64"):  # newer distributions keep them in /usr and link to them
        if not (stage / name).exists() and (stage / "usr" / name).exists():
            (stage / name).symlink_to(f"usr/{name}")
    (stage / "usr/bin/env").unlink(missing_ok=True)
    (stage / "usr/bin/env").symlink_to("/bin/busybox")
    base = work / "base.cpio"
    with base.open("wb") as out:
        archive = Archive(out)
        archive.folder("dev")
        archive.character_device("dev/console", 5, 1)
        archive.tree(stage, keep=lambda path: not _LEFT_OUT.match(str(path)))
        modules = drivers(packaged(KERNEL_PACKAGE)[1], DRIVERS)
        archive.folder("lib/modules")
        for name, module in modules:
            archive.file(f"lib/modules/{name}.ko", module)
        archive.file("lib/modules/order", "".join(f"{name}.ko\n" for name, _ in modules).encode())
        archive.close()
    return base


def _distribution() -> Path:
    # Wheels such as numpy's include all libraries except that of C++.
    return folder("python3", Needs.ALL, "libstdc++6", "busybox-static")


def _python(*arguments: str) -> str:
    """Run the unpacked Python of the distribution, with its own loader and libraries."""
    root = _distribution()
    loader = next(root.glob("lib64/ld-linux-x86-64.so.2"), None) or next(root.glob("usr/lib64/ld-linux-*"))
    libraries = ":".join(str(root / path) for path in ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"))
    # The full path of python3, not that of a virtual environment around us.
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONHOME": str(root / "usr"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    program = (root / "usr/bin/python3").resolve()
    return _said([str(loader), "--library-path", libraries, str(program), *arguments], environment)


def _said(command: list[str], environment: dict[str, str] | None = None) -> str:
    try:
        return subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL
        ).stdout
    except subprocess.CalledProcessError as exc:
        raise LookupError(f"{command[0]} failed: {exc.stderr.strip()}") from exc


def _requirements() -> list[str]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    return list(project["dependencies"])
