"""The watcher's loop with a fake clock, counters and sink, and real processes."""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from types import SimpleNamespace

import pytest

from rondo_tools import clock
from rondo_tools.attach import watch
from rondo_tools.attach.choose import Choice
from rondo_tools.attach.counters.base import ProcessExits
from rondo_tools.attach.discover import Found, Scan, Uevents
from rondo_tools.attach.lives import GATHER_S, HOLD_S, Lives, Options, Vmm
from rondo_tools.attach.process import Process
from rondo_tools.attach.sources.base import Moment
from rondo_tools.catalog import EXIT_REASONS
from rondo_tools.ratelimit import RateLimit
from rondo_tools.signals import Signals
from rondo_tools.stream import End, Header, Tick


class Counters:
    """Counters without exits that count their reads."""

    name = "none"
    reasons: tuple[str, ...] = EXIT_REASONS
    notes: tuple[str, ...] = ()
    counts_from_birth = knows_threads = False

    def __init__(self) -> None:
        self.looks = 0

    def read(self) -> Mapping[int, ProcessExits]:
        self.looks += 1
        return {}

    def begin(self, pid: int) -> None: ...
    def forget(self, pid: int) -> None: ...
    def close(self) -> None: ...

    def lost(self) -> int:
        return 0


class Sink:
    """Accepts everything; at each turn of the loop it runs the test's next step, if that is ready."""

    unsent = 0

    def __init__(self) -> None:
        self.steps: list[Callable[[], bool]] = []
        self.ended = 0

    def begin(self, _header: Header) -> Sink:
        return self

    def tick(self, _tick: Tick) -> None: ...
    def go_on(self, _header: Header) -> None: ...
    def begin_anew(self, _end: End, _header: Header) -> None: ...
    def close(self) -> None: ...

    def end(self, _end: End) -> None:
        self.ended += 1

    def dispatch(self, _fd: int, _events: int) -> bool:
        return False

    def turn(self) -> None:
        if self.steps and self.steps[0]():
            del self.steps[0]

    def timeout_s(self) -> float:
        return 0.01

    @property
    def is_gone(self) -> bool:
        return not self.steps


class Told(Sink):
    """Keeps the headers and the ends."""

    def __init__(self) -> None:
        super().__init__()
        self.headers: list[Header] = []
        self.ends: list[End] = []

    def begin(self, header: Header) -> Sink:
        self.headers.append(header)
        return self

    def end(self, end: End) -> None:
        self.ends.append(end)


class Watched:
    """A watcher of three processes that count as VMs."""

    def __init__(self, opened: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(watch, "time", SimpleNamespace(**vars(time) | {"monotonic": lambda: self.now_s}))
        self.processes = [opened.enter_context(sleeping()) for _ in range(3)]
        scan = Scan(tuple(Found(one.pid) for one in self.processes), is_complete=True)
        epoll = opened.enter_context(select.epoll())
        self.signals = opened.enter_context(Signals())
        uevents = Uevents()
        opened.callback(uevents.close)
        self.sink, self.counters = Sink(), Counters()
        self.watcher = watch.Watcher(
            Options(1 << 40, Choice((), ())), self.sink, self.counters, 0.0, uevents, epoll, scan=lambda: scan
        )  # no tick for years
        opened.callback(self.watcher.close)
        self.watcher.begin()

    def at(self, now_s: float) -> bool:
        self.now_s = now_s
        return True

    def run(self, *steps: Callable[[], bool]) -> None:
        """Run the loop until all steps are done, one a turn; a step returns whether it is done."""
        self.sink.steps = [*steps]
        self.watcher.run(self.signals)


@contextmanager
def sleeping() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "3600"]) as process:
        try:
            yield process
        finally:
            process.kill()


def is_killed(process: subprocess.Popen[bytes]) -> bool:
    """Kill it; returns whether it has exited, so that the loop sees it in its next turn. It is not reaped."""
    os.kill(process.pid, signal.SIGKILL)
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    with ExitStack() as opened:
        yield Watched(opened, monkeypatch)


def test_found_vms_share_one_read_of_the_counters(watched: Watched) -> None:
    assert watched.counters.looks == 1


def test_close_ends_share_one_read_of_the_counters(watched: Watched) -> None:
    """The processes are not reaped, so their ends wait."""
    seen: list[tuple[int, int]] = []

    def see() -> bool:
        seen.append((watched.sink.ended, watched.counters.looks))
        return True

    first, second, third = watched.processes
    watched.run(
        lambda: is_killed(first),
        lambda: watched.at(100 + GATHER_S / 2),
        lambda: is_killed(second),
        lambda: watched.at(100 + 3 * GATHER_S),
        lambda: is_killed(third),
        lambda: see() and watched.at(100 + HOLD_S),
        lambda: see() and watched.at(100 + HOLD_S + 3 * GATHER_S),
        see,
    )
    assert seen == [(0, 1), (2, 2), (3, 3)]


def test_lives_in_the_same_millisecond_are_different_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that makes one VM after another may be faster than the clock."""
    sink = Told()
    lives = Lives(Options(1000, Choice((), ())), sink, None, RateLimit(logging.getLogger(), 10, 60.0))
    with closing(Process(os.getpid())) as process:
        vmm = Vmm(process, is_late=False)
        now_ms = process.started_ms() + 60_000
        monkeypatch.setattr(clock, "now_ms", lambda: now_ms)
        for _ in range(4):
            lives.begin(vmm, "/kvm/1-2")
            lives.end(vmm, "/kvm/1-2", Moment(now_ms, 0.0, {}), "gone")
        for before, header in zip(sink.ends[1:], sink.headers[2:], strict=False):
            assert header.start_ms == before.t_ms
        assert len({header.start_ms for header in sink.headers}) == 4
        # After the clock was set back, nothing is moved into its future.
        now_ms -= 30_000
        lives.forget_times()
        lives.begin(vmm, "/kvm/1-2")
        assert sink.headers[-1].start_ms == now_ms
