"""Sends sessions to standard output or a store. A sink never blocks the loop.

Strategy: the watcher begins a session for each life of a VM, and passes its ticks and its end. A store gets a
connection for each session: a link keeps the newest 600 ticks while the store is away, and is dropped when
the store has acknowledged the end. If the watcher stops and the VM does not, the session gets no end.
"""

from __future__ import annotations

import logging
import select
import time
from collections import Counter
from collections.abc import Mapping
from typing import Protocol

from rondo_tools.attach.ends import EndsFile
from rondo_tools.producer.address import TcpAddress, UnixAddress
from rondo_tools.producer.driver import Driver
from rondo_tools.producer.link import Link, State
from rondo_tools.producer.output import Notices, Output
from rondo_tools.producer.pipe import Pipe
from rondo_tools.ratelimit import RateLimit
from rondo_tools.stream import End, Header, Tick, encode
from rondo_tools.units import format_count

_log = logging.getLogger(__name__)

MAX_ENDED = 10_000  # ended sessions that are not delivered: some 10 kB each
_SWEEP_S = 0.1


class Session(Protocol):
    """One session being sent."""

    def tick(self, tick: Tick) -> None: ...

    def go_on(self, header: Header) -> None:
        """Continue the session with other series."""

    def begin_anew(self, end: End, header: Header) -> None:
        """End the session, and continue in a new one."""

    def end(self, end: End) -> None: ...


class Sink(Protocol):
    """Begins sessions. The loop calls `dispatch` for descriptors of others, and `turn` in each turn."""

    def begin(self, header: Header) -> Session: ...

    def dispatch(self, fd: int, events: int) -> bool:
        """Whether the descriptor was the sink's."""

    def turn(self) -> None:
        """Send what is ready or due."""

    def timeout_s(self) -> float:
        """The time until `turn` is due; infinity for never."""

    @property
    def is_gone(self) -> bool:
        """Whether the reader is gone for good."""

    @property
    def unsent(self) -> int:
        """The number of sessions with unsent data."""

    def close(self) -> None: ...


class Driven:
    """The base of all sinks: outputs driven by the watcher's loop."""

    def __init__(self, epoll: select.epoll) -> None:
        self._driver = Driver(epoll)

    def dispatch(self, fd: int, events: int) -> bool:
        return self._driver.dispatch(fd, events, time.monotonic())

    def turn(self) -> None:
        self._driver.on_time(time.monotonic())

    def timeout_s(self) -> float:
        timeout_s = self._driver.timeout(time.monotonic())
        return timeout_s if timeout_s >= 0 else float("inf")


class DrivenPipe(Driven):
    """The base of sinks with one pipe."""

    def __init__(self, epoll: select.epoll, pipe: Pipe) -> None:
        super().__init__(epoll)
        self._pipe = pipe

    @property
    def is_gone(self) -> bool:
        return self._pipe.gone

    @property
    def unsent(self) -> int:
        return int(self._pipe.wants_write)

    def close(self) -> None:
        self._driver.remove(self._pipe)
        self._pipe.close()

    def _update(self) -> None:
        if not self._pipe.is_over:
            self._driver.update(self._pipe, time.monotonic())


class PipeSink(DrivenPipe):
    """Standard output as a stream: one session at a time, as the format demands."""

    def __init__(self, epoll: select.epoll, fd: int) -> None:
        super().__init__(epoll, Pipe(fd, "standard output"))
        self._begun = False

    def begin(self, header: Header) -> PipeSession:
        if self._begun:
            self._pipe.begin_anew(b"", encode(header))
        else:
            self._pipe.begin(encode(header))
            self._begun = True
        self._update()
        return PipeSession(self)

    def put(self, data: bytes) -> None:
        self._pipe.put(data)
        self._update()

    def begin_anew(self, end: bytes, header: bytes) -> None:
        self._pipe.begin_anew(end, header)
        self._update()


class PipeSession:
    """A session on a pipe. The end is an item of its own, so that it is written at once."""

    def __init__(self, sink: PipeSink) -> None:
        self._sink = sink

    def tick(self, tick: Tick) -> None:
        self._sink.put(encode(tick))

    def go_on(self, header: Header) -> None:
        self._sink.begin_anew(b"", encode(header))

    def begin_anew(self, end: End, header: Header) -> None:
        self._sink.begin_anew(encode(end), encode(header))

    def end(self, end: End) -> None:
        self._sink.put(encode(end))


