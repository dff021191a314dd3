"""A source of values for a VM: what every way to know something about it has in common.

Strategy: a session's header lists the series of its sources, in order; a tick asks each of them for its
values. A source has only series that it can know: what cannot be counted is in no header, and is never
sent as zero. A source that is late answers NaN for a gauge, and for a counter its last value; it never waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from rondo_tools.attach.counters.base import ProcessExits
from rondo_tools.catalog import Series


class Moment(NamedTuple):
    """A time, and what was read at it for all VMs at once."""

    t_ms: int  # of the tick
    boot_s: float  # the same, by CLOCK_BOOTTIME
    exits: Mapping[int, ProcessExits]  # by process id


class Source(Protocol):
    """Values of one VM."""

    series: tuple[Series, ...]

    def values(self, moment: Moment) -> Sequence[float]:
        """One value for each of `series`."""

    def begin_anew(self) -> None:
        """Let counters begin at 0, at their last values."""


class LateSource(Source, Protocol):
    """A source that waits for somebody's answer, and has no series before it came."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Labels for the session, as far as they are known."""

    @property
    def awaits_labels(self) -> bool:
        """Whether more labels may still come."""

    @property
    def end_reason(self) -> str:
        """How the VM ended, if the source was told; else ""."""

    @property
    def is_done(self) -> bool:
        """Whether its VM is dead, and nothing more comes of it."""

    def take(self) -> bool:
        """Take what came since the last tick, for `values` to tell; True if `series` are others now."""
