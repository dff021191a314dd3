"""The health of the store and of its deliveries for the page, each with a word: not everyone sees colours.

Strategy: a check costs more than a second of the fleet, and little changes: its result is used for ten
seconds.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rondo_tools.errors import StoreError
from rondo_tools.units import format_duration, format_size
from rondo_tools.view.delivery import Delivery
from rondo_tools.view.health import Health, health

EVERY_S = 10.0
SLOW_MS, LATE_MS = 30_000, 300_000  # limits for a delivery every ten seconds

GOOD, PLAIN, WARN, BAD = "good", "plain", "warn", "bad"
Item = dict[str, Any]


class HealthWatch:
    """Checks the store at `path`, at most every EVERY_S."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._at_s = -EVERY_S
        self._items: list[Item] = []

    def items(self, now_ms: int) -> list[Item]:
        if time.monotonic() - self._at_s >= EVERY_S:
            self._at_s = time.monotonic()
            try:
                found = health(self._path, now_ms)
                self._items = [_store(found, now_ms), *map(_delivery, found.deliveries)]
                if not found.deliveries:
                    self._items.append(
                        _item("delivery", PLAIN, "none", "nothing was delivered from this store yet")
                    )
            except (StoreError, OSError) as exc:
                self._items = [_item("store", BAD, "unreadable", str(exc))]
        return self._items


def _item(what: str, level: str, word: str, text: str = "") -> Item:
    return {"what": what, "level": level, "word": word, "text": text}


def _store(found: Health, now_ms: int) -> Item:
    """The worst problem of the store."""
    disk = f"{format_size(found.used_bytes)} used, {format_size(found.free_bytes)} free"
    if found.damage:
        return _item(
            "store", BAD, "damaged", f"{len(found.damage)} places, see rondo-query STORE check; {disk}"
        )
    if found.writer.is_alive is False:
        ago = format_duration(max(0, now_ms - found.writer.written_ms) // 1000 * 1000)
        return _item("store", WARN, "nobody writes", f"last written {ago} ago; {disk}")
    refused = {
        result: int(found.counts.get(f'store_ticks_total{{result="{result}"}}', 0))
        for result in ("ahead", "expired")
    }
    if any(refused.values()):
        counts = ", ".join(f"{count} {result}" for result, count in refused.items() if count)
        return _item("store", WARN, "refuses ticks", f"{counts}; {disk}")
    if found.evictions:
        return _item("store", WARN, "evicted files", f"{len(found.evictions)} for lack of space; {disk}")
    return _item("store", GOOD, "written", disk)


def _delivery(one: Delivery) -> Item:
    what = f"delivery {one.cursor}"
    rejected = f"{one.rejected} samples rejected" if one.rejected else ""
    if one.error:
        return _item(what, BAD, "damaged", one.error)
    if one.behind_ms is None:
        return _item(what, WARN, "unknown", rejected)
    behind = f"{one.behind_ms / 1000:.0f} s behind" + (f" with {one.instance}" if one.instance else "")
    if one.behind_ms > LATE_MS:
        return _item(what, BAD, "late", behind)
    if one.behind_ms > SLOW_MS or one.rejected:
        return _item(what, WARN, "slow" if one.behind_ms > SLOW_MS else "rejected", rejected or behind)
    return _item(what, GOOD, "up to date", "" if not one.behind_ms else behind)
