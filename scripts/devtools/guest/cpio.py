"""Writes initramfs archives (cpio "newc") whose bytes depend only on their content.

Strategy: owners, times and inode numbers are not those of the file system (they are 0, 0 and counted), and
folders are written in sorted order, so the same content gives the same bytes on every machine. The format:
Documentation/driver-api/early-userspace/buffer-format.rst of the Linux kernel. Archives may be concatenated;
later entries replace earlier ones.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


class Archive:
    """Writes entries to `out`; call `close` at the end, which leaves `out` open."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._inode = 0

    def folder(self, name: str, permissions: int = 0o755) -> None:
        self._entry(name, stat.S_IFDIR | permissions)

    def file(self, name: str, data: bytes, permissions: int = 0o644) -> None:
        self._entry(name, stat.S_IFREG | permissions, data)

    def link(self, name: str, target: str) -> None:
        """A symbolic link."""
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, name: str, major: int, minor: int, permissions: int = 0o600) -> None:
        self._entry(name, stat.S_IFCHR | permissions, device=(major, minor))

    def tree(self, root: Path, prefix: str = "", *, keep: Callable[[Path], bool] = lambda _: True) -> None:
        """Add everything below `root` for which `keep` returns True; it gets paths relative to `root`."""
        for path in sorted(root.rglob("*")):
            relative = path.relative_to(root)
            if not keep(relative):
                continue
            name = f"{prefix}{relative}"
            if path.is_symlink():
                self.link(name, str(path.readlink()))
            elif path.is_dir():
                self.folder(name)
            elif path.is_file():
                # Only whether a file is executable: other permissions depend on the umask at unpacking.
                self.file(name, path.read_bytes(), 0o755 if path.stat().st_mode & 0o100 else 0o644)

    def close(self) -> None:
        self._inode = -1  # the trailer's number is 0
        self._entry("TRAILER!!!", 0)
        self._pad(512)  # the kernel skips zeros up to the next archive

    def _entry(self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        fields = (
            self._inode,
            mode,
            *(0, 0),  # uid, gid
            2 if stat.S_ISDIR(mode) else 1,  # links
            0,  # mtime
            len(data),
            *(0, 0),  # the device it is on
            *device,
            len(encoded),
            0,  # checksum: none in this format
        )
        self._out.write(b"070701" + b"".join(b"%08X" % field for field in fields) + encoded)
        self._pad(4)
        self._out.write(data)
        self._pad(4)

    def _pad(self, multiple: int) -> None:
        self._out.write(bytes(-self._out.tell() % multiple))
