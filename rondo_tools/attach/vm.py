"""One life of a VM: a session of its stream, made of sources."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from rondo_tools.attach.sinks import Sink
from rondo_tools.attach.sources.base import LateSource, Moment, Source
from rondo_tools.catalog import Series
from rondo_tools.stream import End, Header, Tick


class Vm:
    """Sends ticks to a sink until its end. Times ascend, whatever the clock does meanwhile.

    When a late source has its first answer, the session goes on with its series too. A series that two
    sources have is the first one's, for good.
    """

    def __init__(
        self,
        header: Header,
        sources: Sequence[Source],
        sink: Sink,
        late: Sequence[LateSource] = (),
        last_ms: int = 0,
    ) -> None:
        """`header` without its series: they are those of the sources. `last_ms` is when the session may have
        had a tick already, if it goes on.
        """
        self.late = late
        self._sources = (*sources, *late)
        self._owners: dict[Series, Source] = {}
        self._columns: list[int] | None = None  # of the sources' values; None is all of them
        for source in late:
            source.take()
        self.header = header
        self._set_series()
        self._last_ms = max(header.start_ms, last_ms)
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

    def _set_series(self) -> None:
        known = [(series, source) for source in self._sources for series in source.series]
        columns = [
            at for at, (series, source) in enumerate(known)
            if self._owners.setdefault(series, source) is source
        ]  # fmt: skip
        self._columns = columns if len(columns) < len(known) else None
        series = tuple(known[at][0] for at in columns)
        self._layout = struct.Struct(f"<{len(series)}d")
        self.header = self.header._replace(series=series)

    def _send(self, moment: Moment) -> None:
        has_news = [source.take() for source in self.late]
        if any(has_news):
            self._set_series()
            self._session.go_on(self.header)
        values = [value for source in self._sources for value in source.values(moment)]
        if self._columns is not None:
            values = [values[at] for at in self._columns]
        self._last_ms = moment.t_ms
        self.ticks += 1
        self._session.tick(Tick(moment.t_ms, self._layout.pack(*values)))
