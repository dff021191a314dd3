"""A board is what a VM is made of: its memory, vCPUs, buses, devices and guest.

Strategy: a board knows how to build one VM and nothing about running it. `assemble` returns what
`machine` needs to run it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NamedTuple, Protocol

from rondo_tools.vmm.counters import Snapshot
from rondo_tools.vmm.devices.virtio.disk import Disk
from rondo_tools.vmm.vcpu import Ending, RunLoop


class CounterReader(Protocol):
    """Reads a VM's counters."""

    def snapshot(self) -> Snapshot: ...


class Assembly(NamedTuple):
    """A VM that is built: one run loop for each vCPU. `flush` is called after the last one has ended."""

    loops: list[RunLoop]
    ending: Ending
    counters: CounterReader
    flush: Callable[[], None]


class Board(Protocol):
    """Builds a VM."""

    def assemble(self, owned: ExitStack, disks: Sequence[Disk], console: Callable[[bytes], None]) -> Assembly:
        """Build the VM with `disks`, which are open. `owned` closes what the board opens."""
