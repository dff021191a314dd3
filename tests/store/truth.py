"""What may be served of a session that was killed, damaged or copied: the truth about what is left."""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from functools import cache

from ring_model import bits, roll_up

from rondo_tools.catalog import Series
from rondo_tools.store.reader import Session
from rondo_tools.store.tiers import Tier
from rondo_tools.stream import Tick


class Truth:
    """What may be served of a session whose ticks are `everything`."""

    def __init__(self, series: Sequence[Series], tiers: Sequence[Tier], everything: Sequence[Tick]) -> None:
        self._series, self._tiers = series, tiers
        self._ticks = {one.t_ms: one.values for one in everything}
        self._windows: list[dict[int, list[int]]] = []
        for tier in tiers:
            windows: dict[int, list[int]] = {}
            for t_ms in self._ticks:
                windows.setdefault(t_ms // tier.interval_ms, []).append(t_ms)
            self._windows.append(windows)

    def check(self, session: Session, before: Collection[int] = ()) -> set[int]:
        """Ticks as they were sent; coarse rows of all of their window, or of what is left of it.

        `before` are times that were left when it may have been rolled up. Returns what is left now.
        """
        rows = session.rows()
        served = {t_ms: row.tobytes() for t_ms, row in zip(rows.t_ms.tolist(), rows.values, strict=True)}
        assert served.items() <= self._ticks.items()
        left = served.keys() | before
        for number in range(1, len(self._tiers)):
            coarse = session.rows(number)
            for t_ms, row in zip(coarse.t_ms.tolist(), coarse.values, strict=True):
                window = self._windows[number][t_ms // self._tiers[number].interval_ms]
                whole = t_ms == window[-1] and row.tobytes() == self._rolled_up(tuple(window))
                assert whole or row.tobytes() == self._rolled_up(tuple(t for t in window if t in left))
        return set(left)

    @cache  # noqa: B019  (as long as the test that made it)
    def _rolled_up(self, times: tuple[int, ...]) -> bytes:
        width = f"<{len(self._series)}d"
        return bits(roll_up(self._series, [struct.unpack(width, self._ticks[t]) for t in times]))
