"""The progress of delivery: of each cursor of the store, and of each instance.

Strategy: lock, write and send nothing. The table of cursors is that of `rondo-query status`
(view.delivery); the table of instances needs the push's drain.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from rondo_tools.push.drain import AHEAD_MS, Drain
from rondo_tools.store.format.cursor import Progress
from rondo_tools.store.format.opened import OpenedStore
from rondo_tools.view import delivery
from rondo_tools.view.table import iso

log = logging.getLogger(__name__)


def cursors(store: OpenedStore, now_ms: int) -> dict[str, list[Any]]:
    """The table of cursors, by column."""
    found = delivery.deliveries(store, now_ms)
    for one in found:
        if one.error:
            log.warning("%s: cannot be read (%s)", store.layout.cursor(one.cursor), one.error)
    return delivery.columns_of(found)


def instances(drain: Drain, progress: Progress, now_ms: int) -> dict[str, list[Any]]:
    """The table of instances in the journals, by column: delivered up to, newest tick, seconds between
    them, and seconds by which its delivered samples are ahead of this clock."""
    found = list(lines(drain, progress, now_ms))
    return {
        "instance": [instance for instance, *_ in found],
        "delivered": [iso(delivered_ms) for _, delivered_ms, _ in found],
        "newest": [iso(newest_ms) for *_, newest_ms in found],
        "behind_s": [_behind_s(delivered_ms, newest_ms) for _, delivered_ms, newest_ms in found],
        "ahead_s": [_ahead_s(delivered_ms, now_ms) for _, delivered_ms, _ in found],
    }


def _behind_s(delivered_ms: int, newest_ms: int) -> float | None:
    behind_ms = max(0, newest_ms - delivered_ms)
    return behind_ms / 1000 if delivered_ms or not behind_ms else None


def _ahead_s(delivered_ms: int, now_ms: int) -> float:
    """Until then its ticks are passed over."""
    ahead_ms = delivered_ms - now_ms
    return ahead_ms / 1000 if ahead_ms > AHEAD_MS else 0.0


def lines(drain: Drain, progress: Progress, now_ms: int) -> Iterator[tuple[str, int, int]]:
    """(instance, delivered up to, newest tick) of each instance in the cursor's tier, in ms; 0: never."""
    stretch = drain.next(Progress(store=progress.store, tier=progress.tier), now_ms)
    if stretch is None:
        return
    with stretch:
        newest_ms = stretch.line()
    delivered_ms = newest_ms | _line_at(drain, progress, newest_ms, now_ms)
    for instance, t_ms in sorted(newest_ms.items()):
        yield instance, min(delivered_ms[instance], t_ms), t_ms


def _line_at(drain: Drain, progress: Progress, instances: Iterable[str], now_ms: int) -> dict[str, int]:
    """The time up to which each instance is delivered; fully delivered instances may be missing."""
    if progress.begin is None:
        return dict.fromkeys(instances, 0)
    progress = replace(progress, end=None, slice=0, done=0)
    rest = drain.next(progress, now_ms)
    if rest is None:
        return {}
    with rest:
        if progress.tier or progress.coarse is not None:
            return dict.fromkeys(instances, progress.time_ms)  # coarse files do not have it for each
        return rest.line_before()
