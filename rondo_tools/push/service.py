"""Pushes at every interval: one store, or the stores named by rondo-store's lines.

Strategy: a push that fails is repeated at the next interval. The state at the end decides the exit status.
An error is logged when it begins and when it changes, not at every interval.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from rondo_tools.errors import EX_SOFTWARE, PushError, RondoError
from rondo_tools.push.cursor import Cursor
from rondo_tools.push.pusher import NotTakenError, Pusher
from rondo_tools.store.format.opened import OpenedStore, open_store
from rondo_tools.wakeup import Wakeup

log = logging.getLogger(__name__)

OpenPusher = Callable[[OpenedStore, Cursor], Pusher]


class UnexpectedError(PushError):
    """A push ended by an unexpected exception: a bug of rondo-push."""

    exit_code = EX_SOFTWARE


class Stores:
    """Pushers of several stores. Each is opened by its first push, and holds its cursor from then on."""

    def __init__(self, cursor: str, pusher: OpenPusher, *, wait: bool = False) -> None:
        """With `wait`, waits for another push that holds a cursor."""
        self._cursor = cursor
        self._wait = wait
        self._pusher = pusher
        self._open: dict[Path, tuple[Cursor, Pusher]] = {}

    def open(self, path: Path) -> Pusher:
        """The pusher of a store. Raises the errors of `open_store` and `Cursor`."""
        if path not in self._open:
            store = open_store(path)
            cursor = Cursor(path, self._cursor, wait=self._wait)
            self._open[path] = (cursor, self._pusher(store, cursor))
        return self._open[path][1]

    def push(self, path: Path) -> bool:
        """Push one store; returns whether anything was delivered.

        Raises RondoError: the errors of `open` and `Pusher.push`, or UnexpectedError. After that the next
        push begins with the cursor's file.
        """
        try:
            return self.open(path).push()
        except RondoError:
            raise
        except OSError as exc:
            raise PushError(str(exc)) from exc
        except Exception as exc:
            log.debug("%s: unexpected error", path, exc_info=True)
            if path in self._open:
                self._open.pop(path)[0].close()
            raise UnexpectedError(
                f"internal error, {type(exc).__name__}: {_one_line(exc)}; please report it with "
                "the output of --verbose. Undelivered samples do not count as delivered"
            ) from exc

    def close(self) -> None:
        for cursor, _ in self._open.values():
            cursor.close()

    def __enter__(self) -> Stores:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Service:
    """Pushes at every interval; after `has_ended` or a stop signal it pushes one last time."""

    def __init__(
        self,
        stores: Stores,
        wake: Wakeup,
        *,
        interval_s: float,
        take: Callable[[], Iterable[Path]],
        has_ended: Callable[[], bool] = lambda: False,
    ) -> None:
        self._stores = stores
        self._wake = wake
        self._interval_s = interval_s
        self._take = take
        self._has_ended = has_ended
        self._stores_named: dict[Path, None] = {}  # in order
        self._failing: dict[Path, RondoError] = {}  # by the last push
        self._logged: dict[Path, str] = {}  # the last error, until something is delivered again
        self._not_before = 0.0

    def run(self) -> None:
        """Push until the end. At the end of the input, raises the error of a store that could not be
        delivered; after a stop signal, the next process delivers the rest."""
        due = time.monotonic()
        while True:
            # Before `take`, so that the last push has the stores of the last lines.
            is_last = self._has_ended() or self._wake.is_stopped
            self._stores_named.update(dict.fromkeys(self._take()))
            if is_last or time.monotonic() >= self._not_before:
                for store in list(self._stores_named):
                    self._push(store)
            if is_last:
                break
            due = max(due + self._interval_s, time.monotonic())
            while not (self._has_ended() or self._wake.is_stopped) and (left := due - time.monotonic()) > 0:
                self._wake.wait(left)
        if not self._wake.is_stopped:
            for error in self._failing.values():
                raise error

    def _push(self, store: Path) -> None:
        try:
            has_delivered = self._stores.push(store)
        except RondoError as exc:
            if isinstance(exc, NotTakenError):
                self._not_before = time.monotonic() + exc.retry_after_s
            if str(exc) != self._logged.get(store):
                log.warning("%s: not delivered for now: %s", store, exc)
            self._failing[store], self._logged[store] = exc, str(exc)
        else:
            self._failing.pop(store, None)
            if has_delivered and self._logged.pop(store, None) is not None:
                log.warning("%s: delivering again", store)


def _one_line(exc: Exception) -> str:
    text = " ".join(str(exc).split())
    return text if len(text) <= 200 else f"{text[:197]}..."
