"""What an endpoint would not take: a file of JSON lines beside the cursor, bounded in size.

    {"at_ms": ..., "series": "name{...}", "from_ms": ..., "through_ms": ..., "samples": 12,
     "unclear": false, "answer": "the server's own words"}

Strategy: append; when the file is full it becomes `.1`, in the place of an older one. It is for
people: a line that cannot be written is said, and stops nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MAX_BYTES = 1 << 20  # of each of the two files

log = logging.getLogger(__name__)


class DeadLetters:
    """The file of one cursor."""

    def __init__(self, store: Path, cursor: str, max_bytes: int = MAX_BYTES) -> None:
        self.path = store / f"rejected_{cursor}.jsonl"
        self._max_bytes = max_bytes

    def add(self, items: Iterable[dict[str, Any]]) -> None:
        """Append a line for each item."""
        try:
            for item in items:
                line = json.dumps(item, ensure_ascii=False) + "\n"
                data = line.encode("utf-8", "replace")
                if self.path.exists() and self.path.stat().st_size + len(data) > self._max_bytes:
                    self.path.replace(self.path.with_suffix(".jsonl.1"))
                with self.path.open("ab") as file:
                    file.write(data)
        except OSError as exc:
            log.warning("%s: %s", self.path, exc.strerror)
