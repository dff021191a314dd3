"""``--text``: a line for each VM and tick, with rates a second since the line before.

12:00:01.000 web-1  io 20003/s mmio 0/s hlt 12/s shutdown 0/s other 0/s  cpu 98 % wait 1 %  rss 42.1 MiB fds
21

An unknown value is `-`.
"""

from __future__ import annotations

import select
import struct
import time
from collections.abc import Mapping
from types import MappingProxyType

from rondo_tools.attach.sinks import DrivenPipe
from rondo_tools.catalog import EXIT_REASONS, escape
from rondo_tools.printable import printable
from rondo_tools.producer.pipe import Pipe
from rondo_tools.stream import End, Header, Tick
from rondo_tools.units import format_duration, format_size

_KEPT = 1000  # turns of the loop, each with the lines of any number of VMs


class TextSink(DrivenPipe):
    """Writes lines to a descriptor; those of one turn of the loop in one write."""

    def __init__(self, epoll: select.epoll, fd: int) -> None:
        super().__init__(epoll, Pipe(fd, "standard output", items="lines", limit=_KEPT))
        self._pipe.begin(b"")
        self._lines: list[str] = []

    def begin(self, header: Header) -> TextSession:
        return TextSession(header, self._lines)

    def turn(self) -> None:
        if self._lines and not self._pipe.is_over:
            self._pipe.put("".join(self._lines).encode())
            self._update()
        self._lines.clear()
        super().turn()


class TextSession:
    """Writes a session as lines."""

    def __init__(self, header: Header, lines: list[str]) -> None:
        self._lines = lines
        self._begin(header)

    def _begin(self, header: Header) -> None:
        self._name = printable(header.instance)
        self._before_ms = header.start_ms
        self._set_series(header)
        labels = "".join(f" {name}={escape(printable(value))}" for name, value in header.labels)
        self._add_line(header.start_ms, f"begins:{labels} interval={format_duration(header.interval_ms)}")

    def _set_series(self, header: Header, before: Mapping[str, float] = MappingProxyType({})) -> None:
        self._columns = {str(series): at for at, series in enumerate(header.series)}
        self._layout = struct.Struct(f"<{len(header.series)}d")
        self._before: tuple[float, ...] = tuple(before.get(key, 0.0) for key in self._columns)

    def go_on(self, header: Header) -> None:
        self._set_series(header, dict(zip(self._columns, self._before, strict=True)))

    def tick(self, tick: Tick) -> None:
        values = self._layout.unpack(tick.values)
        span_s = max(tick.t_ms - self._before_ms, 1) / 1000
        rates = tuple((now - before) / span_s for now, before in zip(values, self._before, strict=True))
        self._before_ms, self._before = tick.t_ms, values
        exits = " ".join(f"{reason} {self._number(rates, _exits(reason))}/s" for reason in EXIT_REASONS)
        cpu = self._percent(rates, "vmm_cpu_seconds_total")
        wait = self._percent(rates, "vcpu_wait_seconds_total")
        rss = self._value(values, "vmm_rss_bytes")
        size = "-" if rss is None else format_size(int(rss))
        fds = self._number(values, "vmm_open_fds")
        self._add_line(tick.t_ms, f"{exits}  cpu {cpu} wait {wait}  rss {size} fds {fds}")

    def begin_anew(self, end: End, header: Header) -> None:
        self.end(end)
        self._begin(header)

    def end(self, end: End) -> None:
        counted = [reason for reason in EXIT_REASONS if _exits(reason) in self._columns]
        totals = ", ".join(f"{reason} {self._number(self._before, _exits(reason))}" for reason in counted)
        self._add_line(end.t_ms, f"ends: {end.reason}; exits: {totals or 'not counted'}")

    def _value(self, values: tuple[float, ...], key: str) -> float | None:
        at = self._columns.get(key)
        return None if at is None or values[at] != values[at] else values[at]

    def _number(self, values: tuple[float, ...], key: str) -> str:
        value = self._value(values, key)
        return "-" if value is None else f"{value:.0f}"

    def _percent(self, values: tuple[float, ...], key: str) -> str:
        value = self._value(values, key)
        return "-" if value is None else f"{100 * value:.0f} %"

    def _add_line(self, t_ms: int, text: str) -> None:
        seconds, ms = divmod(t_ms, 1000)
        clock = time.strftime("%H:%M:%S", time.localtime(seconds))
        self._lines.append(f"{clock}.{ms:03} {self._name}  {text}\n")


def _exits(reason: str) -> str:
    return f'vcpu_exits_total{{reason="{reason}"}}'
