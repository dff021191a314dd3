"""One life of a VM: a session of its stream, made of sources."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from rondo_tools.attach.sinks import Sink
from rondo_tools.attach.sources.base import Moment, Source
from rondo_tools.stream import End, Header, Tick


class Vm:
    """Sends ticks to a sink until its end. Times ascend, whatever the clock does meanwhile."""

    def __init__(self, header: Header, sources: Sequence[Source], sink: Sink) -> None:
        """`header` without its series: they are those of the sources."""
        self._sources = sources
        series = tuple(series for source in sources for series in source.series)
        self.header = header._replace(series=series)
        self._layout = struct.Struct(f"<{len(series)}d")
        self._last_ms = header.start_ms
        self.ticks = 0
        self._session = sink.begin(self.header)

    @property
    def name(self) -> str:
        return self.header.instance

    def tick(self, moment: Moment) -> None:
        if moment.t_ms <= self._last_ms:
            return
        self._send(moment)

    def end(self, moment: Moment, reason: str) -> None:
        """The last tick, after every other, and the end."""
        self._send(moment._replace(t_ms=max(moment.t_ms, self._last_ms + 1)))
        self._session.end(End(reason, self._last_ms))

    def begin_anew(self, start_ms: int) -> None:
        """Go on in another session, whose counters begin at 0: the clock was set back."""
        end = End("clock", self._last_ms)
        for source in self._sources:
            source.begin_anew()
        self.header = self.header._replace(start_ms=start_ms)
        self._last_ms = start_ms
        self._session.begin_anew(end, self.header)

    def _send(self, moment: Moment) -> None:
        values = [value for source in self._sources for value in source.values(moment)]
        self._last_ms = moment.t_ms
        self.ticks += 1
        self._session.tick(Tick(moment.t_ms, self._layout.pack(*values)))
