"""Turns an exporter's pages into ticks: one each interval, at the time at which its scrape began.

Strategy: a series that is not on the page has no value. Without a page, or with an invalid one, no series has
a value, and `up` is 0. Reads no clock; does I/O only through the scraper.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from rondo_tools import foreign
from rondo_tools.catalog import GAUGE, Series
from rondo_tools.feed.scrape import Scraped, Scraper
from rondo_tools.feed.session import Session
from rondo_tools.feed.text import MAX_AHEAD_MS, Current, Page, Parser, TextError
from rondo_tools.producer.pace import Pace

_log = logging.getLogger(__name__)

UP = Series("up", (), GAUGE, "", "1 if the scrape brought a page, 0 if not.")
DURATION = Series("scrape_duration_seconds", (), GAUGE, "seconds", "How long the scrape took.")


class Pages:
    """Call `begin`, and then `on_time` when `wait_ms` is over or the scraper is readable."""

    def __init__(
        self, parser: Parser, session: Session, scraper: Scraper, *, ignore_times: bool = False
    ) -> None:
        self._parser, self._session, self._scraper = parser, session, scraper
        self._ignore_times = ignore_times
        self._up, self._duration = parser.add(UP), parser.add(DURATION)
        self._began_ms = 0  # start of the running scrape; 0 for none
        self._has_failed = False  # the last scrape
        self._warned: set[str] = set()
        self.is_over = False
        self._pace = Pace(session.interval_ms, 0)

    def begin(self, now_ms: int) -> None:
        """Start the session."""
        self._session.start_at(now_ms)
        self._pace = Pace(self._session.interval_ms, now_ms)

    def on_time(self, now_ms: int) -> None:
        """Take the result of the scrape, and begin the next one when it is due."""
        if self._began_ms and (scraped := self._scraper.take()) is not None:
            began_ms, self._began_ms = self._began_ms, 0
            self._take(scraped, began_ms)
        if self._began_ms:
            return
        if self._pace.is_set_back(now_ms):
            self._session.set_back(now_ms)
            self._pace = Pace(self._session.interval_ms, now_ms)
        if (t_ms := self._pace.next(now_ms)) is not None:
            self._began_ms = t_ms
            self._scraper.begin()

    def wait_ms(self, now_ms: int) -> float:
        """The time until `on_time` is due, if the scraper has no result before."""
        return self._scraper.left_s * 1000 if self._began_ms else self._pace.wait_ms(now_ms)

    def stop(self, reason: str, now_ms: int) -> None:  # noqa: ARG002  (what came has its tick)
        """Send the end."""
        self.is_over = True
        if self._session.has_begun:
            self._session.finish(reason)

    def _take(self, scraped: Scraped, began_ms: int) -> None:
        own = {self._up: 1.0, self._duration: scraped.seconds}
        page, error = Page({}, None, 0), scraped.error
        try:
            if not error:
                page = self._parser.page(scraped.page, ignore_times=self._ignore_times)
                t_ms = began_ms if page.t_ms is None else page.t_ms
                if t_ms > began_ms + MAX_AHEAD_MS:
                    raise TextError("its time is over 10 min ahead of this clock; --ignore-times ignores it")
                if t_ms > self._session.last_ms:
                    self._send(page.values | own, t_ms)
                elif t_ms < self._session.last_ms:
                    self._warn("its times go back; --ignore-times takes that of the scrape")
                if page.repeated:
                    self._warn("lines name a series again, and only the first of each counts")
        except TextError as exc:
            self._session.take_back(page.values)
            kind = foreign.kind_of(scraped.page)
            is_else = kind in (foreign.HTML, foreign.JSON)
            error = (
                f"this is {kind}, not metrics; is the path right?"
                if is_else
                else f"the page cannot be fed: {exc}"
            )
        if error and began_ms > self._session.last_ms:
            self._send(own | {self._up: 0.0}, began_ms)
        self._log_failure(error)

    def _send(self, values: Mapping[Current, float], t_ms: int) -> None:
        """Send a tick. Raises TextError, without sending, if it does not fit into a stream."""
        for current, value in values.items():
            self._session.give(current, value, t_ms, t_ms)
        self._session.tick(t_ms, t_ms)

    def _log_failure(self, error: str) -> None:
        """Log a failure, once until a page is good again."""
        if error and not self._has_failed:
            _log.warning("%s: %s; up is 0 until that is over", self._scraper.name, error)
        elif self._has_failed and not error:
            _log.info("%s: the page is good again", self._scraper.name)
        self._has_failed = bool(error)

    def _warn(self, what: str) -> None:
        """Log a warning once."""
        if what not in self._warned:
            self._warned.add(what)
            _log.warning("%s: %s", self._scraper.name, what)
