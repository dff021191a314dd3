"""Where the pushes of a store stand, as far as its journals are concerned."""

from __future__ import annotations

import logging
from pathlib import Path

from rondo_tools.store.format.cursor import parse_progress
from rondo_tools.store.format.layout import Layout
from rondo_tools.store.housekeeping import CursorPosition

log = logging.getLogger(__name__)


class Cursors:
    """Reads the cursor files of the store whose id is `store_id`."""

    def __init__(self, layout: Layout, store_id: bytes) -> None:
        self._layout, self._store = layout, store_id.hex()
        self._warned: set[Path] = set()

    def __call__(self) -> list[CursorPosition]:
        """A cursor that cannot be read has delivered nothing; one of a coarser tier needs no journal."""
        found = []
        for name in self._layout.cursors():
            path, journal = self._layout.cursor(name), 0
            try:
                held_ms = path.stat().st_mtime_ns // 1_000_000
                progress, _ = parse_progress(path.read_bytes())
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as exc:
                if path not in self._warned:
                    self._warned.add(path)
                    log.warning("%s: cannot be read (%s); it counts as having delivered nothing", path, exc)
            else:
                if progress.tier:
                    continue
                if progress.begin is not None and progress.store == self._store:
                    journal = progress.begin.number
            found.append(CursorPosition(name, journal, held_ms))
        return found
