"""Warnings of which somebody may cause any number: the first of each kind are said, the rest counted.

Strategy: a kind has so many lines in a minute; at its end one more line says how many were left out.
So a producer that connects in a loop, and is cut off each time, does not fill the journal.
"""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)

EVERY_S = 60.0
LINES = 10  # of a kind, in that time


class Complaints:
    """Says what is wrong, so often and no more. `next_minute` is to be called every `EVERY_S`."""

    def __init__(self) -> None:
        self._said: dict[str, int] = {}

    def say(self, kind: str, text: str) -> None:
        """Warn, or count what is left out."""
        self._said[kind] = said = self._said.get(kind, 0) + 1
        if said <= LINES:
            log.warning("%s", text)

    def next_minute(self) -> None:
        """Say what was left out, and begin anew."""
        for kind, said in self._said.items():
            if said > LINES:
                log.warning("%s: %d more in the last minute, not shown", kind, said - LINES)
        self._said.clear()
