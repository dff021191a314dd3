"""Dead letters, the samples that an endpoint refused: a file of JSON lines of bounded size.

    {"at_ms": ..., "series": "name{...}", "from_ms": ..., "through_ms": ..., "samples": 12,
     "unclear": false, "answer": "the server's own words"}

Strategy: append; a full file is renamed to `.1` and replaces the older one. The file is for people, so a
failed write is logged and stops nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rondo_tools.push.piece import Refusal, Result
from rondo_tools.store.format.layout import Layout
from rondo_tools.units import format_count

SHOWN = 5  # refusals of one batch in the log
MAX_BYTES = 1 << 20  # of each of the two files

log = logging.getLogger(__name__)


class DeadLetters:
    """The file of one cursor."""

    def __init__(self, store: Path, cursor: str, max_bytes: int = MAX_BYTES) -> None:
        layout = Layout(store)
        self.path = layout.dead_letters(cursor)
        self._before = layout.dead_letters_before(cursor)
        self._max_bytes = max_bytes

    def add(self, items: Iterable[dict[str, Any]]) -> None:
        """Append a line for each item."""
        try:
            for item in items:
                line = json.dumps(item, ensure_ascii=False) + "\n"
                data = line.encode("utf-8", "replace")
                if self.path.exists() and self.path.stat().st_size + len(data) > self._max_bytes:
                    self.path.replace(self._before)
                with self.path.open("ab") as file:
                    file.write(data)
        except OSError as exc:
            log.warning("%s: %s", self.path, exc.strerror)


class Report:
    """Reports the refusals of one batch: a line in the file for each series, the first few in the log.

    A series is refused sample by sample; its line is written when another series is refused, or at the end.
    """

    def __init__(self, letters: DeadLetters, now_ms: Callable[[], int]) -> None:
        self._letters = letters
        self._now_ms = now_ms
        self._pending: Refusal | None = None
        self._reported = 0

    def add(self, refusal: Refusal) -> None:
        last = self._pending
        if last is not None and (last.series, last.result) == (refusal.series, refusal.result):
            self._pending = replace(
                last,
                from_ms=min(last.from_ms, refusal.from_ms),
                through_ms=max(last.through_ms, refusal.through_ms),
                samples=last.samples + refusal.samples,
            )
            return
        self._report()
        self._pending = refusal

    def end(self) -> None:
        """Report the last refusal."""
        self._report()
        if self._reported > SHOWN:
            more = format_count(self._reported - SHOWN, "refusal")
            log.warning("... and %s more; %s has them", more, self._letters.path)

    def _report(self) -> None:
        refusal, self._pending = self._pending, None
        if refusal is None:
            return
        self._letters.add(
            [
                {
                    "at_ms": self._now_ms(),
                    "series": refusal.series,
                    "from_ms": refusal.from_ms,
                    "through_ms": refusal.through_ms,
                    "samples": refusal.samples,
                    "unclear": refusal.result is Result.UNCLEAR,
                    "answer": refusal.words,
                }
            ]
        )
        self._reported += 1
        if self._reported <= SHOWN:
            log.warning(
                "passed over %s of %s from %d ms on: %s",
                format_count(refusal.samples, "sample"),
                refusal.series,
                refusal.from_ms,
                refusal.words,
            )
