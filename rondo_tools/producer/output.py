"""One destination of a stream, as a state machine that never waits; its driver waits.

Strategy: `fileno`, `wants_read`, `wants_write` and `deadline` are what it waits for; the driver calls
`on_readable`, `on_writable` and `on_time` when that happens. Calling one of them too early does no harm.
`put` keeps an item and does no I/O; the next `on_time` sends it, so call that afterwards. A call that
closes a descriptor opens no other one, so that a new descriptor is never taken for the old one.

`put`, `begin_anew` and `finish` may be called from any thread, all other methods from one.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

from rondo_tools.producer.backlog import KEPT, Backlog
from rondo_tools.units import format_count

_log = logging.getLogger(__name__)


class Notices:
    """The events of outputs, as log messages. A watcher of many VMs logs each once for all of them."""

    def falls_behind(self, output: Output) -> None:
        """The first item was dropped."""
        _log.warning("%s does not keep up: its oldest %s are being dropped", output.name, output.items)

    def failed(self, output: Output, reason: str) -> None:
        """The connection failed; called once until it is there again."""
        _log.warning(
            "%s: %s; trying again and again (is rondo-store --listen running there?)", output.name, reason
        )

    def connected(self, output: Output) -> None:
        """The connection is there again."""
        _log.info("%s: connected", output.name)

    def refused(self, output: Output, counts: Mapping[str, int]) -> None:
        """The store acknowledged all ticks except these."""
        ticks = format_count(sum(counts.values()), "tick")
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items())
        _log.warning("%s: the store refused %s, now given up: %s", output.name, ticks, reasons)

    def unwritable(self, output: Output, reason: str) -> None:
        """A file cannot be written for now; called once until it could."""
        _log.warning("%s: %s; trying again every second", output.name, reason)

    def reader_gone(self, output: Output, reason: str) -> None:
        """The reader is gone for good."""
        _log.warning("the reader of %s is gone (%s)", output.name, reason)


NOTICES = Notices()


class Output(ABC):
    """Call `begin`, then `put` repeatedly, then `finish`; its driver calls it until it `is_over`.

    It is over when nothing more will be written: `delivered` if everything arrived, `gone` if the reader is
    gone, or neither if it was closed before.
    """

    __slots__ = (
        "backlog",
        "deadline",
        "delivered",
        "gone",
        "is_over",
        "items",
        "name",
        "notices",
        "wants_read",
        "wants_write",
    )

    def __init__(
        self, name: str, *, items: str = "ticks", limit: int = KEPT, notices: Notices = NOTICES
    ) -> None:
        self.name = name
        self.items = items
        self.notices = notices
        self.backlog = Backlog(limit)
        self.delivered = False
        self.gone = False
        self.is_over = False
        self.wants_read = False
        self.wants_write = False
        self.deadline = 0.0  # when to call `on_time` if nothing else happens; math.inf for never

    @property
    @abstractmethod
    def missing(self) -> int:
        """How many items have no acknowledgement."""

    @abstractmethod
    def fileno(self) -> int:
        """The descriptor to watch, always for errors and a hang-up; -1 for none."""

    def begin(self, header: bytes) -> None:
        """Set the header of the items; call it first."""
        self.backlog.begin(header)

    def put(self, item: bytes) -> None:
        if self.backlog.put(item) and not self.gone:
            self.notices.falls_behind(self)

    def begin_anew(self, end: bytes, header: bytes) -> None:
        """End the session and begin another one; without `end`, continue it with another header."""
        self.backlog.begin_anew(end, header)

    def finish(self, end: bytes = b"") -> None:
        self.backlog.finish(end)

    @abstractmethod
    def on_readable(self, now: float) -> None:
        """There is data to read, an error or a hang-up."""

    @abstractmethod
    def on_writable(self, now: float) -> None:
        """The descriptor is writable."""

    @abstractmethod
    def on_time(self, now: float) -> None:
        """The deadline has passed, or there is news: an item, another session, the end."""

    def close(self) -> None:
        """End the output, even if not everything was delivered; safe to call again."""
        self.is_over = True
        self.deadline = math.inf
        self._let_go()

    @abstractmethod
    def _let_go(self) -> None:
        """Close the descriptor, and stop waiting for it."""
