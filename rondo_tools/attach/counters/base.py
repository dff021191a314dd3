"""The interface of exit counters, and the values that they return."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

Exits = tuple[int, ...]
"""Exits so far for each of the catalogue's EXIT_REASONS, in that order."""

Counts = tuple[int, ...]
"""A thread's exits, followed by the CLOCK_BOOTTIME of its first exit in nanoseconds."""


class ProcessExits:
    """The counts of a process by vCPU thread; counters that do not know threads use thread 0."""

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
    """One way to count. It counts `reasons`; other reasons are in no header."""

    name: str
    reasons: tuple[str, ...]
    counts_from_birth: bool  # whether all exits of a process younger than the counters are counted
    knows_threads: bool
    notes: tuple[str, ...]  # exits that it cannot count, and why; for messages

    def begin(self, pid: int) -> None:
        """Count exits of this process too. Raises OSError."""

    def read(self) -> Mapping[int, ProcessExits]:
        """All processes with exits, by process id, also those without `begin`."""

    def lost(self) -> int:
        """The number of exits that found no space in the map."""

    def forget(self, pid: int) -> None:
        """The process is dead: delete its counts."""

    def close(self) -> None: ...
