"""Serves requests to forget, for the process that has a store open for writing.

Strategy: three steps. Close the journal, so that later data is in another one. Rewrite the files, in any
thread, as in a roll-up. Then load the index of remembered sessions again, and write the answer. A server
takes the second step in its background thread, which also runs roll-ups and housekeeping.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from rondo_tools.errors import EX_DATAERR, EX_TEMPFAIL, StoreError
from rondo_tools.store.forget.request import Answer, Request, RequestFile
from rondo_tools.store.keeper import Keeper
from rondo_tools.store.upkeep import Forgotten, Upkeep

log = logging.getLogger(__name__)

_SHOWN = 10  # files that could not be read


class Forgetter:
    """Of an open store."""

    def __init__(self, keeper: Keeper, upkeep: Upkeep) -> None:
        self._keeper, self._upkeep = keeper, upkeep
        self._file = RequestFile(keeper.folder.layout)
        self._is_busy = False
        self._connected = 0
        self._warned = ""

    def next(self) -> Request | None:
        """The request to serve, if there is one."""
        if self._is_busy:
            return None
        try:
            found = self._file.read()
        except StoreError as exc:
            if str(exc) != self._warned:
                self._warned = str(exc)
                log.warning("%s", exc)
            return None
        return found if isinstance(found, Request) else None

    def begin(self, request: Request) -> Callable[[], Forgotten]:
        """Close the journal; gives the second step, for any thread. Then call `done` or `failed`.

        Raises OSError and StoreError as the keeper does.
        """
        self._is_busy = True
        self._file.begin(request)
        self._keeper.end_journal()
        self._connected = self._keeper.forget(request.selector)
        return partial(self._upkeep.forget, request.selector, request.key, self._keeper.newest_closed)

    def done(self, result: Forgotten) -> Answer:
        """Write the answer, and return it."""
        self._is_busy = False
        self._upkeep.forgot(result)
        removed = result.removed
        answer = Answer(
            len(removed.sessions), removed.rows, removed.files, self._connected, result.cursors,
            result.sending, removed.unread[:_SHOWN],
        )  # fmt: skip
        if removed.unread:
            answer.error, answer.status = "not all files could be read", EX_DATAERR
        self._file.answer(answer)
        return answer

    def failed(self, error: Exception) -> Answer:
        """Write an answer with the error. The files that are done stay done; the client must ask again."""
        self._is_busy = False
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        answer = Answer(error=f"not all is forgotten: {why}; try again", status=EX_TEMPFAIL)
        self._file.answer(answer)
        return answer

    def serve(self) -> Answer | None:
        """Serve a request completely, if there is one. Raises StoreError as the keeper does."""
        request = self.next()
        if request is None:
            return None
        try:
            result = self.begin(request)()
        except OSError as exc:
            return self.failed(exc)
        return self.done(result)
