"""The programs of the demo, and the list that it prints before it fetches them.

Needs only Python, because there is no .venv yet. scripts/setup.sh fetches the Python packages.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from devtools import ROOT
from devtools.programs import fetch, is_there, megabytes, sizes

KVM = "/dev/kvm"
PROMETHEUS = "prometheus"
QEMU = "qemu-system-x86_64"
# If QEMU and its libraries are a larger download than this, the demo leaves it out.
QEMU_BYTES = 25_000_000
PACKAGES_BYTES = 25_000_000  # numpy has 17 MB of it; pip gives no sizes beforehand
EMULATOR_BYTES = 17_000_000


def has_kvm() -> bool:
    return os.access(KVM, os.R_OK | os.W_OK)


def qemu() -> Path | None:
    """The QEMU on the PATH, or the one in .tools."""
    on_path = shutil.which(QEMU)
    if on_path is not None:
        return Path(on_path)
    return fetch(QEMU) if is_there(QEMU) else None


def wanted() -> dict[str, int | None]:
    """The programs to fetch, with their sizes."""
    names = [name for name in (PROMETHEUS, QEMU) if not is_there(name)]
    if QEMU in names and (not has_kvm() or qemu() is not None):
        names.remove(QEMU)
    found = sizes(names)
    size = found.get(QEMU, 0)
    if size is None or size > QEMU_BYTES:
        del found[QEMU]
    return found


def fetch_for_demo() -> None:
    """Print how long the demo takes and what it fetches, with sizes; then fetch its programs."""
    programs = wanted()
    items: list[tuple[str, int | None]] = list(programs.items())
    if not (ROOT / ".venv" / ".rondo-setup").exists():
        items.insert(0, ("Python packages", PACKAGES_BYTES + (0 if has_kvm() else EMULATOR_BYTES)))
    if not items:
        print("The demo takes half a minute.", flush=True)
        return
    print("The demo takes half a minute. Before, it fetches into this folder, once, in about as long:\n")
    for name, size in items:
        print(f"  {name:20} {megabytes(size)}")
    print("\n`make clean` removes it. Nothing is installed, and nothing needs root.\n", flush=True)
    for name in programs:
        try:
            fetch(name)
        except LookupError as exc:
            print(f"{exc}\n", file=sys.stderr)
