"""The Linux guest: a stock kernel, and an initramfs of busybox, drivers and our two scripts.

The same kernel and busybox give the same bytes. A driver that is built into the kernel, or missing in it, is
left out.
"""

from __future__ import annotations

import gzip
import io
import lzma
import re
from pathlib import Path

from devtools import ROOT
from devtools.guest.cpio import Archive
from devtools.programs import folder, in_root

SCRIPTS = ROOT / "rondo_tools" / "vmm" / "guest" / "linux"
PACKAGE = "linux-image-cloud-amd64"

# The guest's drivers: its disk, a source of randomness, and a file system with its dependencies.
DRIVERS = ("virtio_mmio", "virtio_blk", "virtio_rng", "crc32c_generic", "ext4")


def drivers(modules: Path, wanted: tuple[str, ...]) -> list[tuple[str, bytes]]:
    """(name, module) in loading order: each after its dependencies."""
    paths = {module_name(path): path for path in sorted(modules.rglob("*.ko*"))}
    found: dict[str, bytes] = {}

    def need(name: str) -> None:
        if name in found or name not in paths:
            return
        module = unpacked(paths[name])
        for other in depends(module):
            need(other)
        found[name] = module

    for name in wanted:
        need(name)
    return list(found.items())


def module_name(path: Path) -> str:
    """A module's name: files are named with - or _, modules with _ only."""
    return path.name.partition(".")[0].replace("-", "_")


def unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".ko":
        return data
    if path.suffix == ".xz":
        return lzma.decompress(data)
    if path.suffix == ".gz":
        return gzip.decompress(data)
    raise ValueError(f"{path}: modules compressed as {path.suffix} are not supported")


def depends(module: bytes) -> list[str]:
    """The dependencies in the module's .modinfo section: ``depends=virtio,virtio_ring``."""
    match = re.search(rb"\0depends=([\w,-]*)\0", module)
    return [name.replace("-", "_") for name in match[1].decode().split(",") if name] if match else []


def initramfs(busybox: bytes, modules: list[tuple[str, bytes]]) -> bytes:
    """The compressed archive, without time or file name."""
    plain = io.BytesIO()
    archive = Archive(plain)
    for name in ("bin", "dev", "lib", "lib/modules"):
        archive.folder(name)
    # The kernel opens the console before anything is mounted.
    archive.character_device("dev/console", 5, 1)
    archive.file("bin/busybox", busybox, 0o755)
    archive.link("bin/sh", "busybox")
    for name, module in modules:
        archive.file(f"lib/modules/{name}.ko", module)
    archive.file("lib/modules/order", "".join(f"{name}.ko\n" for name, _ in modules).encode())
    archive.file("init", (SCRIPTS / "init").read_bytes(), 0o755)
    archive.file("bin/workload", (SCRIPTS / "workload").read_bytes(), 0o755)
    archive.close()
    return gzip.compress(plain.getvalue(), compresslevel=9, mtime=0)


def packaged(package: str) -> tuple[Path, Path]:
    """Kernel and modules of a distribution's package."""
    root = folder(package)
    kernel = next(iter(sorted(root.glob("boot/vmlinuz-*"))), None)
    if kernel is None:
        raise LookupError(f"the package {package!r} has no boot/vmlinuz-*")
    return kernel, in_root(root, f"lib/modules/{kernel.name.removeprefix('vmlinuz-')}")


def build(kernel: Path, modules: Path, output: Path) -> None:
    busybox = in_root(folder("busybox-static"), "bin/busybox").read_bytes()
    output.mkdir(parents=True, exist_ok=True)
    loaded = drivers(modules, DRIVERS)
    data = initramfs(busybox, loaded)
    replace(output / "initramfs", data)
    replace(output / "vmlinuz", kernel.read_bytes())
    print(f"{shown(output)}/vmlinuz: {kernel.name}, {kernel.stat().st_size:,} bytes")
    names = ", ".join(name for name, _ in loaded)
    print(f"{shown(output)}/initramfs: {len(data):,} bytes, with {names or 'no drivers'}")


def replace(path: Path, data: bytes) -> None:
    """Replace a file atomically: a VM may be booting from it."""
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(data)
    beside.replace(path)


def shown(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
