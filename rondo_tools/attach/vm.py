"""One life of a VM: its session, with the series of its sources."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from rondo_tools.attach.sinks import Session, Sink
from rondo_tools.attach.sources.base import LateSource, Moment, Source
from rondo_tools.catalog import Series
from rondo_tools.stream import End, Header, Tick

LABELS_MS = 2_000  # the longest wait of a session for its labels


class Vm:
    """Sends ticks to a sink until its end. Times ascend, whatever the clock does.

    After the first answer of a late source, the session continues with its series too. A series that two
    sources have always comes from the first one.

    The labels of a session cannot change. So while a late source awaits labels, nothing is sent: ticks are
    held, and the session begins at the first tick after LABELS_MS at the latest.
    """

    def __init__(
        self,
        header: Header,
        sources: Sequence[Source],
        sink: Sink,
        late: Sequence[LateSource] = (),
        last_ms: int = 0,
        *,
        has_labels: bool = False,
    ) -> None:
        """`header` comes without series; those of the sources are added. `last_ms` is the time of the last
        tick of a session that continues; `has_labels` if its labels are final.
        """
        self.late = late
        self._sink = sink
        self._sources = (*sources, *late)
        self._owners: dict[Series, Source] = {}
        self._columns: list[int] | None = None  # the sources' values that are sent; None is all
        for source in late:
            source.take()
        self.header = header
        self._set_series()
        self._last_ms = max(header.start_ms, last_ms)
        self.ticks = 0
        self._session: Session | None = None
        self._held: list[Header | Tick] = [self.header]  # until the session begins
        self._labels_due_ms = self._last_ms + LABELS_MS
        if has_labels:
            self._begin({})
        else:
            self._begin_if_labelled()

    @property
    def name(self) -> str:
        return self.header.instance

    @property
    def last_ms(self) -> int:
        """The time of the last tick, or of the start."""
        return self._last_ms

    @property
    def has_begun(self) -> bool:
        """Whether the session has begun, with final labels."""
        return self._session is not None

    def tick(self, moment: Moment) -> None:
        if moment.t_ms <= self._last_ms:
            return
        self._send(moment)
        self._begin_if_labelled()

    def end(self, moment: Moment, reason: str) -> None:
        """Send the last tick, later than any other, and the end."""
        self._send(moment._replace(t_ms=max(moment.t_ms, self._last_ms + 1)))
        self._begun().end(End(reason, self._last_ms))

    def begin_anew(self, start_ms: int) -> None:
        """Continue in a new session, with counters from 0: the clock was set back."""
        session, end = self._begun(), End("clock", self._last_ms)
        for source in self._sources:
            source.begin_anew()
        self.header = self.header._replace(start_ms=start_ms)
        self._last_ms = start_ms
        session.begin_anew(end, self.header)

    def _begin_if_labelled(self) -> None:
        is_due = self._last_ms >= self._labels_due_ms
        if self._session is None and (is_due or not any(source.awaits_labels for source in self.late)):
            self._begun()

    def _begun(self) -> Session:
        """The session. If it has not begun, it begins now, with the labels known so far."""
        if self._session is not None:
            return self._session
        return self._begin({name: value for one in self.late for name, value in one.labels.items()})

    def _begin(self, labels: Mapping[str, str]) -> Session:
        labels = {**labels, **dict(self.header.labels)}  # the user's labels win
        self.header = self.header._replace(labels=tuple(sorted(labels.items())))
        first, *held = self._held
        self._held = []
        assert isinstance(first, Header)
        self._session = self._sink.begin(first._replace(labels=self.header.labels))
        for one in held:
            self._put(one)
        return self._session

    def _put(self, item: Header | Tick) -> None:
        if self._session is None:
            self._held.append(item)
        elif isinstance(item, Tick):
            self._session.tick(item)
        else:
            self._session.go_on(item._replace(labels=self.header.labels))

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
            self._put(self.header)
        values: list[float] = []
        for source in self._sources:
            values += source.values(moment)
        if self._columns is not None:
            values = [values[at] for at in self._columns]
        self._last_ms = moment.t_ms
        self.ticks += 1
        self._put(Tick(moment.t_ms, self._layout.pack(*values)))
