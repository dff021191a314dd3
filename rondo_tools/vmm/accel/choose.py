"""Chooses the accelerator: the requested one, or the best available one.

Each is imported when it is used: KVM's module needs Linux, and importing unicorn is slow.
"""

from __future__ import annotations

import logging
import mmap

from rondo_tools.errors import VmError
from rondo_tools.vmm.accel.base import Accelerator

_log = logging.getLogger(__name__)

CHOICES = ("kvm", "soft", "auto")


def open_accelerator(choice: str, memory: mmap.mmap, *, device: str = "/dev/kvm") -> Accelerator:
    """Open one of CHOICES with `memory`. Raises VmError if it is not available.

    ``auto`` is KVM if `device` opens, else soft; the log says which one and why.
    """
    if choice == "soft":
        return _soft(memory)
    try:
        accelerator = _kvm(memory, device)
    except VmError as exc:
        if choice == "kvm":
            raise
        _log.warning("accelerator: soft, an emulation, because %s", exc)
        return _soft(memory)
    if choice == "auto":
        _log.info("accelerator: kvm, because %s opens", device)
    return accelerator


def _kvm(memory: mmap.mmap, device: str) -> Accelerator:
    from rondo_tools.vmm.accel.kvm import Kvm

    return Kvm(memory, device=device)


def _soft(memory: mmap.mmap) -> Accelerator:
    from rondo_tools.vmm.accel.soft import Soft

    return Soft(memory)