class StoreSink(Driven):
    """A store's socket: one connection for each session."""

    def __init__(self, epoll: select.epoll, address: UnixAddress | TcpAddress, name: str) -> None:
        super().__init__(epoll)
        self._address, self._name = address, name
        self._notices = _StoreNotices()
        self._live: set[Link] = set()
        self._ended: dict[Link, None] = {}  # in the order of their ends
        self._given_up = 0
        self._lost = Counter[str]()  # ticks of links that were dropped, by reason
        self._swept_s = 0.0  # the time of the last sweep
        self._file: EndsFile | None = None

    def keep(self, file: EndsFile) -> set[tuple[str, int]]:
        """Keep ends in `file` until they are delivered. Send those in it, and return their instances and
        starts.
        """
        self._file = file
        found = file.take()
        for header, tick, end in found:
            session = self.begin(header)
            if tick is not None:
                session.tick(tick)
            session.end(end)
        file.write()
        return {(header.instance, header.start_ms) for header, _, _ in found}

    def begin(self, header: Header) -> StoreSession:
        link = Link(self._address, self._name, interval_ms=header.interval_ms, notices=self._notices)
        link.begin(encode(header))
        self._live.add(link)
        self.update(link)
        return StoreSession(self, link)

    def update(self, link: Link) -> None:
        self._driver.update(link, time.monotonic())

    def end(self, link: Link) -> None:
        """Nothing follows on this link: drop it once it is acknowledged."""
        self._live.discard(link)
        self._ended[link] = None
        if self._file is not None:
            self._file.add(link, link.backlog.last)
        self.update(link)
        if len(self._ended) > MAX_ENDED:
            self._give_up(next(iter(self._ended)))

    def turn(self) -> None:
        super().turn()
        now = time.monotonic()
        if now >= self._swept_s + _SWEEP_S:
            self._swept_s = now
            self._sweep()

    @property
    def is_gone(self) -> bool:
        return False

    @property
    def unsent(self) -> int:
        """The number of unacknowledged ended sessions, and of live ones with unsent data."""
        late = sum(link.wants_write or link.state is not State.SENDING for link in self._live)
        return late + sum(not link.is_over for link in self._ended)

    @property
    def waiting(self) -> int:
        """The number of unacknowledged ended sessions, as of the last sweep."""
        return len(self._ended)

    @property
    def lost_ticks(self) -> Counter[str]:
        """Ticks that no store will have, as far as known, by reason: "backlog", "given_up", "refused"."""
        backlog = sum(link.backlog.dropped for link in self._notices.behind)
        return self._lost + Counter(backlog=backlog, refused=self._notices.refused_ticks)

    def _sweep(self) -> None:
        for link in [link for link in self._ended if link.is_over]:
            self._forget(link)

    def close(self) -> None:
        self._sweep()
        if self._file is not None:
            self._file.close()
        for link in (*self._live, *self._ended):
            if not link.is_over:
                self._driver.remove(link)
                link.close()

    def _give_up(self, link: Link) -> None:
        """Drop an ended session, because too many wait for the store."""
        self._driver.remove(link)
        link.close()
        self._forget(link)
        self._lost["given_up"] += link.backlog.untaken
        self._given_up += 1
        self._notices.warnings.warn(
            "given up",
            "%s: %d ended sessions wait for the store: the oldest are given up, %d so far",
            *(self._name, MAX_ENDED, self._given_up),
        )

    def _forget(self, link: Link) -> None:
        del self._ended[link]
        self._notices.forget(link)
        if self._file is not None:
            self._file.drop(link)
        self._lost["backlog"] += link.backlog.dropped


class StoreSession:
    """A session with its own link."""

    def __init__(self, sink: StoreSink, link: Link) -> None:
        self._sink, self._link = sink, link

    def tick(self, tick: Tick) -> None:
        self._link.put(encode(tick))
        self._sink.update(self._link)

    def go_on(self, header: Header) -> None:
        self._link.begin_anew(b"", encode(header))
        self._sink.update(self._link)

    def begin_anew(self, end: End, header: Header) -> None:
        self._link.begin_anew(encode(end), encode(header))
        self._sink.update(self._link)

    def end(self, end: End) -> None:
        self._link.finish(encode(end))
        self._sink.end(self._link)


class _StoreNotices(Notices):
    """Logs the notices of many links, each kind once."""

    def __init__(self) -> None:
        self.warnings = RateLimit(_log, burst=3, window_s=60.0)
        self._troubled: set[Output] = set()
        self.behind: set[Output] = set()  # those that dropped ticks
        self.refused_ticks = 0

    def failed(self, output: Output, reason: str) -> None:
        if not self._troubled:
            _log.warning(
                "%s: %s; trying again and again (is rondo-store --listen running there?)", output.name, reason
            )
        self._troubled.add(output)

    def forget(self, output: Output) -> None:
        self.behind.discard(output)
        self.connected(output)

    def connected(self, output: Output) -> None:
        if output in self._troubled:
            self._troubled.discard(output)
            if not self._troubled:
                _log.info("%s: connected", output.name)

    def falls_behind(self, output: Output) -> None:
        self.behind.add(output)
        self.warnings.warn("behind", "%s does not keep up: the oldest ticks are dropped", output.name)

    def refused(self, output: Output, counts: Mapping[str, int]) -> None:
        self.refused_ticks += sum(counts.values())
        ticks = format_count(sum(counts.values()), "tick")
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items())
        self.warnings.warn("refused", "%s: the store refused %s: %s", output.name, ticks, reasons)
