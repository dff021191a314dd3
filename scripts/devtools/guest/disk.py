"""Makes a disk for a guest of the demo, and checks it afterwards on the host, without root.

The built-in guest writes a pattern into each sector that depends on the number of the write. Linux leaves
files and their checksums on ext2, which e2fsprogs' debugfs reads from the image.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

from devtools import ROOT

BYTES = 8 << 20
SECTOR = 512
# As in rondo_tools/vmm/guest/workload.S: the first word of pair n is n times this, then a step a word.
PAIR_FACTOR = 0x9E3779B1
WORD_STEP = 0x61C88647
WORDS = 1 << 32


class DiskError(Exception):
    """The disk has unexpected content."""


def make_disk(guest: str) -> Path:
    """A blank image in build/, which replaces the last one."""
    path = ROOT / "build" / f"vmm-demo-{guest}.img"
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.touch()
    os.truncate(path, BYTES)
    return path


def check_disk(guest: str, path: Path) -> str:
    """A summary of the guest's data. Raises DiskError if it is wrong."""
    return _check_ext2(path) if guest == "linux" else check_pattern(path.read_bytes())


def sector_of(pair: int) -> bytes:
    """The data of the built-in guest's n-th pair of the io work."""
    first = pair * PAIR_FACTOR
    return struct.pack("<128I", *((first + word * WORD_STEP) % WORDS for word in range(128)))


def check_pattern(image: bytes) -> str:
    """Check that every sector has its pattern, up to the first blank one, and that all later ones are blank.

    Pair n goes to sector n modulo their number, and n begins with 1: sector 0 is written last.
    """
    sectors = len(image) // SECTOR
    inverse = pow(PAIR_FACTOR, -1, WORDS)
    written, blank = 0, None
    for number in (*range(1, sectors), 0):
        sector = image[number * SECTOR : (number + 1) * SECTOR]
        if not any(sector):
            blank = number if blank is None else blank
            continue
        if blank is not None:
            raise DiskError(f"sector {blank} is blank, but the later sector {number} is written")
        pair = struct.unpack_from("<I", sector)[0] * inverse % WORDS
        if pair % sectors != number or sector != sector_of(pair):
            raise DiskError(f"sector {number} has other data than the guest writes there")
        written += 1
    if not written:
        raise DiskError("the guest wrote nothing")
    return f"{written} of {sectors} sectors written, each with the pattern of its write"


def can_check(guest: str) -> None:
    """Raises LookupError if `check_disk` lacks a program for this guest; called before the run."""
    if guest == "linux":
        _debugfs()


def _debugfs() -> str:
    found = shutil.which("debugfs", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        raise LookupError("debugfs is needed to read the disk of Linux: install e2fsprogs")
    return found


def _check_ext2(path: Path) -> str:
    debugfs = _debugfs()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([debugfs, "-R", f"rdump / {folder}", path], check=True, capture_output=True)
        return check_files(Path(folder))


def check_files(folder: Path) -> str:
    """Check SUMS and its files."""
    sums = folder / "SUMS"
    if not sums.is_file():
        raise DiskError("it has no file SUMS: the guest did not finish")
    lines = sums.read_text().splitlines()
    for line in lines:
        digest, name = line.split()
        file = folder / Path(name).name
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            raise DiskError(f"{name} has other data than the guest wrote")
    if not lines:
        raise DiskError("the guest wrote nothing")
    return f"ext2 with {len(lines)} files, each with the SHA-256 that the guest computed"
