"""All cursors of a store: the position of each delivery, and the journals that stay for it.

Strategy: the store keeps journals by these rules, and a push reports by the same rules what its cursors keep.
A cursor is active if a push held it in the last hour: a push touches the file even if it has nothing to
deliver.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from rondo_tools.store.format.cursor import Progress, parse_progress
from rondo_tools.store.format.layout import Layout
from rondo_tools.store.format.tiers import Tier

ACTIVE_MS = 3_600_000
NO_JOURNAL = 1 << 62


class CursorPosition(NamedTuple):
    """The position of a delivery, in `journal`: the journals before it are dealt with.

    `journal` 0: nothing was delivered. NO_JOURNAL: it is a cursor of a coarser tier, and needs none.
    `held_ms` is when a push last held the cursor. `progress` None: it cannot be read because of `error`.
    """

    name: str
    journal: int
    held_ms: int
    progress: Progress | None = None
    error: str = ""

    def is_active(self, now_ms: int) -> bool:
        """Whether journals stay for it."""
        return now_ms - self.held_ms <= ACTIVE_MS


def find_cursors(layout: Layout, store_id: str) -> Iterator[CursorPosition]:
    """The cursors of the store with this id, by name. One that cannot be read has delivered nothing."""
    for name in layout.cursors():
        path, held_ms = layout.cursor(name), 0
        try:
            held_ms = path.stat().st_mtime_ns // 1_000_000
            progress, _ = parse_progress(path.read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as exc:
            why = exc.strerror if isinstance(exc, OSError) else None
            yield CursorPosition(name, 0, held_ms, error=why or str(exc))
        else:
            yield CursorPosition(name, _journal(progress, store_id), held_ms, progress)


def _journal(progress: Progress, store_id: str) -> int:
    if progress.tier:
        return NO_JOURNAL
    return progress.begin.number if progress.begin is not None and progress.store == store_id else 0


def hold_ms(tiers: tuple[Tier, ...]) -> int:
    """The longest time that a closed journal stays for a cursor or a live session."""
    return tiers[min(1, len(tiers) - 1)].span_ms


def may_stay(closed_ms: Mapping[int, int], tiers: tuple[Tier, ...], now_ms: int) -> list[int]:
    """The rolled-up journals that stay only while they are needed: older than their tier's span, and younger
    than `hold_ms`."""
    least, most = tiers[0].span_ms, hold_ms(tiers)
    return [number for number, at_ms in closed_ms.items() if least < now_ms - at_ms <= most]
