"""One stream from a descriptor into the store: a pipe, or a file, read to its end."""

from __future__ import annotations

import errno
import logging
import os
import select
import signal

from rondo_tools.errors import EX_TEMPFAIL, StoreError
from rondo_tools.signals import Signals
from rondo_tools.store.ingest import Ingest
from rondo_tools.store.lines import Lines

log = logging.getLogger(__name__)

_READ = 1 << 18  # bytes at once; also what a full disk may hold back
_PIPE = 1 << 20  # bytes that may be under way when we are told to stop (pipe(7), pipe-max-size)
_FULL = (errno.ENOSPC, errno.EDQUOT)


def read_to_end(fd: int, ingest: Ingest, lines: Lines, signals: Signals) -> None:
    """Store what `fd` gives until its end, or until a signal says to stop."""
    interrupts = 0
    stopping = False
    left = _PIPE  # bytes to read yet after that
    while True:
        ready, _, _ = select.select([fd, signals.fileno()], [], [], 0 if stopping else None)
        if signals.fileno() in ready:
            for number in signals.take():
                interrupts += number == signal.SIGINT
                stopping |= number == signal.SIGTERM or interrupts > 1
            if interrupts == 1 and not stopping:
                log.info("reading on to the end of the input; Ctrl-C again to stop now")
            continue
        if fd not in ready:
            return None  # told to stop, and nothing more has arrived
        data = os.read(fd, _READ)
        if not data:
            return ingest.end_of_input()
        try:
            ingest.feed(data)
        except OSError as exc:
            if exc.errno not in _FULL:
                raise
            _wait_for_room(ingest, signals, exc)
        lines.update(ingest.closed)
        ingest.closed.clear()
        ingest.catch_up()
        if stopping and (left := left - len(data)) <= 0:
            return None  # else a producer as fast as we are would never let us go


def _wait_for_room(ingest: Ingest, signals: Signals, exc: OSError) -> None:
    log.warning("%s; waiting for room", exc.strerror)
    while True:
        select.select([signals.fileno()], [], [], 1.0)
        if signals.take():
            raise StoreError(
                f"{exc.strerror}: ended by a signal; what is not stored must be sent again",
                exit_code=EX_TEMPFAIL,
            ) from exc
        try:
            ingest.store()
        except OSError as again:
            if again.errno not in _FULL:
                raise
        else:
            log.info("there is room again")
            return
