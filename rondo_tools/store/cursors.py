"""The positions of a store's pushes, for housekeeping: read at each look."""

from __future__ import annotations

import logging

from rondo_tools.store.format.cursors import CursorPosition, find_cursors
from rondo_tools.store.format.layout import Layout

log = logging.getLogger(__name__)


class Cursors:
    """Reads the cursor files of the store whose id is `store_id`."""

    def __init__(self, layout: Layout, store_id: bytes) -> None:
        self._layout, self._store = layout, store_id.hex()
        self._warned: set[str] = set()

    def __call__(self) -> list[CursorPosition]:
        """A cursor that cannot be read causes one warning."""
        found = list(find_cursors(self._layout, self._store))
        for one in found:
            if one.error and one.name not in self._warned:
                self._warned.add(one.name)
                log.warning(
                    "%s: cannot be read (%s); it counts as having delivered nothing",
                    self._layout.cursor(one.name), one.error,
                )  # fmt: skip
        return found
