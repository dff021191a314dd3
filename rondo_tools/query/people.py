"""A list of sessions for people: the columns of `life`, fewer and shorter."""

from __future__ import annotations

from rondo_tools.query.face import Face
from rondo_tools.query.life import Columns
from rondo_tools.view import cells
from rondo_tools.view.state import RUNNING
from rondo_tools.view.table import LEAST, Column, Page


def columns(lives: Columns, face: Face, page: Page) -> list[Column]:
    """The columns of `lives`, whose times are Unix milliseconds."""
    lived = [
        cells.span(max(0, (last or start) + (1000 * age_s if state == RUNNING else 0) - start))
        for start, last, age_s, state in zip(
            lives["session"], lives["last"], lives["age_s"], lives["state"], strict=True
        )
    ]
    seen = [
        None if last is None else cells.ago(1000 * age_s)
        for last, age_s in zip(lives["last"], lives["age_s"], strict=True)
    ]
    started = "started" if face.local else "started (UTC)"
    return [
        Column("instance", [page.name(one) for one in lives["instance"]], least=LEAST),
        Column("state", lives["state"], least=LEAST),
        Column(started, clock_times(lives["session"], face)),
        Column("lived", lived, right=True),
        Column("last seen", seen, right=True),
        Column("ticks", [str(one) for one in lives["ticks"]], right=True),
    ]


def clock_times(t_ms: list[int], face: Face) -> list[str]:
    """``2026-11-23 10:00:00``, in local time or UTC; read and list accept it."""
    return [time[:19].replace("T", " ") for time in face.times(t_ms)]
