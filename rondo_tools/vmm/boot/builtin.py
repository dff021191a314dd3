"""Loads the built-in guest into memory and returns its entry point.

It needs no kernel image and no firmware. guest/workload.S is its source, docs/guest.md its contract.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from rondo_tools.errors import EX_USAGE, VmError
from rondo_tools.vmm import layout
from rondo_tools.vmm.memory import GuestMemory

_CODE = os.path.join(os.path.dirname(__file__), "..", "guest", "workload.bin")


class Entry(NamedTuple):
    """The initial state of the vCPU, beyond the fixed part.

    Fixed: 32-bit protected mode (CR0.PE, no paging); CS, DS, ES and SS flat from 0 to 4 GiB, CS
    execute/read with D=1, the others read/write with B=1; RFLAGS 0x2, so interrupts are off; no IDT
    (limit 0, so that any exception is a triple fault). All other registers are undefined.
    """

    rip: int
    rsp: int


def load(memory: GuestMemory) -> Entry:
    """Load the guest into fresh, zeroed memory. Raises VmError if it does not fit."""
    if memory.size < layout.GUEST_END:
        raise VmError(
            f"--memory: the built-in guest needs {layout.GUEST_END // 1024}K, not {memory.size // 1024}K",
            exit_code=EX_USAGE,
        )
    with open(_CODE, "rb") as file:
        memory.write(layout.GUEST_CODE, file.read())
    return Entry(rip=layout.GUEST_CODE, rsp=layout.GUEST_STACK)
