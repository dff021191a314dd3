"""Warns of evicted files, if a question's range includes their ticks.

Strategy: the store keeps a list of evicted files, with the times of their ticks. A command with a range that
includes such times logs a warning, one per tier, and shows what there is.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from rondo_tools.query.face import UTC, Face
from rondo_tools.query.names import counted
from rondo_tools.query.times import Span
from rondo_tools.store.reader import Eviction, Store
from rondo_tools.units import format_size

log = logging.getLogger(__name__)


def warn(store: Store, span: Span, tiers: Collection[int], face: Face = UTC) -> None:
    """Log the evicted files of these tiers that had ticks in `span`."""
    found: dict[int, list[Eviction]] = {}
    for one in store.evictions:
        is_after = span.end_ms is not None and one.from_ms > span.end_ms
        is_before = span.start_ms is not None and one.to_ms < span.start_ms
        if one.to_ms and not is_after and not is_before and one.tier in tiers:
            found.setdefault(one.tier, []).append(one)
    for tier, some in sorted(found.items()):
        undelivered = sum(not one.delivered for one in some)
        log.warning(
            "evicted for lack of space: %s of tier %d, %s, with ticks from %s to %s%s",
            counted(len(some), "file"),
            tier,
            format_size(sum(one.bytes for one in some)),
            face.time(min(one.from_ms for one in some)),
            face.time(max(one.to_ms for one in some)),
            f"; {undelivered} not delivered by every push" if undelivered else "",
        )
