"""Makes stores for benches: sessions written like rondo-store does, without a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rondo_tools import clock
from rondo_tools.store.folder import Folder
from rondo_tools.store.keeper import Keeper
from rondo_tools.stream import End, Header

_PIECE = 10_000  # ticks written at once


class Life(NamedTuple):
    """A session: `t_ms` (n,), `values` (n, series); `end` is its reason, None while it lives."""

    header: Header
    t_ms: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    end: str | None = None


def fill(path: Path, lives: Iterable[Life], now_ms: Callable[[], int] | None = None) -> None:
    """Write sessions into the store at `path`, one after another; `now_ms` is the store's clock."""
    with Keeper(Folder(path), now_ms=now_ms or clock.now_ms) as keeper:
        for life in lives:
            session = keeper.begin(life.header)
            for at in range(0, len(life.t_ms), _PIECE):
                keeper.extend(session, life.t_ms[at : at + _PIECE], life.values[at : at + _PIECE])
                keeper.gathered += life.values[at : at + _PIECE].nbytes
                keeper.bound_turn()
            if life.end is not None:
                keeper.end(session, End(life.end, int(life.t_ms[-1])))
        keeper.flush()
