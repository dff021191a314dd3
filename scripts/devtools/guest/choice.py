"""Chooses the guest of a demo: Linux if the machine's KVM boots it, else the built-in one.

Strategy: a KVM's abilities show only when it is used, so `auto` boots our Linux guest with a second of work
and waits for its first line. If /dev/kvm does not open, no kernel is downloaded.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from typing import NamedTuple

from devtools import ROOT
from devtools.guest.linux import PACKAGE, build, packaged
from devtools.pipeline import say

CHOICES = ("auto", "builtin", "linux")
FOLDER = "build/guest"
PROBE_S = 15.0  # hardware takes one or two seconds, an emulated machine six


class Guest(NamedTuple):
    """`flags` are for rondo-vmm."""

    name: str
    flags: list[str]
    why: str


LINUX = ["--kernel", f"{FOLDER}/vmlinuz", "--initramfs", f"{FOLDER}/initramfs"]


def choose(wanted: str, *, device: str = "/dev/kvm") -> Guest:
    """Turn one of CHOICES into a guest that can run. Raises LookupError if Linux is not available."""
    if wanted == "builtin":
        return Guest("builtin", [], "VMM_GUEST demands it")
    if wanted == "linux":
        prepare()
        return Guest("linux", LINUX, "VMM_GUEST demands it")
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as exc:
        return Guest("builtin", [], f"{device} does not open: {exc.strerror}")
    try:
        prepare()
    except LookupError as exc:
        return Guest("builtin", [], f"Linux is not available: {exc}")
    say(f"Does this machine's KVM boot Linux? Trying, for {PROBE_S:g} s at most.")
    trouble = probe()
    if trouble:
        return Guest("builtin", [], f"this machine's KVM does not boot Linux: {trouble}")
    return Guest("linux", LINUX, "this machine's KVM boots it")


def prepare() -> None:
    """Build the image; if that fails, use an existing one."""
    try:
        build(*packaged(PACKAGE), ROOT / FOLDER)
    except LookupError:
        if not (ROOT / FOLDER / "vmlinuz").exists() or not (ROOT / FOLDER / "initramfs").exists():
            raise


def probe() -> str:
    """Boot the image; returns the error, or "" if Linux came up."""
    command = [sys.executable, str(ROOT / "bin" / "rondo-vmm"), *LINUX, "--duration", "1s"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        process_group=0,
    ) as vmm:
        assert vmm.stderr is not None
        try:
            return wait_until_up(vmm.stderr.fileno(), PROBE_S)
        finally:
            vmm.kill()  # its data is not needed


def wait_until_up(fd: int, seconds: float) -> str:
    """Read a guest's console; returns the reason why its first process is not up, or ""."""
    deadline = time.monotonic() + seconds
    output = b""
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while b"rondo guest: up" not in output:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return f"its first process did not start within {seconds:g} s"
            data = os.read(fd, 65536)
            if not data:
                lines = output.decode(errors="replace").splitlines()
                return lines[-1] if lines else "rondo-vmm ended without output"
            output += data
    return ""
