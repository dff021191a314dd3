"""The built-in guest: workload.S assembled with GNU as and ld, without paths or times in the bytes."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from devtools import ROOT
from rondo_tools.vmm import layout

GUEST = ROOT / "rondo_tools" / "vmm" / "guest"
SYMBOLS = {
    "COM1": layout.COM1_BASE,
    "I8042": layout.I8042_BASE,
    "WORKLOAD": layout.WORKLOAD_BASE,
    "POWER": layout.POWER_BASE,
    "VIRTIO_BLOCK": layout.VIRTIO_BLOCK_BASE,
}


def assemble(prefix: str = "") -> bytes:
    """The guest's bytes; `prefix` precedes the tools' names (``x86_64-linux-gnu-``)."""
    defines = [f"--defsym={name}={value:#x}" for name, value in SYMBOLS.items()]
    with tempfile.TemporaryDirectory() as folder:
        objects, binary = Path(folder, "workload.o"), Path(folder, "workload.bin")
        # Notes about the instructions used would become bytes of the guest.
        options = ["--32", "--fatal-warnings", "-mx86-used-note=no", *defines]
        subprocess.run([f"{prefix}as", *options, "-o", objects, GUEST / "workload.S"], check=True)
        # --omagic: the data follows the code directly, not on the next page.
        options = ["-m", "elf_i386", "--omagic", "--oformat=binary", f"-Ttext={layout.GUEST_CODE:#x}"]
        subprocess.run([f"{prefix}ld", *options, "-e", "start", "-o", binary, objects], check=True)
        return binary.read_bytes()
