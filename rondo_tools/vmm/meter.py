"""The counters of a VM, written by its vCPU's thread and read by the sampler.

Strategy: plain integers and no lock, so that counting costs little and waits for nobody. There is
one writer, which counts the exit first and its end last: while the two differ it is in the middle,
and a reader reads again, a bounded number of times.
All counters only grow: who wants a mean over a tick takes the difference of two snapshots.
"""

from __future__ import annotations

import time
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


class Meter:
    """Counts exits and block requests. Both `count` methods belong to the vCPU's thread."""

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

        Should every try meet a count under way, the last one is good enough: it is wrong by one
        exit at most, and the next snapshot is not.
        """
        for _ in range(_TRIES):
            done = self._exits_done, self._blocks_done
            snapshot = self._copy()
            if (sum(snapshot.exits), sum(snapshot.block_requests)) == done:
                break
            time.sleep(0)  # let the writer finish its count
        return snapshot

    def _copy(self) -> Snapshot:
        exit_ns, run_ns, block_ns = self._exit_ns, self._run_ns, self._block_ns
        moved = tuple(self._bytes.values())
        # Read last what is counted first: a count since `done` was read shows here.
        requests, exits = tuple(self._requests.values()), tuple(self._exits.values())
        return Snapshot(exits, exit_ns, run_ns, requests, moved, block_ns)
