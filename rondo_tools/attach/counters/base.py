"""What counts exits: the values between the counters and whoever watches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol


class Exits(NamedTuple):
    """Exits by reason, in the order of the catalogue's EXIT_REASONS; cumulative."""

    io: int = 0
    mmio: int = 0
    hlt: int = 0
    shutdown: int = 0
    other: int = 0


class ProcessExits(NamedTuple):
    """What was counted for a process: for each of its vCPU threads, and in all.

    `threads` is empty where the counters do not know the threads. `first_ns` is when the first of them was
    seen, by CLOCK_BOOTTIME; 0 is not known.
    """

    total: Exits
    threads: Mapping[int, Exits]
    first_ns: int = 0


class ExitCounters(Protocol):
    """One way to count. `reasons` are those that it counts; the others are in no header."""

    name: str
    reasons: tuple[str, ...]
    counts_from_birth: bool  # whether a process that is younger than the counters has all of its exits
    knows_threads: bool
    notes: tuple[str, ...]  # what it cannot count, and why; for people

    def begin(self, pid: int) -> None:
        """Count for this process too. Raises OSError."""

    def read(self) -> Mapping[int, ProcessExits]:
        """All processes that have exits, by process id; keys need not be processes that were begun."""

    def lost(self) -> int:
        """How many exits found no counter, in all."""

    def forget(self, pid: int) -> None:
        """The process is dead: what is kept for it may go."""

    def close(self) -> None: ...
