"""A store that is kept open, as long as it is the same one.

Strategy: a store that was removed and made anew, or restored, is another one at the same path: what is
known of the files of the first would be mixed with those of the second. So store.json, which is small, is
read each time.
"""

from __future__ import annotations

from pathlib import Path

from rondo_tools.store.reader import Store


class Opened:
    """The store at `path`. Not for several threads at once. Raises StoreError if there is none."""

    def __init__(self, path: str | Path) -> None:
        self._store = Store(path)

    def store(self) -> Store:
        """The same as before, unless another one stands there now. Raises StoreError if there is none."""
        now = Store(self._store.path)
        if now.store_id != self._store.store_id:
            self._store = now
        return self._store
