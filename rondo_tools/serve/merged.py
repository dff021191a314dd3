"""Merges the lives of an instance into one line of time.

Strategy: the same rules as rondo-push (`prom.lives`) for the order, the rows left out and the markers of
ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from rondo_tools.prom.lives import in_order, is_marked, marker_ms
from rondo_tools.store.reader import Piece, Session


class Life(NamedTuple):
    session: Session
    pieces: list[Piece]


def has_marker(life: Life, starts_ms: list[int], end_ms: int) -> bool:
    """Whether a life's end is marked in a range up to `end_ms`, with all lives' starts in `starts_ms`."""
    session = life.session
    return (
        session.end is not None
        and bool(life.pieces)
        and int(life.pieces[-1].t_ms[-1]) == session.last_ms
        and marker_ms(session.last_ms) <= end_ms
        and is_marked(session.start_ms, session.last_ms, starts_ms)
    )


def merged(lives: list[Life], marked: list[bool]) -> Iterator[tuple[int, Piece, slice | None]]:
    """The rows of an instance's lives as one line of time: the life's index, a piece, and a slice of its
    rows;
    None for the marker of its end."""
    if len(lives) == 1:
        for piece in lives[0].pieces:
            yield 0, piece, slice(0, piece.t_ms.size)
        if marked[0]:
            yield 0, lives[0].pieces[-1], None
        return
    parts = [(at, piece, False) for at, life in enumerate(lives) for piece in life.pieces]
    parts += [(at, lives[at].pieces[-1], True) for at, is_so in enumerate(marked) if is_so]
    if not parts:
        return
    sizes = [1 if is_end else piece.t_ms.size for _, piece, is_end in parts]
    which = np.repeat(np.arange(len(parts)), sizes)
    start_ms = np.array([lives[at].session.start_ms for at, _, _ in parts], np.int64)[which]
    is_marker = np.array([is_end for _, _, is_end in parts], np.bool_)[which]
    ends_ms = [np.array([marker_ms(int(piece.t_ms[-1]))], np.int64) for _, piece, _ in parts]
    t_ms = np.concatenate(
        [end if is_end else piece.t_ms for (_, piece, is_end), end in zip(parts, ends_ms, strict=True)]
    )
    row = np.concatenate([np.arange(size) for size in sizes])
    order = in_order(np.zeros(t_ms.size, np.intp), start_ms, t_ms, is_marker, np.full(t_ms.size, -1))
    which, row = which[order], row[order]
    begins = np.flatnonzero((np.diff(which, prepend=-1) != 0) | (np.diff(row, prepend=-1) != 1)).tolist()
    for first, last in zip(begins, [*begins[1:], order.size], strict=True):
        at, piece, is_end = parts[int(which[first])]
        yield at, piece, None if is_end else slice(int(row[first]), int(row[last - 1]) + 1)
