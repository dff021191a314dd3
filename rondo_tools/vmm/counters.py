"""The counters of a VM, written by its vCPUs' threads and read by the sampler.

Strategy: plain integers without a lock, so that counting is cheap and never waits. Each writer has its
own counters, and the reader sums them. A writer increments the exit's counter first and `_exits_done`
last. While they differ an update is in progress, and the reader reads again, a bounded number of times.
Counters only grow: the mean over a tick is the difference of two snapshots.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from rondo_tools.catalog import BLOCK_OPS, EXIT_REASONS

_TRIES = 100


class Snapshot(NamedTuple):
    """The counters at one moment; durations are sums, in ns. Tuples in the catalogue's order."""

    exits: tuple[int, ...] = (0,) * len(EXIT_REASONS)
    exit_ns: int = 0
    run_ns: int = 0
    block_requests: tuple[int, ...] = (0,) * len(BLOCK_OPS)
    block_bytes: tuple[int, ...] = (0,) * len(BLOCK_OPS)
    block_ns: int = 0
    kernel_halts: int = 0  # HLTs that KVM handled; not in `exits` nor `exit_ns`
    vcpu_cpu_ns: int = 0  # of the vCPUs' threads
    vcpu_wait_ns: int = 0  # their time runnable, waiting for a CPU
    vmm_cpu_ns: int = 0  # of the process, since the VM started

    def since(self, before: Snapshot) -> Snapshot:
        """The difference to the earlier snapshot `before`."""
        return Snapshot(
            exits=_differences(self.exits, before.exits),
            exit_ns=self.exit_ns - before.exit_ns,
            run_ns=self.run_ns - before.run_ns,
            block_requests=_differences(self.block_requests, before.block_requests),
            block_bytes=_differences(self.block_bytes, before.block_bytes),
            block_ns=self.block_ns - before.block_ns,
            kernel_halts=self.kernel_halts - before.kernel_halts,
            vcpu_cpu_ns=self.vcpu_cpu_ns - before.vcpu_cpu_ns,
            vcpu_wait_ns=self.vcpu_wait_ns - before.vcpu_wait_ns,
            vmm_cpu_ns=self.vmm_cpu_ns - before.vmm_cpu_ns,
        )

    @property
    def is_silent(self) -> bool:
        """Whether the guest has accessed no device yet, not even its console."""
        exits = self.exits_by_reason()
        return not exits["io"] and not exits["mmio"]

    def exits_by_reason(self) -> dict[str, int]:
        """All exits, including those that the kernel handled."""
        by_reason = dict(zip(EXIT_REASONS, self.exits, strict=True))
        by_reason["hlt"] += self.kernel_halts
        return by_reason


class Counters:
    """Counts exits and block requests. Only one thread at a time may call each `count` method."""

    __slots__ = (
        "_block_ns",
        "_blocks_done",
        "_bytes",
        "_exit_ns",
        "_exits",
        "_exits_done",
        "_requests",
        "_run_ns",
    )

    def __init__(self) -> None:
        self._exits = dict.fromkeys(EXIT_REASONS, 0)
        self._exit_ns = 0
        self._run_ns = 0
        self._exits_done = 0
        self._requests = dict.fromkeys(BLOCK_OPS, 0)
        self._bytes = dict.fromkeys(BLOCK_OPS, 0)
        self._block_ns = 0
        self._blocks_done = 0

    def count_exit(self, reason: str, run_ns: int, exit_ns: int) -> None:
        """One exit: the time in the guest before it, and the time its handling took."""
        self._exits[reason] += 1
        self._run_ns += run_ns
        self._exit_ns += exit_ns
        self._exits_done += 1

    def count_block(self, op: str, size: int, ns: int) -> None:
        """One block request completed: `size` bytes moved in `ns`."""
        self._requests[op] += 1
        self._bytes[op] += size
        self._block_ns += ns
        self._blocks_done += 1

    def snapshot(self) -> Snapshot:
        """All counters, consistent with one another; from any thread.

        If every try meets an update in progress, the last one is returned: it is wrong by one exit at
        most, and the next snapshot is right again.
        """
        for _ in range(_TRIES):
            done = self._exits_done, self._blocks_done
            snapshot = self._copy()
            if (sum(snapshot.exits), sum(snapshot.block_requests)) == done:
                break
            time.sleep(0)  # let the writer finish its update
        return snapshot

    def _copy(self) -> Snapshot:
        exit_ns, run_ns, block_ns = self._exit_ns, self._run_ns, self._block_ns
        moved = tuple(self._bytes.values())
        # Read last what a writer updates first, so that an update since `done` was read is noticed.
        requests, exits = tuple(self._requests.values()), tuple(self._exits.values())
        return Snapshot(exits, exit_ns, run_ns, requests, moved, block_ns)


class CounterSum:
    """The sum of the counters of several writers; `kernel_halts` reads KVM's own count of HLTs.

    Each summand is a consistent snapshot; they are taken one after another.
    """

    def __init__(self, counters: Sequence[Counters], kernel_halts: Callable[[], int | None]) -> None:
        self._each = counters
        self._kernel_halts = kernel_halts

    def snapshot(self) -> Snapshot:
        """The sum; from any thread."""
        each = [counters.snapshot() for counters in self._each]
        return Snapshot(
            exits=_sums(one.exits for one in each),
            exit_ns=sum(one.exit_ns for one in each),
            run_ns=sum(one.run_ns for one in each),
            block_requests=_sums(one.block_requests for one in each),
            block_bytes=_sums(one.block_bytes for one in each),
            block_ns=sum(one.block_ns for one in each),
            kernel_halts=self._kernel_halts() or 0,
        )


def _differences(now: tuple[int, ...], before: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(operator.sub, now, before))


def _sums(rows: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(sum(column) for column in zip(*rows, strict=True))
