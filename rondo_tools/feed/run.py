"""The loop of input, output, signals and clock, until the input is over and everything is delivered.

Strategy: one thread and one poll. Input is read as fast as ticks are delivered: a recorded input waits in its
pipe while the store is away.
"""

from __future__ import annotations

import math
import os
import select
import time
from typing import TYPE_CHECKING

from rondo_tools import clock
from rondo_tools.feed.lines import Lines
from rondo_tools.feed.session import Session
from rondo_tools.feed.single import Claim
from rondo_tools.producer.driver import Driver
from rondo_tools.producer.output import Output
from rondo_tools.signals import Signals

if TYPE_CHECKING:
    from rondo_tools.feed.pages import Pages
    from rondo_tools.feed.scrape import Scraper

_PIECE = 1 << 16  # bytes read at once
_TIMED_PIECE = 1 << 11  # the same for lines with times: at most 350 ticks
_LONGEST_MS = 3_600_000  # the longest wait
_MOST_WAITING = 200  # waiting ticks above which input is not read; with one piece they fit into a backlog


class Loop:
    """Drives an output, and the source of its session's ticks. `is_signalled` after a signal."""

    def __init__(self, session: Session, output: Output, signals: Signals) -> None:
        self._session, self._output, self._signals = session, output, signals
        self._poll = select.poll()
        self._poll.register(signals.fileno(), select.POLLIN)
        self._driver = Driver(self._poll)
        self.is_signalled = False

    def run_lines(self, lines: Lines, fd: int, claim: Claim | None) -> None:
        """Feed lines from a descriptor, to its end and while its values are held.

        The instance is claimed when the first input comes, so that an older rondo-feed ends its ticks before.
        """
        while not lines.is_over and not self._output.is_over:
            watched = -1
            if not lines.is_held:
                watched = fd if self._output.backlog.waiting < _MOST_WAITING else -1
            elif claim is not None:
                watched = claim.fileno()
            is_ready = self._turn(watched, lines.wait_ms(clock.now_ms()))
            if is_ready and watched == fd:
                _take(lines, fd, claim)
            now_ms = clock.now_ms()
            if is_ready and watched != fd and claim is not None and claim.is_wanted():
                lines.stop("eof", now_ms)
            if not lines.is_over:
                if self.is_signalled:
                    lines.stop("signal", now_ms)
                else:
                    lines.on_time(now_ms)

    def run_pages(self, pages: Pages, scraper: Scraper, claim: Claim | None) -> None:
        """Feed a scraper's pages, until a signal."""
        if claim is not None:
            claim.take()
        pages.begin(clock.now_ms())
        while not pages.is_over and not self._output.is_over:
            self._turn(scraper.fileno(), pages.wait_ms(clock.now_ms()))
            now_ms = clock.now_ms()
            if self.is_signalled:
                pages.stop("signal", now_ms)
            else:
                pages.on_time(now_ms)

    def linger(self, seconds: float) -> None:
        """Deliver for `seconds` more, until everything is delivered, or until another signal."""
        self.is_signalled = False
        deadline = time.monotonic() + seconds
        while (
            not self._output.is_over and not self.is_signalled and (left := deadline - time.monotonic()) > 0
        ):
            self._turn(-1, left * 1000)

    def _turn(self, watched: int, wait_ms: float) -> bool:
        """Drive the output until `watched` is readable, the time is over, or a signal has come.

        Returns whether `watched` is readable.
        """
        now_s = time.monotonic()
        if self._session.has_begun:
            self._driver.update(self._output, now_s)
            if self._output.is_over:
                return False
        left_s = self._driver.timeout(now_s)
        wait_ms = min(wait_ms, _LONGEST_MS, math.inf if left_s < 0 else left_s * 1000)
        if watched >= 0:
            self._poll.register(watched, select.POLLIN)
        events = dict(self._poll.poll(math.ceil(wait_ms)))
        if watched >= 0:
            self._poll.unregister(watched)
        now_s = time.monotonic()
        for fd, event in events.items():
            if fd not in (watched, self._signals.fileno()):
                self._driver.dispatch(fd, event, now_s)
        self._driver.on_time(now_s)
        self.is_signalled |= bool(self._signals.take())
        return watched in events


def _take(lines: Lines, fd: int, claim: Claim | None) -> None:
    """Read a piece of the input. Raises OSError, and RondoError if another rondo-feed has the instance."""
    try:
        piece = os.read(fd, _PIECE if lines.has_times is False else _TIMED_PIECE)
    except BlockingIOError:
        return  # another process with this descriptor made it non-blocking, and has read the input
    if not piece:
        lines.close(clock.now_ms())
        return
    if claim is not None:
        claim.take()
    lines.take(piece, clock.now_ms())
