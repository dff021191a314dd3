"""Takes up requests to forget, for whoever has a store open for writing.

Strategy: three steps. The journal ends, so that what comes from now on is new data and stands apart. Files
are written anew, in any thread, as a roll-up is. Then the index of what is remembered is read anew, and
the answer is left. A server takes the second step in its background thread, in which roll-ups and
housekeeping run, too.
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
        """The request that is to be taken up, if there is one."""
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
        """End the journal; gives what forgets the rest, for any thread. Then call `done` or `failed`.

        Raises OSError and StoreError as the keeper.
        """
        self._is_busy = True
        self._file.begin(request)
        self._keeper.end_journal()
        self._connected = self._keeper.forget(request.selector)
        return partial(self._upkeep.forget, request.selector, request.key, self._keeper.newest_closed)

    def done(self, result: Forgotten) -> Answer:
        """Leave the answer, which is given, too."""
        self._is_busy = False
        self._upkeep.forgot(result)
        removed = result.removed
        answer = Answer(
            len(removed.sessions), removed.rows, removed.files, self._connected, result.cursors,
            result.sending, removed.unread[:_SHOWN],
        )  # fmt: skip
        if removed.unread:
            answer.error, answer.status = "not all files could be looked at", EX_DATAERR
        self._file.answer(answer)
        return answer

    def failed(self, error: Exception) -> Answer:
        """What was done of it stays so; it is to be asked for again."""
        self._is_busy = False
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        answer = Answer(error=f"not all is forgotten: {why}; try again", status=EX_TEMPFAIL)
        self._file.answer(answer)
        return answer

    def serve(self) -> Answer | None:
        """Do all of it here and now, if there is a request. Raises StoreError as the keeper."""
        request = self.next()
        if request is None:
            return None
        try:
            result = self.begin(request)()
        except OSError as exc:
            return self.failed(exc)
        return self.done(result)
