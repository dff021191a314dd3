"""Parses times as people write them, and prints them to the millisecond.

Strategy: all times of a command become a `Span` of Unix milliseconds, with one "now", before anything is
read; after that no clock is read. A time without a zone is local time, for any output: a command means the
same in a pipe.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day
from typing import NamedTuple

import numpy as np

from rondo_tools.errors import UsageError
from rondo_tools.stream import MAX_T_MS
from rondo_tools.units import parse_duration

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_DURATION = re.compile(r"(?:[0-9.]+[a-z]+)+")
_OF_DAY = re.compile(
    r"(?:(?P<day>today|yesterday|[0-9]{4}-[0-9]{2}-[0-9]{2})[ T]+)?(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})"
    r"(?::(?P<second>[0-9]{2}(?:\.[0-9]{1,6})?))?"
)
_DAY = re.compile(r"(?P<day>today|yesterday)(?P<hour>)(?P<minute>)(?P<second>)")
_DAY_MS, _YEAR_10000_MS = 86_400_000, 253_402_300_800_000
# The positions of the digits of hours, minutes, seconds and milliseconds, and the value of each in ms.
_DIGITS = (
    (11, 36_000_000), (12, 3_600_000), (14, 600_000), (15, 60_000), (17, 10_000), (18, 1_000), (20, 100),
    (21, 10), (22, 1),
)  # fmt: skip
# A number >= this is milliseconds, as --unix prints them: in seconds it would be the year 5138.
_MILLISECONDS_FROM = 10**11


class Span(NamedTuple):
    """From `start_ms` to `end_ms`, both included; None is open."""

    start_ms: int | None
    end_ms: int | None

    def text(self, shown: Callable[[int], str]) -> str:
        start = "the beginning" if self.start_ms is None else shown(self.start_ms)
        end = "now" if self.end_ms is None else shown(self.end_ms)
        return f"{start} to {end}"


def parse_time(
    text: str, now_ms: int, *, utc: bool = False, after_ms: int | None = None, latest: bool = False
) -> int:
    """A time as people write it, in Unix milliseconds; without a zone it is local, or UTC if `utc`.

    - ``now``, or ``-10m`` for ten minutes ago;
    - ISO 8601, such as ``2026-11-23 10:00`` or ``2026-11-23T10:00:00Z``;
    - ``14:12`` or ``14:12:30``: the last one before now, or the first one from `after_ms` on;
    - ``today``, ``yesterday``, ``yesterday 03:00``;
    - Unix seconds or milliseconds.

    A time that occurs twice is the first one, or the second if `latest`. A time that the clock skips is the
    moment at which it skips. Raises UsageError.
    """
    if text == "now":
        return now_ms
    if text.startswith("-"):
        return now_ms - parse_duration(text[1:])
    if _NUMBER.fullmatch(text):
        seconds = float(text)
        t_ms = seconds if seconds >= _MILLISECONDS_FROM else seconds * 1000
        if t_ms > MAX_T_MS:
            raise UsageError(f"{text} is too large: write Unix seconds or milliseconds")
        return round(t_ms)
    try:
        match = _DAY.fullmatch(text) or _OF_DAY.fullmatch(text)
        if match is None:
            return _unix_ms(datetime.fromisoformat(text), utc, latest)
        day, of_day = match["day"], _time_of_day(match["hour"], match["minute"], match["second"])
        from_ms = now_ms if day or after_ms is None else after_ms
        date = datetime.fromtimestamp(from_ms / 1000, UTC if utc else None).date()
        if day and day[0].isdigit():
            date = datetime.fromisoformat(day).date()

        def on(days: int) -> int:
            return _unix_ms(datetime.combine(date + timedelta(days), of_day), utc, latest)

        if day:
            return on(-1 if day == "yesterday" else 0)
        if after_ms is None:
            return on(0) if on(0) <= now_ms else on(-1)
        return on(0) if on(0) >= after_ms else on(1)
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"{text!r} is not a time: write 14:12, 'yesterday 03:00', '2026-11-23 10:00', "
            "2026-11-23T10:00:00Z, now, -10m for ten minutes ago, or Unix seconds"
        ) from None


def _time_of_day(hour: str | None, minute: str | None, second: str | None) -> time_of_day:
    whole, _, part = (second or "0").partition(".")
    return time_of_day(int(hour or 0), int(minute or 0), int(whole), int(f"{part:0<6}"))


def _unix_ms(moment: datetime, utc: bool, latest: bool) -> int:
    if moment.tzinfo is None and utc:
        moment = moment.replace(tzinfo=UTC)
    if moment.tzinfo is not None:
        return round(moment.timestamp() * 1000)
    first = round(moment.replace(fold=0).timestamp() * 1000)
    second = round(moment.replace(fold=1).timestamp() * 1000)
    if first > second:  # the clock skips it
        return 1000 * _change_s(second // 1000, first // 1000)
    return second if latest else first


def _change_s(before_s: int, after_s: int) -> int:
    """The second at which local time changes its offset from UTC, once between these two."""
    offset_s = time.localtime(before_s).tm_gmtoff
    while after_s - before_s > 1:
        between_s = (before_s + after_s) // 2
        if time.localtime(between_s).tm_gmtoff == offset_s:
            before_s = between_s
        else:
            after_s = between_s
    return after_s


def parse_stretch(text: str, now_ms: int, *, utc: bool = False) -> range:
    """The milliseconds of a day, minute, second or millisecond, as `text` has it. Raises UsageError."""
    begin_ms = parse_time(text, now_ms, utc=utc)
    if _NUMBER.fullmatch(text):
        length_ms = 1_000 if "." not in text and begin_ms == 1_000 * int(text) else 1
    elif ":" not in text:
        length_ms = _DAY_MS
    else:
        of_day = re.split(r"[Z+]|(?<=:[0-9]{2})-", text)[0]
        length_ms = 1 if "." in of_day else 1_000 if of_day.count(":") == 2 else 60_000
    return range(begin_ms, begin_ms + length_ms)


def parse_since(text: str, now_ms: int, *, utc: bool = False) -> int:
    """The value of --since, in ms: a time, or ``10m`` for ten minutes ago. Raises UsageError."""
    text = f"-{text}" if _DURATION.fullmatch(text) else text
    return _flag("--since", lambda: parse_time(text, now_ms, utc=utc))


def make_span(
    range_: str | None, start: str | None, end: str | None, now_ms: int, *, utc: bool = False
) -> Span:
    """The span of --range, --start and --end. Raises UsageError, which names the flag."""
    if range_ is not None and start is not None:
        raise UsageError("--range and --start both set the start: give one of them")
    start_ms = end_ms = None
    if start is not None:
        start_ms = _flag("--start", lambda: parse_time(start, now_ms, utc=utc))
    if end is not None:
        end_ms = _flag("--end", lambda: parse_time(end, now_ms, utc=utc, after_ms=start_ms, latest=True))
    if range_ is not None:
        length_ms = _flag("--range", lambda: parse_duration(range_))
        start_ms = (now_ms if end_ms is None else end_ms) - length_ms
    if start_ms is not None and end_ms is not None and start_ms > end_ms:
        raise UsageError(f"--end {end} is before --start {start}")
    return Span(start_ms, end_ms)


def _flag(flag: str, parse: Callable[[], int]) -> int:
    try:
        return parse()
    except UsageError as exc:
        raise UsageError(f"{flag}: {exc}") from None


def format_times(t_ms: Sequence[int]) -> list[str]:
    """``2026-11-23T10:00:00.123Z`` for each of some Unix milliseconds."""
    times = np.asarray(t_ms, np.int64)
    if not times.size or times.min() < 0 or times.max() >= _YEAR_10000_MS:
        moments = np.datetime_as_string(times.astype("datetime64[ms]"), unit="ms")
        return [f"{moment}Z" for moment in moments.tolist()]
    # Digit by digit for all times together: ten times as fast, for lists of 100,000 sessions.
    days, ms = np.divmod(times, _DAY_MS)
    known, place = np.unique(days, return_inverse=True)
    dates = np.datetime_as_string(known.astype("datetime64[D]")).astype("S10").view(np.uint8).reshape(-1, 10)
    text = np.empty((times.size, 24), np.uint8)
    text[:] = np.frombuffer(b"0000-00-00T00:00:00.000Z", np.uint8)
    text[:, :10] = dates[place.reshape(-1)]
    for at, unit in _DIGITS:
        text[:, at] += (ms // unit % (6 if unit in (600_000, 10_000) else 10)).astype(np.uint8)
    together = text.tobytes().decode("ascii")
    return [together[at : at + 24] for at in range(0, len(together), 24)]
