"""Keeps a store open, as long as it is the same one.

Strategy: a store that was removed and created again, or restored, is another one at the same path, and cached
knowledge of the first one's files would be wrong. So store.json, which is small, is read each time.
"""

from __future__ import annotations

from pathlib import Path

from rondo_tools.store.reader import Store


class Opened:
    """The store at `path`. Not thread-safe. Raises StoreError if there is none."""

    def __init__(self, path: str | Path) -> None:
        self._store = Store(path)

    def store(self) -> Store:
        """The same object as before, unless the store was replaced. Raises StoreError if there is none."""
        now = Store(self._store.path)
        if now.store_id != self._store.store_id:
            self._store = now
        return self._store
