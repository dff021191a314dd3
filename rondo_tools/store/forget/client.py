"""`--forget`: writes a request into the store's folder, waits for its result, and reports it.

Strategy: the holder of the lock carries requests out. So try to take the lock; if another process has it,
wait until that process accepts the request. A request that no process accepts is withdrawn; an accepted one
is carried out, whether we wait or not.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from rondo_tools.errors import EX_DATAERR, EX_TEMPFAIL, RondoError, StoreError
from rondo_tools.selector import Selector
from rondo_tools.store.forget.in_flight import cursors_now
from rondo_tools.store.forget.request import Answer, Request, RequestFile, new_request
from rondo_tools.store.format.layout import Layout
from rondo_tools.store.format.opened import read_store_json
from rondo_tools.store.opened import OpenStore

log = logging.getLogger(__name__)

EX_NOTHING = 1  # as grep and rondo-query: no error, but nothing matched
PATIENCE_S = 30.0  # for the other process to accept it: a pipe does so between two ticks
SENDING_S = 10.0  # for a push to finish its requests
_WRITING_S = 1.0  # a request that stays empty for longer was never written
_POLL_S = 0.1


def forget_sessions(
    directory: str,
    selector: Selector,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Raises RondoError if nothing matched (EX_NOTHING), or if some data is still there."""
    path = Path(directory)
    read_store_json(path)
    client = _Client(path, selector, clock, sleep)
    answer = client.ask()
    if client.was_taken_up and not answer.files and not answer.error:
        log.info("forgotten by another process, which ended before it wrote the numbers")
    else:
        _report(answer, selector)
    if answer.cursors or answer.sending:
        client.wait_for_pushes(answer)


class _Client:
    def __init__(
        self, path: Path, selector: Selector, clock: Callable[[], float], sleep: Callable[[float], None]
    ) -> None:
        self._path, self._selector = path, selector
        self._clock, self._sleep = clock, sleep
        self.was_taken_up = False  # another process accepted the request and did not answer
        self._layout = Layout(path)
        self._file = RequestFile(self._layout)

    def ask(self) -> Answer:
        request = new_request(self._selector)
        since = self._clock()
        while not self._file.leave(request):
            found = self._left(since)
            if isinstance(found, Answer):
                self._file.remove()  # the answer for another client, which has ended
            elif found is None:
                self._sleep(_POLL_S)
            elif str(found.selector) == str(self._selector):
                break  # an interrupted client left the same request: take its answer
            else:
                self._see_to(found, since)
        since = self._clock()
        try:
            while not isinstance(found := self._file.read(), Answer):
                if found is None:
                    read_store_json(self._path)
                    raise StoreError(
                        f"{self._layout.forget_json}: removed by another process", exit_code=EX_TEMPFAIL
                    )
                self._see_to(found, since)
        except BaseException:
            if isinstance(found := self._file.read(), Request) and not found.is_begun:
                self._file.remove()
            raise
        self._file.remove()
        return found

    def _left(self, since: float) -> Request | Answer | None:
        """The request or answer of an earlier client; the rest of one after a power cut is removed."""
        try:
            found = self._file.read()
        except StoreError as exc:
            if exc.exit_code != EX_DATAERR:
                raise
            self._file.remove()
            return None
        if found is None and self._clock() - since > _WRITING_S:
            self._file.remove()
        return found

    def _see_to(self, request: Request, since: float) -> None:
        """Carry the request out, or wait a moment for the holder of the lock to do so."""
        read_store_json(self._path)  # else OpenStore would make a store
        try:
            with OpenStore(self._path) as store:
                self.was_taken_up = request.is_begun
                store.forgetter.serve()
        except StoreError as exc:
            if exc.exit_code != EX_TEMPFAIL:
                raise
            if not request.is_begun and self._clock() - since > PATIENCE_S:
                raise StoreError(
                    f"{exc}. It does not accept the request to forget: it waits for input or for disk space, "
                    "or it is an earlier rondo. Stop it, and try again",
                    exit_code=EX_TEMPFAIL,
                ) from None
            self._sleep(_POLL_S)

    def wait_for_pushes(self, answer: Answer) -> None:
        """Give running pushes time to finish. Raises RondoError if a batch stays in flight."""
        before = {one.name: one.place for one in cursors_now(self._layout)}
        wanted = {*answer.cursors, *answer.sending}
        since = self._clock()
        while True:
            busy = [
                one
                for one in cursors_now(self._layout)
                if one.name in wanted
                and one.place == before.get(one.name)
                and (
                    one.is_in_flight
                    if one.name in answer.cursors
                    else one.is_sending and self._is_held(one.name)
                )
            ]
            if not any(self._is_held(one.name) for one in busy) or self._clock() - since > SENDING_S:
                break
            self._sleep(_POLL_S)
        in_flight = [one.name for one in busy if one.name in answer.cursors]
        for one in busy:
            if one.name not in in_flight:
                log.warning(
                    "rondo-push is sending with the cursor %s: it may deliver data that it has read already",
                    one.name,
                )
        if in_flight:
            paths = ", ".join(str(self._layout.cursor(name)) for name in in_flight)
            raise RondoError(
                f"{paths}: a batch in flight still has some of the data: run this again after the next push",
                exit_code=EX_TEMPFAIL,
            )

    def _is_held(self, cursor: str) -> bool:
        """Whether a push is running with a cursor."""
        try:
            fd = os.open(self._layout.cursor_lock(cursor), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(fd)
        return False


def _report(answer: Answer, selector: Selector) -> None:
    """Raises RondoError if some data is still there, or if nothing matched."""
    for what in answer.unread:
        log.warning("%s; it may still have some of the data", what)
    if answer.files:
        log.info("%s", answer)
    if answer.connected:
        log.info(
            "%s connected: ticks from now on are new data",
            "1 of them is" if answer.connected == 1 else f"{answer.connected} of them are",
        )
    if answer.error:
        raise RondoError(answer.error, exit_code=answer.status)
    if not answer.files and not answer.cursors:
        raise RondoError(f"nothing matches {selector}", exit_code=EX_NOTHING)
