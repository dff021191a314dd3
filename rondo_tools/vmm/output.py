"""A thread that drives an output, so that a VM and its ticks never wait for a reader.

Strategy: the producer appends an item to the output's backlog and returns. The thread writes and waits:
for the descriptor when the output wants to write or read, otherwise for a new item or the end.
"""

from __future__ import annotations

import logging
import math
import select
import threading
import time
from collections.abc import Callable

from rondo_tools.producer.output import Notices, Output

_log = logging.getLogger(__name__)


class _Notices(Notices):
    def reader_gone(self, output: Output, reason: str) -> None:
        _log.warning("the reader of %s is gone (%s); the VM keeps running", output.name, reason)


class _TextNotices(Notices):
    def reader_gone(self, output: Output, reason: str) -> None:
        _log.debug("the reader of %s is gone (%s); the VM ends", output.name, reason)  # as `| head` is meant


NOTICES, TEXT_NOTICES = _Notices(), _TextNotices()


class OutputThread:
    """Drives `output`: call `start`, then `put` repeatedly, then `finish`. `done` is True at the end.

    `on_done` is called in the thread when nothing more will be written: everything was delivered, or the
    reader is gone. Until then the thread keeps trying. It does not keep the process from exiting.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._changed = threading.Condition()  # guards _has_news
        self._has_news = False
        self._done = threading.Event()
        self._on_done: Callable[[], None] = _nothing

    @property
    def name(self) -> str:
        return self._output.name

    @property
    def delivered(self) -> bool:
        return self._output.delivered

    @property
    def gone(self) -> bool:
        return self._output.gone

    @property
    def missing(self) -> int:
        """How many items have no acknowledgement."""
        return self._output.missing

    @property
    def done(self) -> bool:
        return self._done.is_set()

    def start(self, header: bytes, on_done: Callable[[], None] | None = None) -> None:
        self._output.begin(header)
        self._on_done = on_done or _nothing
        threading.Thread(target=self._run, name=f"output {self.name}", daemon=True).start()

    def put(self, item: bytes) -> None:
        self._output.put(item)
        self._wake()

    def begin_anew(self, end: bytes, header: bytes) -> None:
        """End the session and begin another one."""
        self._output.begin_anew(end, header)
        self._wake()

    def finish(self, end: bytes = b"") -> None:
        self._output.finish(end)
        self._wake()

    def wait(self, timeout_s: float) -> bool:
        """Wait until `done`, `timeout_s` at most; returns `done`."""
        return self._done.wait(timeout_s)

    def _wake(self) -> None:
        with self._changed:
            self._has_news = True
            self._changed.notify()

    def _run(self) -> None:
        output = self._output
        try:
            output.on_time(time.monotonic())
            while not output.is_over:
                if output.wants_read or output.wants_write:
                    self._poll()
                else:
                    self._wait_for_news()
                    output.on_time(time.monotonic())
        finally:
            self._done.set()
            self._on_done()

    def _wait_for_news(self) -> None:
        """Wait for an item or the end, until the output's deadline."""
        left = self._output.deadline - time.monotonic()
        with self._changed:
            self._changed.wait_for(lambda: self._has_news, None if left == math.inf else left)
            self._has_news = False

    def _poll(self) -> None:
        """Wait for the descriptor, until the output's deadline. New items wait meanwhile."""
        output = self._output
        poll = select.poll()
        poll.register(
            output.fileno(), select.POLLIN * output.wants_read | select.POLLOUT * output.wants_write
        )
        left = output.deadline - time.monotonic()
        ready = poll.poll(None if left == math.inf else max(0, math.ceil(left * 1000)))
        now = time.monotonic()
        for _, events in ready:
            if events & ~select.POLLOUT:
                output.on_readable(now)
            if events & select.POLLOUT:
                output.on_writable(now)
        if now >= output.deadline:
            output.on_time(now)


def _nothing() -> None:
    pass
