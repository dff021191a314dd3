"""Turns lines of standard input, with or without times, into ticks.

Strategy: a value is current until its series gets another one, or for `hold`. Lines without a time may come
at any moment, and each interval has a tick of the current values. Lines with the same time are one tick.
After the input's end the current values are repeated until `hold` is over. Then comes the end.

An invalid line is left out, with a warning; the others are fed. Reads no clock and does no I/O.
"""

from __future__ import annotations

import math

from rondo_tools import foreign
from rondo_tools.feed.session import Session
from rondo_tools.feed.text import MAX_AHEAD_MS, MAX_LINE, Parser, Sample, TextError
from rondo_tools.producer.pace import Pace
from rondo_tools.ratelimit import RateLimit


class Lines:
    """Call `take` with each piece of input, `close` at its end, and `on_time` when `wait_ms` is over."""

    def __init__(self, parser: Parser, session: Session, hold_ms: int, warnings: RateLimit) -> None:
        self._parser, self._session, self._hold_ms, self._warnings = parser, session, hold_ms, warnings
        self._rest = b""  # an incomplete line
        self._is_foreign = False  # the first line shows that the input is no text
        self._is_too_long = False  # that line; the rest of it is dropped
        self._number = 0  # of the last complete line, for messages
        self._pace: Pace | None = None  # while the clock drives the ticks
        self._time_ms = 0  # the last time in a line
        self._came_ms = 0  # arrival of the last value
        self._is_pending = False  # the last value was in no tick yet
        self._ticked_ms = -math.inf  # the clock at the last tick
        self._newest_ms = 0  # the time of the newest value
        self._has_ended = False
        self.has_times: bool | None = None  # whether lines have a time; None until one has come
        self.is_over = False
        self.refused = 0  # lines that were left out

    @property
    def is_held(self) -> bool:
        """Whether the input has ended and its values are still repeated."""
        return self._has_ended and not self.is_over

    def take(self, data: bytes, now_ms: int) -> None:
        """Process the next bytes of the input."""
        self._parser.trim()
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._number += 1
            whole, self._rest = self._rest + line, b""
            if not self._is_too_long:
                self._line(whole, now_ms)
            self._is_too_long = False
        if not self._is_too_long:
            self._rest += rest
            if len(self._rest) > MAX_LINE:
                self._refuse(f"longer than {MAX_LINE} bytes", self._number + 1)
                self._rest, self._is_too_long = b"", True

    def close(self, now_ms: int) -> None:
        """The input has ended."""
        if self._rest.strip():
            self._refuse_line("it has no newline, so it may be cut", self._rest, self._number + 1)
        self._has_ended = True
        if self.has_times:
            self._flush()
            self._ticked_ms = math.inf  # no value comes after this
            self._pace = Pace(self._session.interval_ms, self._session.last_ms)
        self.on_time(now_ms)

    def on_time(self, now_ms: int) -> None:
        """Send the tick that is due, or the end."""
        if self._has_ended and (not self._hold_ms or now_ms >= self._newest_ms + self._hold_ms):
            self.stop("eof", now_ms)
        elif self._pace is not None:
            if not self.has_times and self._pace.is_set_back(now_ms):
                self._session.set_back(now_ms)
                self._pace = Pace(self._session.interval_ms, now_ms)
            t_ms = self._pace.next(now_ms)
            if t_ms is not None:
                self._tick(t_ms, now_ms)
        elif now_ms >= self._came_ms + self._session.interval_ms:
            self._flush()

    def wait_ms(self, now_ms: int) -> float:
        """The time until `on_time` is due."""
        wait_ms = math.inf
        if self._pace is not None:
            wait_ms = self._pace.wait_ms(now_ms)
        elif self._is_pending:
            wait_ms = self._came_ms + self._session.interval_ms - now_ms
        if self._has_ended:
            wait_ms = min(wait_ms, self._newest_ms + self._hold_ms - now_ms)
        return max(wait_ms, 0)

    def stop(self, reason: str, now_ms: int) -> None:
        """Send the values since the last tick, and the end."""
        self.is_over = True
        if self.has_times:
            self._flush()
        elif self._is_pending and self._pace is not None:
            self._tick(self._pace.final(now_ms), now_ms)
        if self._session.has_begun:
            self._session.finish(reason)

    def _line(self, line: bytes, now_ms: int) -> None:
        try:
            sample = self._parser.line(line)
            if sample is not None:
                self._give(sample, now_ms)
        except TextError as exc:
            self._refuse_line(str(exc), line, self._number)

    def _give(self, sample: Sample, now_ms: int) -> None:
        current, value, t_ms = sample
        if self.has_times is None:
            self.has_times = t_ms is not None
            self._session.start_at(now_ms if t_ms is None else t_ms)
            self._pace = Pace(self._session.interval_ms, now_ms) if t_ms is None else None
        if self.has_times != (t_ms is not None):
            had, has = ("no time", "has one") if t_ms is not None else ("a time", "has none")
            raise TextError(
                f"the lines before it had {had} and it {has}: give a time to all lines or to none"
            )
        at_ms = now_ms
        oldest_ms = min(now_ms - self._hold_ms, self._ticked_ms)
        if t_ms is not None:
            at_ms, oldest_ms = t_ms, t_ms - self._hold_ms
            if t_ms > now_ms + MAX_AHEAD_MS:
                raise TextError("its time is over 10 min ahead of this clock")
            if t_ms < self._time_ms or (t_ms == self._time_ms and not self._is_pending):
                raise TextError(
                    "its time is before that of the tick above it; a tick has one time, and ticks ascend: "
                    "sort the lines by time"
                )
            if t_ms > self._time_ms:
                self._flush()
            self._time_ms = t_ms
        self._session.give(current, value, at_ms, oldest_ms)
        self._newest_ms, self._came_ms, self._is_pending = at_ms, now_ms, True

    def _flush(self) -> None:
        """Send the tick of the last time."""
        if self._is_pending:
            self._send(self._time_ms, self._time_ms - self._hold_ms)

    def _tick(self, t_ms: int, now_ms: int) -> None:
        """Send the current values: those not older than `hold`, or newer than the last tick."""
        self._send(t_ms, min(now_ms - self._hold_ms, self._ticked_ms))
        self._ticked_ms = now_ms

    def _send(self, t_ms: int, oldest_ms: float) -> None:
        self._is_pending = False
        try:
            self._session.tick(t_ms, oldest_ms)
        except TextError as exc:
            self._refuse(str(exc), self._number)
            self._session.tick(t_ms, oldest_ms)  # without the new series

    def _refuse_line(self, why: str, line: bytes, number: int) -> None:
        """Leave a line out; if the first line is not text, name the kind of input, and only that."""
        if self._is_foreign:
            self.refused += 1
            return
        kind = foreign.kind_of(line) if number == 1 else ""
        self._is_foreign = foreign.is_packed(kind) or kind in (foreign.STREAM, foreign.DUMP)
        if foreign.is_packed(kind):
            why = f"this is compressed; give it through {kind} -dc"
        elif kind in (foreign.STREAM, foreign.DUMP):
            why = f"this is {kind}, which rondo-store reads"
        self._refuse(why, number)

    def _refuse(self, why: str, number: int) -> None:
        self.refused += 1
        self._warnings.warn("lines", "line %d is left out: %s", number, why)
