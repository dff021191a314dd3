#!/usr/bin/env python3
"""Assemble the built-in guest: workload.S into workload.bin, with GNU as and ld.

    scripts/build_guest.py            write rondo_tools/vmm/guest/workload.bin
    scripts/build_guest.py --check    compare instead; exit status 1 if it is not what the source says

The addresses come from rondo_tools/vmm/layout.py. The bytes hold neither paths nor times: who
assembles the same source gets the same file.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rondo_tools.vmm import layout  # noqa: E402

GUEST = ROOT / "rondo_tools" / "vmm" / "guest"
SYMBOLS = {
    "COM1": layout.COM1_BASE,
    "I8042": layout.I8042_BASE,
    "ORDERS": layout.ORDERS_BASE,
    "POWER": layout.POWER_BASE,
    "VIRTIO_BLOCK": layout.VIRTIO_BLOCK_BASE,
}


def assemble(prefix: str = "") -> bytes:
    """The guest's bytes; `prefix` stands before the tools' names (``x86_64-linux-gnu-``)."""
    defines = [f"--defsym={name}={value:#x}" for name, value in SYMBOLS.items()]
    with tempfile.TemporaryDirectory() as folder:
        objects, binary = Path(folder, "workload.o"), Path(folder, "workload.bin")
        # Notes about the instructions used would become bytes of the guest.
        options = ["--32", "--fatal-warnings", "-mx86-used-note=no", *defines]
        subprocess.run([f"{prefix}as", *options, "-o", objects, GUEST / "workload.S"], check=True)
        # --omagic: data follows the code at once, not on the next page.
        options = ["-m", "elf_i386", "--omagic", "--oformat=binary", f"-Ttext={layout.GUEST_CODE:#x}"]
        subprocess.run([f"{prefix}ld", *options, "-e", "start", "-o", binary, objects], check=True)
        return binary.read_bytes()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--prefix", default="", help="of the tools' names, such as x86_64-linux-gnu-")
    arguments = parser.parse_args()
    target = GUEST / "workload.bin"
    try:
        code = assemble(arguments.prefix)
    except FileNotFoundError as exc:
        print(f"build_guest: {exc.filename} is missing: install binutils for x86", file=sys.stderr)
        return 69
    except subprocess.CalledProcessError as exc:
        return int(exc.returncode)
    if arguments.check:
        if target.read_bytes() == code:
            print(f"{target.relative_to(ROOT)} is what its source says ({len(code)} bytes)")
            return 0
        print(f"{target.relative_to(ROOT)} is not what its source says: run scripts/build_guest.py")
        return 1
    target.write_bytes(code)
    print(f"{target.relative_to(ROOT)}: {len(code)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
