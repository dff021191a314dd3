"""Drives any number of outputs in one loop: keeps what each waits for, and calls it when that has come.

Strategy: the loop, its epoll and its clock are the caller's; the package's docstring has an example. A
descriptor that an epoll does not take, a regular file, is always writable. Deadlines stand in a heap,
out of which those that no longer hold are passed over.
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
    """What is needed of ``select.epoll`` or ``select.poll``."""

    def register(self, fd: int, eventmask: int, /) -> None: ...
    def modify(self, fd: int, eventmask: int, /) -> None: ...
    def unregister(self, fd: int, /) -> None: ...


class _Wish(NamedTuple):
    """What an output was seen to wait for."""

    fd: int
    events: int
    deadline: float


_NOTHING = _Wish(-1, 0, math.nan)  # is no deadline that any has


class Driver:
    """Outputs, each from its first `update` until it is over or removed.

    `update` an output after each call on it from outside, before another descriptor is opened.
    """

    def __init__(self, epoll: Epoll) -> None:
        self._epoll = epoll
        self._wishes: dict[Output, _Wish] = {}
        self._by_fd: dict[int, Output] = {}
        self._unpolled: set[int] = set()  # descriptors that the epoll does not take
        self._deadlines: list[tuple[float, int, Output]] = []
        self._number = count()  # tells apart those that are due at the same time

    def __len__(self) -> int:
        return len(self._wishes)

    def update(self, output: Output, now: float) -> None:
        """Let the output do what it can do now, after news, and see what it waits for."""
        if not output.is_over:
            output.on_time(now)
        self._look(output)

    def remove(self, output: Output) -> None:
        """Drive it no more, though it may not be over; before it is closed, or nothing if it is forgotten."""
        before = self._wishes.pop(output, _NOTHING)
        if before.fd >= 0:
            self._watch(output, before, -1, 0)

    def dispatch(self, fd: int, events: int, now: float) -> bool:
        """What an epoll has reported; False for a descriptor of somebody else."""
        output = self._by_fd.get(fd)
        if output is None:
            return False
        if events & (_READ | _BROKEN):
            output.on_readable(now)
            self._look(output)
        if events & _WRITE:
            output.on_writable(now)
            self._look(output)
        return True

    def on_time(self, now: float) -> None:
        """Call those whose deadline has come, and write to what is always writable."""
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
        """Seconds until `on_time` is due; -1 for never, as an epoll has it."""
        if self._unpolled:
            return 0.0
        while self._deadlines:
            deadline, _, output = self._deadlines[0]
            wish = self._wishes.get(output)
            if wish is not None and wish.deadline == deadline:
                return max(0.0, deadline - now)
            heapq.heappop(self._deadlines)
        return -1.0

    def _look(self, output: Output) -> None:
        """See what the output waits for now."""
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
        """Have the epoll report that."""
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
                pass  # it was closed, and with that it is out of an epoll; or it never was in it
        if fd >= 0:
            self._by_fd[fd] = output
            try:
                self._epoll.register(fd, events)
            except PermissionError:
                self._unpolled.add(fd)
