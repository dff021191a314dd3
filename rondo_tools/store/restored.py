"""The files that a restore leaves in a store's folder: files to move into place, and `incomplete`.

Strategy: a restore makes journals, cursors and `incomplete` in a folder `restore_ID`. A `state.json` with
this id commits them. They are moved afterwards, by the restore or at the next start.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping

import numpy as np

from rondo_tools import files
from rondo_tools.errors import StoreError
from rondo_tools.store.format.layout import JOURNALS, Layout
from rondo_tools.store.format.records import key_of
from rondo_tools.store.format.state import State
from rondo_tools.store.journal_view import JournalView

log = logging.getLogger(__name__)

_INCOMPLETE = np.dtype([("key", "<u8"), ("last_ms", "<i8")])  # of one session; without its name


def move_into_place(layout: Layout, state: State) -> None:
    """Move the files of the last restore into place if it was committed; else remove them.

    For the holder of the lock, at start-up and after the commit. Raises OSError.
    """
    for name in layout.restores():
        made = layout.restore(name)
        if name == state.restored:
            files.make_folder(layout.folder(JOURNALS))
            for number in made.numbers(JOURNALS):
                made.file(JOURNALS, number).replace(layout.file(JOURNALS, number))
            files.sync_folder(layout.folder(JOURNALS))
            for cursor in made.cursors():
                made.cursor(cursor).replace(layout.cursor(cursor))
            if made.incomplete.exists():
                made.incomplete.replace(layout.incomplete)
            if layout.incomplete.exists() and not layout.incomplete.stat().st_size:
                layout.incomplete.unlink()
            files.sync_folder(layout.path)
        shutil.rmtree(made.path)


def read_incomplete(layout: Layout) -> dict[int, tuple[int, int]]:
    """The sessions that were restored only in part, by `key_of`: the last tick before the restore, and the
    last one in journals now."""
    try:
        table = np.frombuffer(layout.incomplete.read_bytes(), _INCOMPLETE)
    except FileNotFoundError:
        return {}
    except ValueError as exc:
        log.warning("%s: damaged (%r); taken as empty", layout.incomplete, exc)
        return {}
    found = {key: (last_ms, last_ms) for key, last_ms in table.tolist()}
    for number in layout.numbers(JOURNALS):
        try:
            journal = JournalView(layout.file(JOURNALS, number))
        except (FileNotFoundError, StoreError):
            continue
        journal.update()
        mine = {key for key in journal.records if key_of(*key) in found}
        for key, tally in journal.tallies(mine):
            before_ms, ticks_ms = found[key_of(*key)]
            found[key_of(*key)] = before_ms, max(ticks_ms, tally.last_ms)
        journal.close()
    return found


def pack_incomplete(incomplete: Mapping[int, int]) -> bytes:
    """The content that `read_incomplete` reads; empty for no sessions."""
    return np.array(sorted(incomplete.items()), _INCOMPLETE).tobytes()
