"""What counts exits: the values between the counters and whoever watches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

Exits = tuple[int, ...]
"""How many there were of each of the catalogue's EXIT_REASONS, in that order; cumulative."""

Counts = tuple[int, ...]
"""Of a thread: its exits, and after them when it was seen first, by CLOCK_BOOTTIME in nanoseconds."""


class ProcessExits:
    """What was counted for a process, by vCPU thread; counters that do not know the threads call them 0."""

    __slots__ = ("threads",)

    def __init__(self, threads: Mapping[int, Counts]) -> None:
        self.threads = threads

    @property
    def total(self) -> Exits:
        return total(self.threads.values())

    @property
    def first_ns(self) -> int:
        return min(counts[5] for counts in self.threads.values())


def total(threads: Iterable[Counts]) -> Exits:
    """The exits of some threads."""
    io = mmio = hlt = shutdown = other = 0
    for counts in threads:
        io += counts[0]
        mmio += counts[1]
        hlt += counts[2]
        shutdown += counts[3]
        other += counts[4]
    return io, mmio, hlt, shutdown, other


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
