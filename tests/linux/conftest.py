"""Linux guests in the laboratory (docs/lab.md). `make test-linux` runs these; plain pytest passes them by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import lab
import pytest
from build_linux_guest import PACKAGE, build, packaged
from fetch import fetch
from lab_root import base_archive
from needs import must_have

ROOT = Path(__file__).resolve().parent.parent.parent

Run = Callable[..., lab.Result]


@pytest.fixture(scope="session")
def in_lab() -> Run:
    """`lab.run`, where there is a laboratory."""
    try:
        fetch("qemu-system-x86_64")
        base_archive()
    except LookupError as exc:
        must_have(f"no laboratory: {exc}")
    return lab.run


@pytest.fixture(scope="session")
def guest() -> Path:
    """The folder of the Linux guest, which is build/guest in the laboratory too."""
    try:
        kernel, modules = packaged(PACKAGE)
        build(kernel, modules, ROOT / "build" / "guest")
    except LookupError as exc:
        must_have(f"no Linux guest: {exc}")
    return ROOT / "build" / "guest"


@pytest.fixture(scope="session")
def stuck(in_lab: Run, guest: Path) -> Iterator[Future[lab.Result]]:
    """A guest that never ends by itself, in a laboratory of its own.

    It is left its minute until the deadline: ask for it early, and for its result late.
    """
    # A shell whose keyboard nobody touches.
    command = (
        "rondo-vmm --kernel build/guest/vmlinuz --initramfs build/guest/initramfs --duration 1s --text"
        " --cmdline rdinit=/bin/sh"
    )
    with ThreadPoolExecutor(1) as beside:
        yield beside.submit(in_lab, command, timeout_s=110)
