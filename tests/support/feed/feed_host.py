"""A fake output that keeps a session's ticks as rows of values by series."""

from __future__ import annotations

import struct

from rondo_tools.stream import Decoder, End, Header, Tick

Row = tuple[int, dict[str, float]]


class Sink:
    """A fake output. `rows` are (time, values by series), without NaN."""

    def __init__(self) -> None:
        self.data = b""

    def begin(self, header: bytes) -> None:
        assert not self.data
        self.data += header

    def begin_anew(self, end: bytes, header: bytes) -> None:
        self.data += end + header

    def put(self, item: bytes) -> None:
        self.data += item

    def finish(self, end: bytes) -> None:
        self.data += end

    @property
    def events(self) -> list[Header | Tick | End]:
        """The decoded events."""
        decoder = Decoder()
        events = list(decoder.feed(self.data))
        decoder.close()
        return events

    @property
    def headers(self) -> list[Header]:
        return [event for event in self.events if isinstance(event, Header)]

    @property
    def ends(self) -> list[End]:
        return [event for event in self.events if isinstance(event, End)]

    @property
    def rows(self) -> list[Row]:
        return rows_of(self.events)


def rows_of(events: list[Header | Tick | End]) -> list[Row]:
    """Ticks as (time, values by series), without NaN."""
    series: list[str] = []
    rows = []
    for event in events:
        if isinstance(event, Header):
            series = [str(one) for one in event.series]
        elif isinstance(event, Tick):
            values = struct.unpack(f"<{len(series)}d", event.values)
            rows.append((event.t_ms, {name: v for name, v in zip(series, values, strict=True) if v == v}))
    return rows
