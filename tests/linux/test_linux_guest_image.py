"""The image of the Linux guest."""

from __future__ import annotations

from pathlib import Path

from devtools.guest.linux import PACKAGE, build, depends, packaged


def test_two_builds_are_equal(guest: Path, tmp_path: Path) -> None:
    build(*packaged(PACKAGE), tmp_path)
    for name in ("vmlinuz", "initramfs"):
        assert (tmp_path / name).read_bytes() == (guest / name).read_bytes()


def test_the_dependencies_of_a_module_are_read() -> None:
    _, modules = packaged(PACKAGE)
    path = next(modules.rglob("virtio_blk.ko*"))
    assert set(depends(path.read_bytes())) == {"virtio", "virtio_ring"}
    assert depends(b"\0license=GPL\0depends=\0name=x\0") == []
