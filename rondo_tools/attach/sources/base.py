"""The interface of sources, which give a VM's values.

Strategy: a session's header lists the series of its sources, in order; a tick asks each source for its
values. A source has only series that it can measure: a series without values is in no header, and is never
sent as zero. A source that is late returns NaN for a gauge, and the last value for a counter; it never waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from rondo_tools.attach.counters.base import ProcessExits
from rondo_tools.catalog import Series


class Moment(NamedTuple):
    """A time, and the exits of all VMs that were read at it."""

    t_ms: int  # of the tick
    boot_s: float  # the same time by CLOCK_BOOTTIME
    exits: Mapping[int, ProcessExits]  # by process id


class Source(Protocol):
    """Gives the values of one VM."""

    series: tuple[Series, ...]

    def values(self, moment: Moment) -> Sequence[float]:
        """One value for each of `series`."""

    def begin_anew(self) -> None:
        """Let the counters begin at 0 again, from their last values."""


class LateSource(Source, Protocol):
    """A source that waits for a VMM's answer, and has no series before the first one."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Labels for the session, as far as known."""

    @property
    def awaits_labels(self) -> bool:
        """Whether more labels may still come."""

    @property
    def end_reason(self) -> str:
        """The reason of the VM's end, if the source knows it; else ""."""

    @property
    def is_done(self) -> bool:
        """Whether its VM is dead, and the last reading has come."""

    def take(self) -> bool:
        """Take the newest reading for `values`; True if `series` changed."""
