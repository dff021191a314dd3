"""One stream from a descriptor into the keeper: a pipe, or a file, read to its end."""

from __future__ import annotations

import logging
import os
import select
import signal
from collections.abc import Callable
from functools import partial

from rondo_tools.errors import EX_TEMPFAIL, RondoError, StoreError
from rondo_tools.signals import Signals
from rondo_tools.store.intake import Intake
from rondo_tools.store.opened import OpenStore
from rondo_tools.store.watermarks import Watermarks

log = logging.getLogger(__name__)

_READ = 1 << 18  # bytes at once; on a full disk no more are held in memory
_PIPE = 1 << 20  # bytes that the pipe may hold at a stop signal (pipe(7), pipe-max-size)
_TRY_AGAIN_S = 1.0


class _StoppedError(StoreError):
    """A signal ended the wait for disk space."""

    exit_code = EX_TEMPFAIL


def read_to_end(fd: int, intake: Intake, store: OpenStore, watermarks: Watermarks, signals: Signals) -> None:
    """Store the stream from `fd` until its end, or until a stop signal.

    Then give up sessions without an end, roll up the journal, and remove expired files. Raises StreamError
    for invalid input, StoreError if it cannot be stored.
    """
    try:
        _read(fd, intake, store, watermarks, signals)
    except _StoppedError:
        intake.close()
        raise
    except RondoError:
        _finish(intake, store, watermarks, signals)  # store the data before the error
        raise
    _finish(intake, store, watermarks, signals)


def _finish(intake: Intake, store: OpenStore, watermarks: Watermarks, signals: Signals) -> None:
    keeper = store.keeper
    intake.close(give_up=True)
    keeper.give_up_gone(at_once=True)
    _retry(keeper.flush, keeper.flush, signals)
    watermarks.update(keeper.newest_position())
    keeper.end_journal()
    store.keep_house()


def _read(fd: int, intake: Intake, store: OpenStore, watermarks: Watermarks, signals: Signals) -> None:
    keeper = store.keeper
    interrupts = 0
    stopping = False
    left = _PIPE  # bytes to read after a stop signal
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
            return  # stopped, and the pipe is empty
        data = os.read(fd, _READ)
        if not data:
            intake.end_of_input()
            return
        _retry(partial(intake.feed, data), intake.store, signals)
        _retry(keeper.flush, keeper.flush, signals)
        watermarks.update(keeper.newest_position())
        if keeper.closed or store.forgetter.next() is not None:
            store.keep_house()
        if stopping and (left := left - len(data)) <= 0:
            return  # else a producer that is as fast as we are would keep us from stopping


def _retry(first: Callable[[], None], again: Callable[[], None], signals: Signals) -> None:
    """Call `first`, then `again` until it succeeds: the disk may be full. Raises StoreError at a signal."""
    error = _attempt(first)
    if error is None:
        return
    log.warning("cannot write: %s; trying again every second", error.strerror)
    while error is not None:
        select.select([signals.fileno()], [], [], _TRY_AGAIN_S)
        if signals.take():
            raise _StoppedError(
                f"{error.strerror}: ended by a signal; data that is not stored must be sent again"
            ) from error
        error = _attempt(again)
    log.info("writing again")


def _attempt(step: Callable[[], None]) -> OSError | None:
    try:
        step()
    except OSError as exc:
        return exc
    return None
