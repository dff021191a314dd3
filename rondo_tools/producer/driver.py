"""Drives any number of outputs in one loop: records what each waits for, and calls it when that happens.

Strategy: the caller owns the loop, its epoll and its clock; the package's docstring has an example. A
descriptor that epoll does not accept, a regular file, is always writable. Deadlines are in a heap;
outdated ones are skipped.
"""

from __future__ import annotations

import heapq
import math
import select
from itertools import count
from typing import NamedTuple, Protocol

from rondo_tools.producer.output import Output

_READ, _WRITE = select.POLLIN, select.POLLOUT  # EPOLLIN and EPOLLOUT have the same values
_BROKEN = select.POLLERR | select.POLLHUP  # are reported whether asked for or not


class Epoll(Protocol):
    """The methods used of ``select.epoll`` or ``select.poll``."""

    def register(self, fd: int, eventmask: int, /) -> None: ...
    def modify(self, fd: int, eventmask: int, /) -> None: ...
    def unregister(self, fd: int, /) -> None: ...


class _Wish(NamedTuple):
    """What an output waits for, as last seen."""

    fd: int
    events: int
    deadline: float


_NOTHING = _Wish(-1, 0, math.nan)  # NaN equals no deadline


class Driver:
    """Outputs, each from its first `update` until it is over or removed.

    `update` an output after each call on it from outside, before another descriptor is opened.
    """

    def __init__(self, epoll: Epoll) -> None:
        self._epoll = epoll
        self._wishes: dict[Output, _Wish] = {}
        self._by_fd: dict[int, Output] = {}
        self._unpolled: set[int] = set()  # descriptors that epoll does not accept
        self._deadlines: list[tuple[float, int, Output]] = []
        self._number = count()  # orders equal deadlines

    def __len__(self) -> int:
        return len(self._wishes)

    def update(self, output: Output, now: float) -> None:
        """Let the output continue after news, and record what it waits for."""
        if not output.is_over:
            output.on_time(now)
        self._record(output)

    def remove(self, output: Output) -> None:
        """Stop driving an output that may not be over; call it before `close`. Ignores a forgotten output."""
        before = self._wishes.pop(output, _NOTHING)
        if before.fd >= 0:
            self._watch(output, before, -1, 0)

    def dispatch(self, fd: int, events: int, now: float) -> bool:
        """Handle an event of epoll; False if the descriptor belongs to no output."""
        output = self._by_fd.get(fd)
        if output is None:
            return False
        if events & (_READ | _BROKEN):
            output.on_readable(now)
            self._record(output)
        if events & _WRITE:
            output.on_writable(now)
            self._record(output)
        return True

    def on_time(self, now: float) -> None:
        """Call the outputs whose deadline has passed, and write to those that are always writable."""
        due = []
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, _, output = heapq.heappop(self._deadlines)
            wish = self._wishes.get(output)
            if wish is not None and wish.deadline == deadline:
                self._wishes[output] = wish._replace(deadline=math.inf)
                due.append(output)
        for output in due:
            self.update(output, now)
        for fd in [*self._unpolled]:
            self.dispatch(fd, _WRITE, now)

    def timeout(self, now: float) -> float:
        """Seconds until `on_time` is due; -1 for never, as for epoll."""
        if self._unpolled:
            return 0.0
        while self._deadlines:
            deadline, _, output = self._deadlines[0]
            wish = self._wishes.get(output)
            if wish is not None and wish.deadline == deadline:
                return max(0.0, deadline - now)
            heapq.heappop(self._deadlines)
        return -1.0

    def _record(self, output: Output) -> None:
        """Record what the output waits for now."""
        before = self._wishes.get(output, _NOTHING)
        fd, deadline = output.fileno(), output.deadline
        events = _READ * output.wants_read | _WRITE * output.wants_write
        if (fd, events, deadline) == before and not output.is_over:
            return
        if fd != before.fd or events != before.events:
            self._watch(output, before, fd, events)
        if output.is_over:
            self._wishes.pop(output, None)
            return
        self._wishes[output] = _Wish(fd, events, deadline)
        if before.deadline != deadline != math.inf:
            heapq.heappush(self._deadlines, (deadline, next(self._number), output))

    def _watch(self, output: Output, before: _Wish, fd: int, events: int) -> None:
        """Make epoll report these events."""
        if fd == before.fd:
            if fd not in self._unpolled:
                self._epoll.modify(fd, events)
            return
        if before.fd >= 0:
            del self._by_fd[before.fd]
            self._unpolled.discard(before.fd)
            try:
                self._epoll.unregister(before.fd)
            except (OSError, KeyError, ValueError):
                pass  # closing it removed it from epoll, or it never was in it
        if fd >= 0:
            self._by_fd[fd] = output
            try:
                self._epoll.register(fd, events)
            except PermissionError:
                self._unpolled.add(fd)
