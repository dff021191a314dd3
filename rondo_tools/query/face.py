"""The format of printed times: local time for people at a terminal, else UTC, or numbers.

Strategy: a printed time has its zone, so that it can be used in a question as it is, anywhere.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple, TextIO

from rondo_tools.query.times import format_times


class Face(NamedTuple):
    """A format of times: ISO 8601 in UTC or, if `local`, in local time; or Unix milliseconds if `unix`.

    If `elapsed`, times are milliseconds since a beginning: printed as seconds, or unchanged if `unix`.
    """

    local: bool = False
    unix: bool = False
    elapsed: bool = False

    @property
    def is_number(self) -> bool:
        return self.unix or self.elapsed

    @property
    def width(self) -> int:
        return 13 if self.is_number else len("2026-11-23T10:00:00.123+00:00") if self.local else 24

    def times(self, t_ms: list[int]) -> list[str]:
        if self.unix:
            return list(map(str, t_ms))
        if self.elapsed:
            return [f"{each / 1000:.3f}" for each in t_ms]
        return _format_local(t_ms) if self.local else format_times(t_ms)

    def time(self, t_ms: int) -> str:
        return self.times([t_ms])[0]

    def ahead_ms(self, t_ms: int) -> int:
        """How far the printed time is ahead of UTC."""
        return 1000 * _offset_s(t_ms) if self.local else 0

    def zone(self, t_ms: int) -> str:
        """``UTC``, or ``+01:00`` of local time."""
        return _zone(_offset_s(t_ms)) if self.local else "UTC"


UTC, UNIX = Face(), Face(unix=True)


def face(out: TextIO, *, utc: bool, unix: bool = False) -> Face:
    """Local time on a terminal; UTC in files, in pipes, and if `utc`."""
    is_local = not (utc or unix) and out.isatty() and (time.timezone != 0 or bool(time.daylight))
    return Face(local=is_local, unix=unix)


def _format_local(t_ms: Sequence[int]) -> list[str]:
    offsets = [_offset_s(each) for each in t_ms]
    shown = format_times([each + 1000 * offset for each, offset in zip(t_ms, offsets, strict=True)])
    return [f"{each[:-1]}{_zone(offset)}" for each, offset in zip(shown, offsets, strict=True)]


def _offset_s(t_ms: int) -> int:
    try:
        return time.localtime(t_ms // 1000).tm_gmtoff
    except (ValueError, OverflowError, OSError):  # such as a year outside the system's calendar
        return 0


def _zone(offset_s: int) -> str:
    hours, rest = divmod(abs(offset_s), 3600)
    seconds = f":{rest % 60:02}" if rest % 60 else ""  # local mean time, before time zones
    return f"{'-' if offset_s < 0 else '+'}{hours:02}:{rest // 60:02}{seconds}"
