"""The stream for people: the same header, ticks and end as lines.

    # rondo instance=vm-1 start=2026-01-31T12:00:00.000Z interval=1s host=a1
    2026-01-31T12:00:01.000Z vcpu_exits_total{reason="io"}=517 ... vmm_uptime_seconds=0.62
    # end poweroff 2026-01-31T12:00:45.310Z

No value is ``-``. No program reads these lines; programs read the stream.
"""

from __future__ import annotations

import struct
import time

from rondo_tools.catalog import Series, escape
from rondo_tools.stream import End, Event, Header
from rondo_tools.units import format_duration


class TextEncoder:
    """Encodes events as lines of UTF-8; the header first, because it has the names of the values."""

    def __init__(self) -> None:
        self._series: tuple[Series, ...] = ()

    def encode(self, event: Event) -> bytes:
        if isinstance(event, Header):
            self._series = event.series
            facts = [
                ("instance", event.instance),
                ("start", _time(event.start_ms)),
                ("interval", format_duration(event.interval_ms)),
                *event.labels,
            ]
            line = " ".join(["# rondo", *(f"{name}={escape(value)}" for name, value in facts)])
        elif isinstance(event, End):
            line = f"# end {event.reason} {_time(event.t_ms)}"
        else:
            values = struct.unpack(f"<{len(self._series)}d", event.values)
            pairs = (f"{series}={_number(value)}" for series, value in zip(self._series, values, strict=True))
            line = " ".join([_time(event.t_ms), *pairs])
        return line.encode() + b"\n"


def _time(t_ms: int) -> str:
    seconds, ms = divmod(t_ms, 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{ms:03}Z"


def _number(value: float) -> str:
    if value != value:
        return "-"
    return str(int(value)) if value.is_integer() else f"{value:.3f}"
