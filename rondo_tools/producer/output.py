"""One destination of a stream, as a state machine: it never waits, whoever drives it does.

Strategy: `fileno`, `wants_read`, `wants_write` and `deadline` say what it waits for; `on_readable`,
`on_writable` and `on_time` tell it that this has come. To call one of them too early does no harm. `put`
keeps an item and does no I/O; what there is to send is sent at the next call of `on_time`, so that is
due after it. A call that closes a descriptor opens no other: the number of a new one is never taken for
the old one.

`put`, `begin_anew` and `finish` may be called from any thread, all else from one.
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
    """What outputs have to say, as lines of the log. A watcher of many VMs says it once for all of them."""

    def falls_behind(self, output: Output) -> None:
        """The first item was dropped."""
        _log.warning("%s does not keep up: its oldest %s are being dropped", output.name, output.items)

    def failed(self, output: Output, reason: str) -> None:
        """There is no connection; said once, until there was one again."""
        _log.warning(
            "%s: %s; trying again and again (is rondo-store --listen running there?)", output.name, reason
        )

    def connected(self, output: Output) -> None:
        """There is a connection again."""
        _log.info("%s: connected", output.name)

    def refused(self, output: Output, counts: Mapping[str, int]) -> None:
        """The store acknowledged, but for these ticks."""
        ticks = format_count(sum(counts.values()), "tick")
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items())
        _log.warning("%s: the store refused %s, now given up: %s", output.name, ticks, reasons)

    def unwritable(self, output: Output, reason: str) -> None:
        """A file cannot be written for now; said once, until it could."""
        _log.warning("%s: %s; trying again every second", output.name, reason)

    def reader_gone(self, output: Output, reason: str) -> None:
        """Nobody will read what is written from now on."""
        _log.warning("the reader of %s is gone (%s)", output.name, reason)


NOTICES = Notices()


class Output(ABC):
    """`begin`, then any number of `put`, then `finish`; and calls of its driver until it `is_over`.

    Over is an output when nothing more will be written: `delivered` if all of it arrived, `gone` if
    there is nobody left to write to, or neither if it was closed before.
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
        self.deadline = 0.0  # when to call `on_time`, also if nothing happens; math.inf for never

    @property
    @abstractmethod
    def missing(self) -> int:
        """How many items are not known to have arrived."""

    @abstractmethod
    def fileno(self) -> int:
        """The descriptor to watch, for errors and a hang-up also if it wants nothing; -1 for none."""

    def begin(self, header: bytes) -> None:
        """What stands before the items; before anything else is called."""
        self.backlog.begin(header)

    def put(self, item: bytes) -> None:
        if self.backlog.put(item) and not self.gone:
            self.notices.falls_behind(self)

    def begin_anew(self, end: bytes, header: bytes) -> None:
        """End the session, and begin another; or with no `end`, go on in it with another header."""
        self.backlog.begin_anew(end, header)

    def finish(self, end: bytes = b"") -> None:
        self.backlog.finish(end)

    @abstractmethod
    def on_readable(self, now: float) -> None:
        """There is something to read, or an error, or a hang-up."""

    @abstractmethod
    def on_writable(self, now: float) -> None:
        """There is room for something to write."""

    @abstractmethod
    def on_time(self, now: float) -> None:
        """The deadline has come, or there is news: an item, another session, the end."""

    def close(self) -> None:
        """It is over, also if not all was delivered; safe to call again."""
        self.is_over = True
        self.deadline = math.inf
        self._let_go()

    @abstractmethod
    def _let_go(self) -> None:
        """Close the descriptor, and want nothing of it."""
