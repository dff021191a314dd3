"""The journals of a store: chooses the one to write, closes it, and forces it to the disk.

Strategy: numbers have no gaps, and each new one is one more than the last. A journal is closed after the
coarsest tier's interval, when it is large, or after a write that stopped in the middle; then it waits for its
roll-up. With `--sync always` a turn ends with one fdatasync for all producers; with an interval a thread
syncs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rondo_tools.store.format import frames
from rondo_tools.store.format.layout import JOURNALS, Layout
from rondo_tools.store.journal import Describe, Journal, PendingEnd
from rondo_tools.store.sync import Policy
from rondo_tools.store.syncer import Marks, Syncer


class ClosedJournal(NamedTuple):
    """A journal to roll up. `closed_ms` is by the store's clock."""

    number: int
    closed_ms: int


class JournalFolder:
    """`journal` gathers rows; `newest` was written last, None if this process has written nothing; `closed`
    wait for their roll-up, oldest first.

    `left` are the journals of earlier processes that are not rolled up. `ended` is called with each written
    end, and the journal's number.
    """

    def __init__(
        self,
        layout: Layout,
        store_id: bytes,
        rolled_up: int,
        left: Sequence[int],
        *,
        end_after_ms: int,
        describe: Describe,
        ended: Callable[[PendingEnd, int], None],
        sync: Policy,
        now_ms: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        self._layout = layout
        self._store_id = store_id
        self._end_after_s = end_after_ms / 1000
        self._describe = describe
        self._ended = ended
        self._sync = sync
        self._now_ms = now_ms
        self._clock = clock
        self._made_at: float | None = None
        self.closed = deque(ClosedJournal(number, now_ms()) for number in left)
        self.newest: Journal | None = None
        self.journal = self._next(max([rolled_up, *left]))
        self._marks = Marks()
        if sync.always or sync.every_ms:
            # Their writer may have been killed before it synced them, and their data counts as stored.
            for one in left:
                self._marks.add(layout.file(JOURNALS, one))
        self._syncer = Syncer(self._marks, sync.every_ms / 1000, clock) if sync.every_ms else None

    @property
    def is_behind(self) -> bool:
        """Whether data waits to be written, or, with `--sync always`, to be synced."""
        return self.journal.has_pending or (self._sync.always and bool(self._marks))

    def flush(self) -> None:
        """Write what was gathered. Raises OSError; then the next call writes the rest."""
        journal = self.journal
        if journal.has_pending:
            try:
                self._write(journal)
            except OSError:
                if self.journal is journal:
                    raise
                if self.journal.has_pending:
                    self._write(self.journal)  # the rest of it
        if self._sync.always and self._marks:
            self._marks.sync()
        if self.journal.is_full or self._is_due():
            self.end_journal()

    def end_journal(self) -> None:
        """Close the journal; the next rows go into another one. No rows may be gathered."""
        journal = self.journal
        assert not journal.has_pending
        self._hand_on(journal)
        if journal.is_made:
            self.journal = self._next(journal.number)

    def close(self) -> None:
        """Close the files; gathered data that is not written is lost. Raises OSError if syncing fails."""
        self._hand_on(self.journal)
        if self._syncer is not None:
            self._syncer.close()
            self._syncer = None

    def _is_due(self) -> bool:
        return self._made_at is not None and self._clock() - self._made_at >= self._end_after_s

    def _write(self, journal: Journal) -> None:
        try:
            ended = journal.write()
        except OSError:
            if self._made_at is None and journal.is_made:
                self._made_at = self._clock()
            if journal.is_over:
                ended, rest = journal.rest()
                self._note_written(journal, ended)
                self._hand_on(journal)
                self.journal = self._next(journal.number)
                self.journal.take_over(rest)
            raise
        if self._made_at is None:
            self._made_at = self._clock()
        self._note_written(journal, ended)

    def _note_written(self, journal: Journal, ended: list[PendingEnd]) -> None:
        self.newest = journal
        if self._sync.always or self._syncer is not None:
            self._marks.add(journal.path)
        for end in ended:
            self._ended(end, journal.number)

    def _hand_on(self, journal: Journal) -> None:
        if journal.is_made:
            journal.close()
            self.closed.append(ClosedJournal(journal.number, self._now_ms()))
            self._made_at = None

    def _next(self, number: int) -> Journal:
        return Journal(self._layout, frames.new_file(number + 1, self._store_id), self._describe)
